"""
Where each bucket is, as far as an edge knows, and the order in which its messages go there.

The messages of a bucket go to one shard at a time. At the first refusal the bucket is *closed*:
what was refused, what waits behind it in the shard's commit, and what is published from then on
wait in one queue, in order. It is opened again when its shard is known and nothing of it is under
way any more; then the queue goes out first. So nothing overtakes, whatever a move or a failover
does (docs/adr/0016-group-commit-and-routes.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Topology
from roomful.protocol.errors import Refused
from roomful.shard.commit import Commit
from roomful.shard.holding import Arrival, Place
from roomful.shard.post import Post
from roomful.shard.redis import RedisShard

__all__ = ["RETRY_S", "Route", "Routes"]

RETRY_S: Final = 0.1
MOST_FREEZE_S: Final = 0.05
"""A bucket is tried again after this, although it may be frozen for longer: a move is quick."""


class Route:
    """Where a bucket is, as far as this edge knows."""

    __slots__ = ("bucket", "shard", "timer", "version", "waiting")

    def __init__(self, bucket: int, shard: RedisShard, version: int) -> None:
        self.bucket = bucket
        self.shard = shard
        self.version = version
        self.waiting: deque[Post] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "open" if self.waiting is None else f"{len(self.waiting)} waiting"
        return f"<Route of {self.bucket} to {self.shard.name} version {self.version}, {state}>"


class Routes:
    """All buckets' routes."""

    # Mutable state: the routes by bucket, and those that are closed.
    def __init__(
        self,
        shards: Mapping[ShardName, RedisShard],
        *,
        ask_soon: Callable[[], None],
        expect: Callable[[int, Place], None],
    ) -> None:
        """
        Know no bucket yet.

        Args:
            ask_soon: called when the topology is old.
            expect: called with a bucket and where it is said to be.
        """
        self._shards = shards
        self._ask_soon = ask_soon
        self._expect = expect
        self._routes: list[Route] = []
        self.closed: set[Route] = set()

    def __repr__(self) -> str:
        return f"<Routes, {len(self.closed)} buckets closed>"

    def __getitem__(self, bucket: int) -> Route:
        return self._routes[bucket]

    def begin(self, topology: Topology) -> None:
        """Believe the first topology."""
        self._routes = [
            Route(bucket, self._shards[owner], topology.versions[bucket])
            for bucket, owner in enumerate(topology.buckets)
        ]

    def follow(self, topology: Topology) -> None:
        """Believe a newer one, where it is newer than what shards have said."""
        for route in self._routes:
            owner = self._shards[topology.buckets[route.bucket]]
            version = topology.versions[route.bucket]
            if owner is not route.shard and version >= route.version:
                self.redirect(route, owner, version)
            elif owner is route.shard and version > route.version:
                route.version = version
        for route in tuple(self.closed):
            self._open(route)

    def late(self, now: float) -> Iterator[tuple[Route, Post]]:
        """Give the messages that wait and are over their time; they wait no more."""
        for route in tuple(self.closed):
            while route.waiting and route.waiting[0].due <= now:
                yield route, route.waiting.popleft()

    def refuse_all(self, refused: Refused) -> None:
        """Settle everything that waits: the edge ends."""
        for route in self.closed:
            if route.timer is not None:
                route.timer.cancel()
            while route.waiting:
                route.waiting.popleft().end(refused)

    def redirect(self, route: Route, owner: RedisShard, version: int) -> None:
        """The bucket is at *owner*: let go of the old one once nothing is under way there."""
        before = route.shard
        self._close(route)
        route.shard, route.version = owner, version
        lane = before.lane(route.bucket)
        lane.take_closed()
        self._expect(route.bucket, Place(owner, version))
        if lane.has_under_way(route):
            lane.on_batch_end.append(lambda: self._after_batch(route, lane))
        else:
            self._open_soon(route)

    def _after_batch(self, route: Route, before: Commit) -> None:
        # What was not stored there is older than all that waits.
        before.take_closed()
        self._open_soon(route)

    def _close(self, route: Route) -> None:
        if route.waiting is None:
            route.waiting = deque()
            self.closed.add(route)

    def take_back(self, posts: list[tuple[Post, str]]) -> None:
        """Take back what a shard refused because of its bucket."""
        first: dict[Route, str] = {}
        for post, words in posts:
            route = post.route
            assert isinstance(route, Route)
            if route not in first:
                first[route] = words
                self._close(route)
        for lane in {route.shard.lane(route.bucket) for route in first}:
            lane.take_closed()
        for post, _ in reversed(posts):
            post.is_again = True
            assert post.route.waiting is not None
            post.route.waiting.appendleft(post)
        for route, words in first.items():
            self.learn(route, words)

    def learn(self, route: Route, words: str) -> float:
        """Believe what a shard said about a bucket; gives when to try again, in seconds."""
        what, *rest = words.split()
        delay_s = RETRY_S
        match what, rest:
            case "VERSION", [version, *_]:
                route.version = int(version)
                delay_s = 0.0
            case "FROZEN", [milliseconds, *_]:
                delay_s = min(int(milliseconds) / 1000, MOST_FREEZE_S)
            case "MOVED", [version, owner, *_] if (
                owner in self._shards and int(version) > route.version
            ):
                self.redirect(route, self._shards[ShardName(owner)], int(version))
                delay_s = 0.0
            case "NO_LEASE", _:
                pass
            case _:
                self._ask_soon()
        if route.waiting is not None:
            self._open_soon(route, delay_s)
        return delay_s

    def hear_refusal(self, words: str) -> None:
        """Believe what a shard said that is not what the topology says: of a bucket, or of all."""
        if words.startswith("MOVED ") and words.endswith("}"):
            self.learn(self[int(words[words.index("{") + 1 : -1])], words)
        else:
            self._ask_soon()

    def take_arrival(self, shard: RedisShard, arrival: Arrival) -> None:
        """Believe a shard that says that a bucket came to it, also if the topology is older."""
        route = self[arrival.bucket]
        if arrival.version > route.version or (
            arrival.version == route.version and route.shard is not shard
        ):
            self.redirect(route, shard, arrival.version)

    def _open_soon(self, route: Route, delay_s: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        if route.timer is not None:
            # Never later: those who keep asking would put it off for ever.
            if route.timer.when() <= loop.time() + delay_s:
                return
            route.timer.cancel()
        route.timer = loop.call_later(delay_s, self._open, route)

    def _open(self, route: Route) -> None:
        """Let the bucket's messages go to its shard, those that waited first."""
        if route.timer is not None:
            route.timer.cancel()
            route.timer = None
        if route.waiting is None:
            return
        for shard in self._shards.values():
            if shard.lane(route.bucket).has_under_way(route):
                return  # its end comes back here
        waiting, route.waiting = route.waiting, None
        self.closed.discard(route)
        route.shard.lane(route.bucket).extend(waiting)
