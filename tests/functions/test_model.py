"""A shard against a model too simple to be wrong: whatever is called, in whatever order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from functions.calls import BUCKETS, TERM, Calls, Cast, Limits, Post, Publication, bucket_of
from functions.server import PRODUCTS, RunningServer, serving
from roomful.shard.library import library_source

ROOMS = ["a", "b", "e"]  # a and e are in one bucket
USERS = ["alice", "bob"]
EDGES = ["edge1", "edge2"]
WINDOW_S, AGE_S, GRACE_S, LEASE_S = 20, 64, 10, 30
KEPT_S = AGE_S + AGE_S // 64
"""Up to a 64th more is kept than has to be."""
LIMITS = Limits(age_ms=AGE_S * 1000, window_ms=WINDOW_S * 1000)
SIZE = 400 + len(Post("a", "0000").envelope)

rooms = st.sampled_from(ROOMS)
users = st.sampled_from(USERS)
posts = st.builds(Post, rooms, name=st.sampled_from(["", "x", "y"]), user=users)


@dataclass
class Message:
    """One that was stored."""

    offset: int
    room: str
    body: str
    at_s: int


@dataclass
class Bucket:
    """One bucket's record."""

    version: int = 1
    frozen_until_s: int | None = None


@dataclass
class Model:
    """What the shard should be like, kept whole: nothing is ever thrown away."""

    now_s: int = 0
    term: int = TERM
    messages: list[Message] = field(default_factory=list)
    ids: dict[tuple[str, str, str], tuple[int, int]] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(
        default_factory=lambda: {f"{{{number}}}": Bucket() for number in range(BUCKETS)}
    )
    links: dict[tuple[str, str], set[tuple[str, str]]] = field(default_factory=dict)
    """By room and user: connections by edge; empty in the grace."""
    due_s: dict[tuple[str, str], int] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)

    def bucket(self, room: str) -> Bucket:
        """Give a room's bucket as it is now."""
        bucket = self.buckets[bucket_of(room)]
        if bucket.frozen_until_s is not None and self.now_s >= bucket.frozen_until_s:
            bucket.frozen_until_s = None
            bucket.version += 1
        return bucket


