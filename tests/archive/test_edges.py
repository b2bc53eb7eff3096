"""Edges, Redis shards, an archiver and PostgreSQL, put together as a cluster is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest

from archive.database import Cluster
from archive.shards import Archivers, eventually
from functions.server import PRODUCTS
from remote.cluster import running_cluster as running_shards
from support.plainjson import plain_signed_in
from support.server import Server, serving
from support.sio import signed_in
from support.tokens import make_service_token, make_token

KEPT = 20
HELD = 400
SERVICE = {"Authorization": f"Bearer {make_service_token()}"}


@dataclass(frozen=True, slots=True)
class Stage:
    """Two edges of a cluster that keeps few messages hot, and its archive."""

    edges: list[Server]
    archivers: Archivers
    url: str

    def archived(self) -> int:
        """Count the messages of the archive."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute("SELECT count(*) FROM roomful.message").fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def stage(tmp_path: Path, cluster: Cluster, database: str) -> Iterator[Stage]:
    """A running cluster; nobody archives yet."""
    url = cluster.url(database)
    with ExitStack() as stack:
        shards = stack.enter_context(running_shards(PRODUCTS[0], tmp_path / "shards", shards=2))
        settings = {
            **shards.settings,
            "archive_url": url,
            "archive_outbox_entries": str(HELD),
            "log_messages_per_room": str(KEPT),
            "state_dir": "",
        }
        edges = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            edges.append(stack.enter_context(serving(tmp_path / name, settings=settings)))
        archivers = Archivers(tmp_path, {"url": url, "shards": shards.urls})
        yield Stage(edges, archivers, url)
        archivers.end()


async def test_history_and_resume_go_through_the_archive(stage: Stage) -> None:
    """
    On another edge: a client that missed more than the logs keep gets all of it, and pages too.

    Logs on Redis keep up to a node of a stream more than they are asked to.
    """
    first, second = stage.edges
    stage.archivers.start()
    count = 15 * KEPT
    async with plain_signed_in(first.ws_url, make_token("bob")) as old:
        await old.call("join-room", roomId="lobby")
        await old.call("message", roomId="lobby", content="before")
        cursor = (await old.next("message"))["cursor"]
    async with signed_in(first.ws_url, make_token("alice")) as sender:
        await sender.join("lobby")
        offsets = [(await sender.say("lobby", number))["offset"] for number in range(count)]
    eventually(lambda: stage.archived() == count + 1, stage.archivers.log)
    async with plain_signed_in(second.ws_url, make_token("bob")) as new:
        ack = await new.call("resume", cursor=cursor, rooms=["lobby"])
        assert ack["recovered"], ack
        heard = [(await new.next("message"))["content"] for _ in range(count)]
    assert heard == list(range(count))
    seen: list[object] = []
    before: int | None = None
    async with httpx.AsyncClient(base_url=second.url, headers=SERVICE, timeout=30) as rest:
        while True:
            query = {"limit": 70} | ({} if before is None else {"before": before})
            page = (await rest.get("/api/rooms/lobby/history", params=query)).json()
            seen = [message["content"] for message in page["messages"]] + seen
            before = page["next"]
            if before is None:
                break
        assert seen == ["before", *range(count)]
        erased = await rest.delete(f"/api/rooms/lobby/messages/{offsets[5]}")
        assert erased.json() == {"success": True, "messages": 1}
        erased = await rest.delete("/api/users/alice/messages")
        assert erased.json() == {"success": True, "messages": count - 1}
        page = (await rest.get("/api/rooms/lobby/history")).json()
    assert [message["content"] for message in page["messages"]] == ["before"]
    assert stage.archived() == 1


async def test_publishes_wait_for_an_archive_that_lags(stage: Stage) -> None:
    """
    While nobody archives, a required room is refused with a retryable code once the outbox is full.

    With an archiver it goes on, and what was acknowledged is archived once.
    """
    acked = 0
    async with signed_in(stage.edges[0].ws_url, make_token("alice")) as sender:
        await sender.join("lobby")
        for number in range(1000):
            fields = {"roomId": "lobby", "content": number, "id": f"n{number}"}
            ack = await sender.call("message", fields)
            if not ack["success"]:
                break
            acked += 1
        assert acked == HELD
        assert (ack["error"]["code"], ack["error"]["retryable"]) == ("ARCHIVE_LAGGING", True)
        eventually(partial(_says_full, stage.edges[1]), "the other edge's metric")
        stage.archivers.start()
        eventually(lambda: stage.archived() == acked, stage.archivers.log)
        ack = await sender.call("message", fields)
        assert ack["success"], ack
    eventually(partial(_has, stage, acked + 1), stage.archivers.log)


def _says_full(edge: Server) -> bool:
    text = httpx.get(f"{edge.url}/metrics").text
    return any(
        line.startswith("roomful_outbox_used_ratio{") and float(line.split()[-1]) >= 1
        for line in text.splitlines()
    )


def _has(stage: Stage, count: int) -> bool:
    return stage.archived() == count
