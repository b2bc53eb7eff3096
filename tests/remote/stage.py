"""A shard on a real server, somebody who publishes on it, and readers that hear it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from functions.server import RunningServer
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS, bucket_of
from roomful.cluster.topology import Address
from roomful.shard.library import library_source
from roomful.shard.message import RoomId
from roomful.shard.reader import Reader, ReaderLimits
from roomful.shard.resp import RespConnection, connect, pack
from shard.recording import RecordingSink, make_envelope
from support.deadline import DEADLINE_S, eventually, within

__all__ = ["QUICK", "SHARD", "TERM", "Heard", "Stage", "key_of", "staged"]

TERM = 1
SHARD = ShardName("s1")

QUICK = ReaderLimits(canary_s=0.05, deaf_after_s=1.0, hold_s=DEADLINE_S)
"""Limits for tests that break connections: nothing there waits for long."""


def key_of(room: str) -> str:
    """Give the key of a room's log."""
    return f"{{{bucket_of(room)}}}l:{room}"


@dataclass(eq=False)
class Heard:
    """A reader that runs, and what its sink heard."""

    reader: Reader
    sink: RecordingSink = field(default_factory=RecordingSink)

    def bodies(self, room: str) -> list[str]:
        """Give the ids of what was delivered of *room*."""
        return [id_ for one in self.sink.delivered if one.room == room for id_ in one.ids]

    @property
    def offsets(self) -> list[int]:
        """Give the offsets of all that was delivered."""
        return [entry.offset for entry in self.sink.entries]

    async def until(self, room: str, name: str) -> None:
        """Wait until the message *name* was delivered in *room*."""

        async def was_delivered() -> bool:
            return name in self.bodies(room)

        await eventually(was_delivered, f"{name} in {room} is heard: {self.bodies(room)[-3:]}")

    async def until_live(self) -> None:
        """Wait until what comes is delivered as it comes."""

        async def is_live() -> bool:
            return self.reader.stream.is_live and not self.reader.is_deaf

        await eventually(is_live, "the stream is live")


class Stage:
    """One who publishes, and changes things behind a reader's back."""

    # Mutable state: the connection, and the term that is written in.
    def __init__(self, server: RunningServer, connection: RespConnection) -> None:
        self.server = server
        self.connection = connection
        self.term = TERM

    @property
    def address(self) -> Address:
        """Where the server is."""
        return Address("127.0.0.1", self.server.port)

    def via(self, port: int) -> Address:
        """Give the address of a proxy before the server."""
        return Address("127.0.0.1", port)

    async def call(self, *words: bytes | str | int) -> Any:
        """Send one command."""
        return await within(self.connection.call(*words))

    async def take_term(self, term: int) -> None:
        """Begin a term, with all buckets."""
        await self.call("FCALL", "roomful_v1_take_term", 0, SHARD, term)
        keys = [f"{{{bucket}}}b" for bucket in range(BUCKETS)]
        await self.call("FCALL", "roomful_v1_claim", BUCKETS, *keys, term, 1)
        self.term = term

    def _command(self, batch: dict[str, list[str]], size: int, keep: int) -> bytes:
        words: list[bytes | str | int] = [self.term, keep, 3_600_000, 300_000, 0, 0]
        for room, names in batch.items():
            words += [1, len(names)]
            for name in names:
                envelope = make_envelope(room, name, body=b"{" + b"x" * size)
                words += ["", 1, msgspec.msgpack.encode(envelope)]
        keys = [key_of(room) for room in batch]
        return pack("FCALL", "roomful_v1_publish", len(keys), *keys, *words)

    async def publish(
        self, batch: dict[str, list[str]], *, size: int = 1, keep: int = 5000
    ) -> list[int]:
        """Store messages by room, with their ids; gives their offsets."""
        answer: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self.connection.send(self._command(batch, size, keep), answer.set_result)
        offsets = await within(answer)
        assert isinstance(offsets, list), offsets
        assert all(isinstance(offset, int) for offset in offsets), offsets
        return offsets

    async def say(self, room: str, *names: str) -> list[int]:
        """Store messages of one room."""
        return await self.publish({room: list(names)})

    async def kill_readers(self) -> int:
        """Let the server cut all readers."""
        count = 0
        for line in (await self.call("CLIENT", "LIST")).decode().splitlines():
            words = dict(word.split("=", 1) for word in line.split())
            if words["name"].startswith("roomful-reader-"):
                count += await self.call("CLIENT", "KILL", "ID", words["id"])
        return count

    @asynccontextmanager
    async def hearing(
        self,
        *rooms: str,
        edge: str = "e1",
        limits: ReaderLimits = QUICK,
        address: Address | None = None,
    ) -> AsyncIterator[Heard]:
        """Run a reader that holds *rooms*."""
        sink = RecordingSink()
        heard = Heard(Reader(SHARD, edge, sink, limits=limits), sink)
        heard.reader.retarget(address or self.address, self.term)
        running = asyncio.create_task(heard.reader.run())
        try:
            async with asyncio.TaskGroup() as group:
                for room in rooms:
                    group.create_task(within(heard.reader.hold(RoomId(room))))
            yield heard
            assert not running.done(), running
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running


@asynccontextmanager
async def staged(server: RunningServer) -> AsyncIterator[Stage]:
    """Make the server a new shard."""
    connection = await connect(Address("127.0.0.1", server.port), timeout_s=DEADLINE_S)
    stage = Stage(server, connection)
    try:
        await stage.call("FLUSHALL")
        await stage.call("FUNCTION", "LOAD", "REPLACE", library_source())
        await stage.take_term(TERM)
        yield stage
    finally:
        connection.abort()