class Shard(RuleBasedStateMachine):
    """The real shard beside the model; all edges know the newest term and versions, or one less."""

    server: RunningServer

    # Mutable state: the shard's connection, the model, how many messages there were, and what
    # was heard: each room's newest offset, and of all.
    @initialize()
    def begin(self) -> None:
        """Make the shard anew, with two edges."""
        self.calls = Shard.server.connect()
        self.calls.command("FLUSHALL")
        self.calls("take_term", [], "s1", TERM)
        self.calls("claim", [f"{{{number}}}b" for number in range(BUCKETS)], TERM, 1)
        self.model = Model()
        self.number = 0
        self.heard: dict[str, int] = dict.fromkeys(ROOMS, 0)
        self.last_heard = 0
        self.generations = dict.fromkeys(EDGES, 0)
        for edge in EDGES:
            self.renew(edge)
        self.ear = self.calls.listen(*(f"r:{room}" for room in ROOMS))

    def name(self, edge: str) -> str:
        """Give an edge's name in this life."""
        return f"{edge}.{self.generations[edge]}"

    def versions(self) -> dict[str, int]:
        """Give what an edge that is up to date believes."""
        return {bucket_of(room): self.model.bucket(room).version for room in ROOMS}

    # Publishing -----------------------------------------------------------------------------

    @rule(batch=st.lists(posts, min_size=1, max_size=8), is_behind=st.sampled_from([0, 0, 0, 1]))
    def publish(self, batch: list[Post], is_behind: int) -> None:
        """Some messages come; *is_behind*: from an edge that has missed the last change."""
        numbered = []
        for post in batch:
            self.number += 1
            numbered.append(replace(post, body=f"{self.number:04}", time=self.number))
        versions = {tag: version - is_behind for tag, version in self.versions().items()}
        replies = self.calls.publish(
            *numbered, term=self.model.term, versions=versions, limits=LIMITS
        )
        self._hear()
        # In the order of offsets: by room, as the rooms come first.
        order = list(dict.fromkeys(post.room for post in numbered))
        pairs = sorted(
            zip(numbered, replies, strict=True), key=lambda pair: order.index(pair[0].room)
        )
        for post, reply in pairs:
            self._expect(post, reply, is_behind)

    def _expect(self, post: Post, reply: int | str, is_behind: int) -> None:
        model, bucket = self.model, self.model.bucket(post.room)
        if bucket.frozen_until_s is not None:
            assert str(reply).startswith("FROZEN ")
            return
        if is_behind:
            assert reply == f"VERSION {bucket.version}"
            return
        key = (post.room, post.user, post.name)
        first, until_s = model.ids.get(key, (0, 0))
        if post.name and until_s > model.now_s:
            stored = next(one for one in model.messages if one.offset == first)
            assert reply == f"{first} {int(stored.body)}"
            return
        assert isinstance(reply, int)
        assert reply > max((one.offset for one in model.messages), default=0)
        assert reply >> 40 == model.term
        model.messages.append(Message(reply, post.room, post.body, model.now_s))
        if post.name:
            model.ids[key] = (reply, model.now_s + WINDOW_S)

    def _hear(self) -> None:
        for channel, one in self.ear.heard():
            room = channel[2:]
            if isinstance(one, Cast):
                continue
            assert isinstance(one, Publication)
            assert one.before == self.heard[room]
            for entry in one.entries:
                assert entry.offset > self.last_heard
                self.last_heard = self.heard[room] = entry.offset

    @invariant()
    def everything_stored_was_heard(self) -> None:
        """Each room's newest message has been sent to who listens, in one order."""
        for room in ROOMS:
            mine = [one.offset for one in self.model.messages if one.room == room]
            assert self.heard[room] == max(mine, default=0)

    # Reading --------------------------------------------------------------------------------

    @rule(data=st.data(), asked=st.sets(rooms, min_size=1), limit=st.integers(1, 8))
    def read(self, data: st.DataObject, asked: set[str], limit: int) -> None:
        """A client resumes from anything it may have heard, or from a little before it."""
        model = self.model
        offsets = [0, *(one.offset for one in model.messages)]
        start = after = data.draw(st.sampled_from(offsets))
        joins = {room: data.draw(st.sampled_from(offsets)) for room in sorted(asked)}
        owed = [one for one in model.messages if one.room in joins and one.offset > joins[one.room]]
        ages = [(one.room, model.now_s - one.at_s) for one in owed if one.offset > start]
        read: list[str] = []
        while True:
            replay = self.calls.read(
                joins, after, limit * (SIZE + 1), age_ms=LIMITS.age_ms, term=model.term
            )
            if replay.holes:
                # Only where something owed was old enough to go, and never without a need.
                for room in replay.holes:
                    assert any(age > AGE_S for other, age in ages if other == room)
                return
            assert len(replay.entries) <= limit or len(replay.entries) == 1
            read += replay.bodies
            after = replay.reached
            if replay.is_complete:
                break
        assert read == [one.body for one in owed if one.offset > start]
        assert all(age <= KEPT_S for _, age in ages)

    @rule(room=rooms)
    def page(self, room: str) -> None:
        """The newest are there, in order, and what is too old is not."""
        model = self.model
        mine = [one for one in model.messages if one.room == room]
        bodies = [body for _, body in self._pages(room)]
        assert bodies == [one.body for one in mine][len(mine) - len(bodies) :]
        ages = [model.now_s - one.at_s for one in mine]
        young = [age for age in ages if age <= AGE_S]
        assert len(young) <= len(bodies) <= len([age for age in ages if age <= KEPT_S])

    def _pages(self, room: str) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        before: int | None = None
        while True:
            args = [self.model.term, "" if before is None else before, ""]
            following, packed = self.calls(
                "page", [f"{bucket_of(room)}l:{room}"], *args, 3, 1 << 20, LIMITS.age_ms
            )
            found = Calls.decode_page(packed) + found
            if not following:
                return found
            before = following

    # Presence -------------------------------------------------------------------------------

    @rule(room=rooms, user=users, edge=st.sampled_from(EDGES), connection=st.sampled_from("pq"))
    def join(self, room: str, user: str, edge: str, connection: str) -> None:
        """A connection enters, if its bucket is open."""
        if not self._is_open(room):
            return
        args = self.name(edge), connection, user, "online", 500, 500
        self.calls("join", [self._people(room)], *self._who(room), *args)
        self.model.links.setdefault((room, user), set()).add((self.name(edge), connection))
        self.model.due_s.pop((room, user), None)

    @rule(
        room=rooms,
        user=users,
        edge=st.sampled_from(EDGES),
        connection=st.sampled_from("pq"),
        has_grace=st.booleans(),
    )
    def leave(self, room: str, user: str, edge: str, connection: str, *, has_grace: bool) -> None:
        """A connection leaves, which need not be there."""
        if not self._is_open(room):
            return
        args = self.name(edge), connection, user, GRACE_S * 1000 if has_grace else 0, 500
        was_there = self.calls("leave", [self._people(room)], *self._who(room), *args)
        links = self.model.links.get((room, user), set())
        assert was_there == ((self.name(edge), connection) in links)
        if was_there:
            links.discard((self.name(edge), connection))
            self._unlinked(room, user, GRACE_S if has_grace else 0)

    def _unlinked(self, room: str, user: str, grace_s: int) -> None:
        if self.model.links[room, user]:
            return
        if grace_s:
            self.model.due_s[room, user] = self.model.now_s + grace_s
        else:
            del self.model.links[room, user]

    @rule(edge=st.sampled_from(EDGES))
    def renew(self, edge: str) -> None:
        """An edge renews its lease, or begins a new life if it had none any more."""
        name = self.name(edge)
        is_new = name not in self.model.leases
        self.calls("lease", [], self.model.term, name, int(is_new), LEASE_S * 1000, "")
        self.model.leases[name] = self.model.now_s + LEASE_S

    @rule()
    def sweep(self) -> None:
        """The shard's housekeeping, until there is nothing left to be done now."""
        args = [self.model.term, 2, GRACE_S * 1000, 500]
        # Each sweep does two steps; frozen buckets keep an edge waiting for ever.
        for _ in range(24):
            self.calls("sweep", [], *args)
        model = self.model
        for edge in EDGES:
            name = self.name(edge)
            if model.leases[name] <= model.now_s:
                model.leases.pop(name)
                self.generations[edge] += 1
                self.renew(edge)
        alive = {self.name(edge) for edge in EDGES}
        for (room, user), links in list(model.links.items()):
            dead = {link for link in links if link[0] not in alive}
            if dead and self._is_open(room):
                links -= dead
                self._unlinked(room, user, GRACE_S)
        for (room, user), due_s in list(model.due_s.items()):
            if due_s <= model.now_s and self._is_open(room):
                del model.due_s[room, user]
                del model.links[room, user]

    @invariant()
    def members_are_those_of_the_model(self) -> None:
        """Who has a link or a grace is there."""
        for room in ROOMS:
            count, *named = self.calls("members", [self._people(room)], self.model.term, 500)
            assert count == len(named) // 2
            expected = {user for other, user in self.model.links if other == room}
            assert {user.decode() for user in named[::2]} == expected

    # The cluster ----------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 3, 11, 40]))
    def wait(self, seconds: int) -> None:
        """Time passes."""
        Shard.server.pass_time(seconds)
        self.model.now_s += seconds

    @rule(room=rooms)
    def freeze(self, room: str) -> None:
        """A bucket is frozen, if it is not."""
        bucket = self.model.bucket(room)
        if bucket.frozen_until_s is None:
            key = f"{bucket_of(room)}b"
            self.calls("move", [key], self.model.term, "m1", bucket.version, "s2")
            self.calls("freeze", [key], self.model.term, "m1", 2000)
            bucket.version += 1
            bucket.frozen_until_s = self.model.now_s + 2

    @rule(room=rooms)
    def move(self, room: str) -> None:
        """A bucket begins to move, if it is not frozen, which nobody notices."""
        bucket, key = self.model.bucket(room), f"{bucket_of(room)}b"
        if bucket.frozen_until_s is None:
            self.calls("move", [key], self.model.term, "m1", bucket.version, "s2")

    @rule(room=rooms)
    def thaw(self, room: str) -> None:
        """A freeze is ended."""
        bucket = self.model.bucket(room)
        self.calls("thaw", [f"{bucket_of(room)}b"], self.model.term, "m1")
        if bucket.frozen_until_s is not None:
            bucket.frozen_until_s = None
            bucket.version += 1

    @rule()
    def fail_over(self) -> None:
        """Another term begins."""
        self.model.term += 1
        self.calls("take_term", [], "s1", self.model.term)

    def _is_open(self, room: str) -> bool:
        return self.model.bucket(room).frozen_until_s is None

    def _people(self, room: str) -> str:
        return f"{bucket_of(room)}p:{room}"

    def _who(self, room: str) -> tuple[int, int]:
        return self.model.term, self.model.bucket(room).version

    def teardown(self) -> None:
        """Let go of the connection."""
        if hasattr(self, "calls"):
            self.calls.close()


@pytest.fixture(params=PRODUCTS)
def running(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server of the test's own."""
    with (
        tempfile.TemporaryDirectory() as directory,
        serving(request.param, Path(directory)) as server,
    ):
        server.connect().command("FUNCTION", "LOAD", library_source())
        yield server


def test_the_shard_does_what_the_model_says(running: RunningServer) -> None:
    """Publishing, reading, presence, freezes and terms in any order, over all that time does."""
    Shard.server = running
    run_state_machine_as_test(
        Shard,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
