"""A disk that is full, as the system says it: no file may grow beyond a size."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx

from support.server import Server, serving, start
from support.sio import SocketIo, signed_in
from support.tokens import make_token

ROOM = "room"
BLOCKS = 1000
"""Of 512 bytes, as `ulimit -f` counts."""
CONTENT = "x" * 5000
MESSAGES = 500


def full_disk() -> tuple[str, ...]:
    """Give the program that runs `roomful` where no file can be larger."""
    roomful = str(Path(sys.executable).parent / "roomful")
    return ("sh", "-c", f'ulimit -f {BLOCKS} && exec "$0" "$@"', roomful)


async def all_ids(client: SocketIo) -> list[str]:
    """Read the whole history, newest page first."""
    ids: list[str] = []
    before: int | None = None
    while True:
        page = await client.call("history", {"roomId": ROOM, "before": before, "limit": 100})
        ids = [message["id"] for message in page["messages"]] + ids
        before = page["next"]
        if before is None:
            return ids


async def all_metrics(server: Server) -> dict[str, float]:
    """Give the value of each metric."""
    async with httpx.AsyncClient() as http:
        lines = (await http.get(f"{server.url}/metrics")).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def test_what_was_acknowledged_before_a_full_disk_is_there_after_it(tmp_path: Path) -> None:
    """What does not fit is refused as retryable, log and metrics say so, a start has the rest."""
    token = make_token("ann")
    acked: list[str] = []
    with serving(tmp_path, program=full_disk()) as server:
        async with signed_in(server.ws_url, token) as client:
            await client.join(ROOM)
            for number in range(MESSAGES):
                message = {"roomId": ROOM, "content": CONTENT, "id": str(number)}
                ack = await client.call("message", message)
                if ack["success"]:
                    acked.append(str(number))
                else:
                    assert ack["error"]["code"] == "SHARD_UNAVAILABLE"
                    assert ack["error"]["retryable"] is True
        assert 0 < len(acked) < MESSAGES
        # No other edge would take them, and history is read: it is ready (docs/adr/0016).
        assert server.is_ready()
        metrics = await all_metrics(server)
        assert metrics['roomful_refusals_total{code="SHARD_UNAVAILABLE"}'] == MESSAGES - len(acked)
        assert metrics["roomful_journal_failures_total"] >= MESSAGES - len(acked)
        assert server.stop() == 0
        log = server.log.read_text()
    assert "batch not written why=File too large" in log
    assert "messages not moved why=" in log
    assert "Traceback" not in log
    assert "rollback" not in log
    again = start(tmp_path, port=server.port)
    try:
        async with signed_in(again.ws_url, token) as client:
            await client.join(ROOM)
            assert await all_ids(client) == acked
            await client.say(ROOM, "there is room again")
    finally:
        again.stop()
