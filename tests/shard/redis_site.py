"""The shard on Redis, as an edge uses it, on a real server whose clock the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

from functions.calls import Calls
from functions.server import RunningServer, serving
from remote.cluster import address_of
from roomful.cluster.cursor import ShardName
from roomful.cluster.placement import BUCKETS
from roomful.cluster.topology import ShardRecord, Topology, encode_topology
from roomful.shard.base import Archived, Replay, Shard, Sink
from roomful.shard.batch import PublishRules
from roomful.shard.directory import Directory
from roomful.shard.library import library_source
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryLimits
from roomful.shard.message import RoomId
from roomful.shard.presence import PresenceLimits
from roomful.shard.redis import ShardOptions
from roomful.shard.redis_shards import RedisShards
from roomful.shard.resp import pack
from roomful.shard.users import Role, user_rules
from shard.clock import ClockLoop
from shard.site import Capability
from support.deadline import DEADLINE_S, within
from support.users import EDGE, USERS

__all__ = ["RedisSite", "shard_server"]

SHARD: Final = ShardName("s1")
TERM: Final = 1
MARKS: Final = "roomful:caught-up"
_numbers = count()


@contextmanager
def shard_server(product: str, directory: Path) -> Iterator[RunningServer]:
    """Run a server with the library; its logs are cut to the message, and not to the node."""
    with serving(product, directory, "--stream-node-max-entries", "1") as server:
        calls = server.connect()
        calls.command("FUNCTION", "LOAD", library_source())
        calls.command("ACL", "SETUSER", EDGE.username, *user_rules(Role.EDGE, USERS[Role.EDGE]))
        yield server


class OneShard(RedisShards):
    """Implements Shard: a cluster of one, whose rooms are found by their routes all the same."""

    @property
    def name(self) -> ShardName:
        """The logical name."""
        return SHARD

    def position(self) -> int:
        """Give how far the sink has heard."""
        return self.shards[SHARD].position()

    async def read(
        self,
        rooms: Mapping[RoomId, int],
        after: int,
        limit_bytes: int,
        upto: Mapping[RoomId, int] | None = None,
    ) -> Replay:
        """Read the shard."""
        return await self.shards[SHARD].read(rooms, after, limit_bytes, upto)

    async def archived(self) -> Archived:
        """Ask the shard."""
        return await self.shards[SHARD].archived()


class RedisSite:
    """
    The shard on a server of its own, empty for each test.

    The server's clock stands still but for pass_time(). What an edge does by its own clock is to
    renew its lease, which is long enough here, and to sweep each second: pass_time() sweeps too,
    as another edge would.
    """

    lacks: Mapping[Capability, str] = {
        Capability.BOUNDED_LOGS: "a server has maxmemory, for all that it keeps",
        Capability.BOUNDED_SESSIONS: "a server has maxmemory, for all that it keeps",
        Capability.ERASED_WITHOUT_TRACE: "an entry names the one before it, which seems to be lost",
        Capability.HEARD_BEFORE_SETTLED: "answers and stream come by different connections",
    }

    # Mutable state: the edges made so far, the options of the newest, and the marks heard.
    def __init__(self, server: RunningServer) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ClockLoop)
        loop.run_freely()
        self._server = server
        self._calls: Calls = server.connect()
        self._edges: list[OneShard] = []
        self._options = ShardOptions()
        self._marks: dict[bytes, asyncio.Event] = {}

    async def make(
        self,
        sink: Sink,
        *,
        log: LogLimits | None = None,
        presence: PresenceLimits | None = None,
        limits: MemoryLimits | None = None,
    ) -> Shard:
        """Make an empty shard, and an edge whose *sink* hears it."""
        self._calls.command("FLUSHALL")
        self._calls("take_term", [], SHARD, TERM)
        self._calls("claim", [f"{{{bucket}}}b" for bucket in range(BUCKETS)], TERM, 1)
        shards = {SHARD: ShardRecord(TERM, address_of(self._server), ())}
        topology = Topology(1, shards, (SHARD,) * BUCKETS, (1,) * BUCKETS, 0, is_fsynced=False)
        self._calls("set_topology", [], topology.generation, encode_topology(topology))
        limits = limits or MemoryLimits()
        self._options = ShardOptions(
            login=EDGE,
            presence=presence or PresenceLimits(),
            pending_bytes=limits.pending_bytes,
            rules=PublishRules(window_ms=int(limits.id_window_s * 1000)),
            call_timeout_s=DEADLINE_S,
            lease_s=86_400,
        )
        return await self._start(sink, log)

    async def _start(self, sink: Sink, log: LogLimits | None) -> Shard:
        log = log or LogLimits()
        rules = replace(
            self._options.rules, keep=log.messages_per_room, age_ms=int(log.age_s * 1000)
        )
        directory = Directory([address_of(self._server)], EDGE, find_s=DEADLINE_S)
        edge = OneShard(directory, f"edge{next(_numbers)}", replace(self._options, rules=rules))
        edge.attach(sink)
        edge.channels[MARKS.encode()] = lambda mark: self._marks.pop(mark).set()
        self._edges.append(edge)
        await edge.start()
        return edge

    def now(self) -> float:
        """Give the server's time of day."""
        return self._server.now_s

    async def pass_time(self, seconds: float) -> None:
        """Move the server's clock, and do what is due on the shard."""
        self._server.pass_time(seconds)
        presence = self._options.presence
        limits = 200, int(presence.grace_s * 1000), presence.list_limit
        while self._calls("sweep", [], TERM, *limits):
            pass
        await self.catch_up()

    async def catch_up(self) -> None:
        """Send marks behind all casts, by their ways, and wait for them and the newest offset."""
        shard = self._edges[-1].shards[SHARD]
        for lane in shard.lanes:
            mark = b"%d" % next(_numbers)
            heard = self._marks[mark] = asyncio.Event()
            lane.cast(pack("PUBLISH", MARKS, mark))
            await within(heard.wait())
        newest, _ = self._calls("terms", [], TERM)
        await shard.reader.heard(newest)

    async def restart(self, shard: Shard, sink: Sink, *, log: LogLimits | None = None) -> Shard:
        """End the edge, and begin another one on the same shard."""
        await shard.aclose()
        self._edges.pop()
        return await self._start(sink, log)

    async def aclose(self) -> None:
        """Close all edges."""
        for edge in self._edges:
            await edge.aclose()
        self._calls.close()
