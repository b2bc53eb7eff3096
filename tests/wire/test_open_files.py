"""An edge and the files that the system lets it open: each connection is one."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from support.rawsocket import RawSocket
from support.server import Server, serving
from support.sio import signed_in
from support.tokens import make_token

FEW = 120
CROWD = 200


def under(*limits: str) -> tuple[str, ...]:
    """Give the program that runs `roomful` under *limits*, as `ulimit` takes them."""
    words = " && ".join(f"ulimit {one}" for one in limits)
    roomful = str(Path(sys.executable).parent / "roomful")
    return ("sh", "-c", f'{words} && exec "$0" "$@"', roomful)


def soft_limit(server: Server) -> int:
    """Give how many files the server may open now."""
    lines = Path(f"/proc/{server.process.pid}/limits").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Max open files")).split()[3])


def test_a_low_limit_that_may_be_raised_is_raised(tmp_path: Path) -> None:
    """As far as the system allows: a shell's 1,024 are not the end."""
    with serving(tmp_path, program=under("-Sn 300", "-Hn 2000")) as server:
        assert soft_limit(server) == 2000


def test_no_more_files_are_allowed_than_are_needed(tmp_path: Path) -> None:
    """What `limits.connections` asks for, and some for the edge itself."""
    settings = {"limits_connections": "1000"}
    with serving(tmp_path, program=under("-Sn 300", "-Hn 2000"), settings=settings) as server:
        assert 1000 < soft_limit(server) < 2000


async def test_a_crowd_leaves_files_for_the_edge(tmp_path: Path) -> None:
    """Those above are refused with 503, the silent ones too, and who is in can store messages."""
    with serving(tmp_path, program=under(f"-n {FEW}")) as server:
        async with AsyncExitStack() as stack, signed_in(server.ws_url, make_token("ann")) as ann:
            await ann.join("room")
            crowd = [
                await stack.enter_async_context(RawSocket.dial(server.port)) for _ in range(CROWD)
            ]
            answers = await asyncio.gather(*(raw.wait_eof() for raw in crowd[FEW:]))
            assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answers)
            await ann.say("room", "stored")
        async with httpx.AsyncClient(base_url=server.url) as http:
            assert (await http.get("/readyz")).is_success
        async with signed_in(server.ws_url, make_token("bob")) as bob:
            await bob.join("room")
            page = await bob.call("history", {"roomId": "room"})
        assert [message["content"] for message in page["messages"]] == ["stored"]
        assert "Traceback" not in server.log_since(0)
