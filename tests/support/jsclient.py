"""The stock JavaScript client in a Node process, driven line by line (tests/clients_js)."""

from __future__ import annotations

import asyncio
import itertools
import json
from asyncio.subprocess import PIPE, Process
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.deadline import DEADLINE_S, within
from support.event import Event
from support.inbox import Inbox

__all__ = ["JsClient", "js_client"]

_SCRIPTS = Path(__file__).parent.parent / "clients_js"
_LINE_BYTES = 16 << 20


class JsClient:
    """One client; what its own handlers report waits in `reports`, events in `inbox`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.reports: Inbox[dict[str, Any]] = Inbox()
        self.inbox: Inbox[Event] = Inbox()
        self._numbers = itertools.count()
        self._acks: dict[int, asyncio.Future[list[Any]]] = {}

    async def do(self, verb: str, **fields: Any) -> None:
        """Send one command to the script."""
        assert self.process.stdin is not None
        self.process.stdin.write(_pack({"do": verb} | fields))
        await self.process.stdin.drain()

    async def emit(self, name: str, *args: Any) -> None:
        """Emit without an ack."""
        await self.do("emit", args=[name, *args])

    async def start_call(self, name: str, *args: Any) -> asyncio.Future[list[Any]]:
        """Emit with an ack callback; the future is what the callback got."""
        number = next(self._numbers)
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._acks[number] = answer
        await self.do("emit", args=[name, *args], ack=number)
        return answer

    async def call(self, name: str, *args: Any) -> Any:
        """Emit and return the one argument of the ack."""
        (answer,) = await within(await self.start_call(name, *args))
        return answer

    async def report(self, kind: str, *, seconds: float = DEADLINE_S) -> dict[str, Any]:
        """Take the next report of that kind: connect, disconnect, connect_error, upgrade."""
        return await self.reports.next(kind, seconds=seconds)

    async def first_report(self, *kinds: str) -> tuple[str, dict[str, Any]]:
        """Take the first report of any of *kinds*."""
        return await self.reports.next_of(*kinds)

    async def next(self, name: str, *, seconds: float = DEADLINE_S) -> Event:
        """Take the next event of that name."""
        return await self.inbox.next(name, seconds=seconds)

    async def read(self) -> None:
        """Take what the script says until it ends."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self._receive(json.loads(line, object_hook=_unpack_object))
        self.reports.end("the script ended")
        self.inbox.end("the script ended")

    def _receive(self, report: dict[str, Any]) -> None:
        match report["on"]:
            case "event":
                self.inbox.put(report["name"], Event(report["name"], report["args"]))
            case "ack":
                self._acks.pop(report["number"]).set_result(report["args"])
            case kind:
                self.reports.put(kind, report)


def _pack(command: dict[str, Any]) -> bytes:
    """One line for the script; bytes go as {"$bytes": base64}."""

    def pack_bytes(value: object) -> dict[str, str]:
        assert isinstance(value, bytes), value
        return {"$bytes": b64encode(value).decode()}

    return json.dumps(command, default=pack_bytes).encode() + b"\n"


def _unpack_object(value: dict[str, Any]) -> Any:
    return b64decode(value["$bytes"]) if value.keys() == {"$bytes"} else value


@asynccontextmanager
async def js_client(url: str, auth: dict[str, Any], **options: Any) -> AsyncIterator[JsClient]:
    """
    Start a client of *url*; *options* are those of io(), with a fast reconnect unless given.

    It is not awaited that it connects: take the report "connect" or "connect_error".
    """
    if not (_SCRIPTS / "node_modules").is_dir():
        pytest.fail("the stock client is not installed: run `npm ci` in tests/clients_js")
    fast = {"reconnectionDelay": 20, "reconnectionDelayMax": 200, "forceNew": True}
    setup = json.dumps({"url": url, "auth": auth, "options": fast | options})
    process = await asyncio.create_subprocess_exec(
        "node", str(_SCRIPTS / "client.mjs"), setup, stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES
    )
    client = JsClient(process)
    reader = asyncio.create_task(client.read())
    try:
        yield client
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await within(process.wait())
        except TimeoutError:
            process.kill()
            await process.wait()
        await asyncio.wait([reader])
