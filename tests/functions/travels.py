"""A bucket that travels between two real shards while it is used, and what it should have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from redis.exceptions import ResponseError

from functions.calls import TERM, Calls, Post, Real, bucket_of
from functions.moving import Journey, bucket_keys, contents, lineage
from functions.server import RunningServer

__all__ = ["Travels"]

TAG = bucket_of("a")
ROOMS = ["a", "e"]
NAMES = ["s1", "s2"]
EDGES = ["edge1", "edge2"]
USERS = ["alice", "bob"]
OWNING = ("OWNED", "MOVING", "FROZEN")

rooms = st.sampled_from(ROOMS)
users = st.sampled_from(USERS)
edges = st.sampled_from(EDGES)
posts = st.builds(Real, rooms, name=st.sampled_from(["", "x", "y", "z"]), user=users)


@dataclass
class Model:
    """What the bucket has, wherever it is."""

    logs: dict[str, list[int]] = field(default_factory=lambda: {room: [] for room in ROOMS})
    """The offsets of what was stored and not erased."""
    ids: dict[tuple[str, str, str], int] = field(default_factory=dict)
    links: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """By room and user: the edges."""
    statuses: dict[tuple[str, str], str] = field(default_factory=dict)
    sessions: dict[str, bytes] = field(default_factory=dict)
    origins: dict[int, str] = field(default_factory=dict)
    """By offset: the shard that it was given on."""
    erased: set[str] = field(default_factory=set)
    newest: int = 0


class Travels(RuleBasedStateMachine):
    """Two real shards, edges that use the bucket, and controllers that move it and die."""

    servers: dict[str, RunningServer]

    # Mutable state: the connections, the model, the controller's attempt with what it has done and
    # has still to copy, the attempts of controllers that died, and a number for names.
    @initialize(owner=st.sampled_from(NAMES), ahead=st.sampled_from(NAMES))
    def begin(self, owner: str, ahead: str) -> None:
        """Make both shards anew; one of them has given many more offsets."""
        self.shards: dict[str, Calls] = {}
        for name, server in Travels.servers.items():
            calls = self.shards[name] = server.connect()
            calls.command("FLUSHALL")
            calls("take_term", [], name, TERM)
            for edge in EDGES:
                calls("lease", [], TERM, edge, 1, 3_600_000, "")
        self.shards[owner]("claim", [f"{TAG}b"], TERM, 1)
        self.shards[ahead].command("HINCRBY", "roomful:shard", "seq", 1 << 41)
        self.model = Model()
        self.attempt: Journey | None = None
        self.done = ""
        self.left: list[str] = []
        self.dead: list[Journey] = []
        self.number = 0

    # Where it is ----------------------------------------------------------------------------

    def record(self, name: str) -> list[str]:
        """Give the words of a shard's record."""
        return self.shards[name].record(TAG).split()

    def owner(self) -> str | None:
        """Give who decides about the bucket; None: nobody, at the moment."""
        owners = [name for name in NAMES if self.record(name)[0] in OWNING]
        assert len(owners) <= 1, [self.record(name) for name in NAMES]
        return owners[0] if owners else None

    def holder(self) -> str:
        """Give who has everything."""
        owner = self.owner()
        if owner is not None:
            return owner
        (heir,) = [name for name in NAMES if self.record(name)[-1] == "whole"]
        return heir

    def call(self, function: str, key: str, *args: Any) -> Any:
        """Call as an edge that knows everything; None: the bucket is closed."""
        owner = self.owner()
        if owner is None:
            return None
        try:
            version = self.record(owner)[1]
            return self.shards[owner](function, [TAG + key], TERM, version, *args)
        except ResponseError as exc:
            assert str(exc).startswith("ROOMFUL FROZEN ")  # noqa: PT017 - all else is a bug
            return None

    # Using it -------------------------------------------------------------------------------

    @rule(batch=st.lists(posts, min_size=1, max_size=5), behind=st.sampled_from([0, 0, 0, 1]))
    def publish(self, batch: list[Post], behind: int) -> None:
        """Messages come, some again; *behind*: from an edge that missed the last change."""
        owner = self.owner()
        if owner is None:
            for name in NAMES:
                replies = self.shards[name].publish(*batch, versions={TAG: 1})
                assert all(str(reply)[:6] in ("MOVED ", "FROZEN") for reply in replies)
            return
        state, version, *_ = self.record(owner)
        versions = {TAG: int(version) - behind}
        # In the order in which they are stored: a batch goes by room.
        first = batch[0].room
        batch.sort(key=lambda post: post.room != first)
        replies = self.shards[owner].publish(*batch, versions=versions)
        for post, reply in zip(batch, replies, strict=True):
            if state == "FROZEN" or behind:
                assert str(reply)[:6] in ("FROZEN", "VERSIO")
                continue
            key = post.room, post.user, post.name
            if post.name and key in self.model.ids:
                assert reply == f"{self.model.ids[key]} {post.time}"
                continue
            assert isinstance(reply, int)
            assert reply > self.model.newest
            self.model.newest = reply
            self.model.logs[post.room].append(reply)
            self.model.origins[reply] = owner
            if post.name:
                self.model.ids[key] = reply

    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        """Somebody comes, goes or is something else now; a session is kept or forgotten."""
        self.number += 1
        uses = self.join, self.leave, self.set_status, self.session, self.erase
        use = data.draw(st.sampled_from(uses))
        use(data.draw(rooms), data.draw(users), data.draw(edges))

    def join(self, room: str, user: str, edge: str) -> None:
        """A user comes to a room, over an edge."""
        status = "away" if self.number % 2 else "online"
        if self.call("join", f"p:{room}", edge, "c", user, status, 500, 500) is None:
            return
        links = self.model.links.setdefault((room, user), set())
        if not links:
            self.model.statuses[room, user] = status
        links.add(edge)

    def leave(self, room: str, user: str, edge: str) -> None:
        """A user goes, who need not be there."""
        reply = self.call("leave", f"p:{room}", edge, "c", user, 0, 500)
        if reply is not None:
            links = self.model.links.get((room, user), set())
            assert reply == (edge in links)
            links.discard(edge)

    def set_status(self, room: str, user: str, _edge: str) -> None:
        """A user is something else now."""
        status = f"busy {self.number}"
        if self.call("set_status", f"p:{room}", user, status):
            self.model.statuses[room, user] = status

    def erase(self, room: str, _user: str, _edge: str) -> None:
        """A message is erased; its id stays."""
        log = self.model.logs[room]
        if log:
            one = log[self.number % len(log)]
            if self.call("erase", f"l:{room}", 2000, one, "") is not None:
                log.remove(one)
                self.model.erased.add(room)

    def session(self, _room: str, user: str, edge: str) -> None:
        """A user's session is kept, or forgotten."""
        words = b"record %d" % self.number
        if edge == EDGES[0]:
            if self.call("save_session", f"o:{user}", self.number, words, 3_600_000, 0):
                self.model.sessions[user] = b"%d %b" % (self.number, words)
        elif self.call("drop_session", f"o:{user}", self.number) is not None:
            self.model.sessions.pop(user, None)

    @rule(room=rooms, data=st.data())
    def resume(self, room: str, data: st.DataObject) -> None:
        """Who has heard each shard up to somewhere gets the rest, by where it was stored."""
        owner = self.owner()
        if owner is None:
            return
        model, shard = self.model, self.shards[owner]
        offsets = model.logs[room]
        heard = {
            name: data.draw(st.sampled_from([0] + [o for o in offsets if model.origins[o] == name]))
            for name in NAMES
        }
        _, segments = lineage(shard, TAG)
        low = 0
        for name, high in [*((one.shard, one.upto) for one in segments), (owner, None)]:
            upto = {} if high is None else {room: high}
            replay = shard.read({room: low}, heard[name], upto=upto)
            assert replay.holes == [] or room in model.erased
            if not replay.holes:
                above = max(low, heard[name])
                part = [o for o in offsets if above < o <= (high or math.inf)]
                assert [offset for offset, _, _ in replay.entries] == part
                assert {model.origins[o] for o in part} <= {name}
            low = high or low

    # Moving it ------------------------------------------------------------------------------

    def settle(self) -> None:
        """Do what a controller does that finds what another has left."""
        for name in NAMES:
            state, *words = self.record(name)
            other = NAMES[name == NAMES[0]]
            there = self.record(other)
            if state == "IMPORTING" and there[0] == "GONE" and there[2] == words[1]:
                self.shards[name]("activate", [f"{TAG}b"], TERM, words[1], there[1])
            elif state in ("MOVING", "FROZEN"):
                self.shards[name]("thaw", [f"{TAG}b"], TERM, words[1])
        for name in NAMES:
            state, *words = self.record(name)
            if state == "IMPORTING":
                self.shards[name]("drop_import", [f"{TAG}b"], TERM, words[1])

    @precondition(lambda self: self.attempt is None)
    @rule(log_bytes=st.sampled_from([0, 1 << 20]))
    def begin_move(self, log_bytes: int) -> None:
        """A controller settles what was, and begins a new attempt."""
        self.settle()
        owner = self.owner()
        assert owner is not None
        to = NAMES[owner == NAMES[0]]
        self.number += 1
        version = int(self.record(owner)[1])
        shards = self.shards[owner], self.shards[to]
        self.attempt = Journey(*shards, TAG, f"m{self.number}", version, owner, to)
        self.attempt.log_bytes = log_bytes
        self.attempt.begin()
        self.left = bucket_keys(self.attempt.source, TAG)
        self.done = "begin"

    @precondition(lambda self: self.attempt is not None)
    @rule(count=st.integers(1, 8))
    def copy(self, count: int) -> None:
        """Some of what was there is copied, or of what has changed since."""
        assert self.attempt is not None
        if self.done not in ("begin", "copied", "frozen"):
            return
        names, self.left = self.left[:count], self.left[count:]
        with self.failing():
            if names:
                self.attempt.copy(names)
            else:
                self.attempt.round(count)

    @precondition(lambda self: self.attempt is not None)
    @rule(steps=st.integers(1, 3))
    def go_on(self, steps: int) -> None:
        """The next steps are taken."""
        for _ in range(steps):
            if self.attempt is not None:
                with self.failing():
                    self.step(self.attempt)

    def step(self, attempt: Journey) -> None:
        """Take one step."""
        match self.done:
            case "begin":
                attempt.copy(self.left)
                self.left, self.done = [], "copied"
            case "copied":
                attempt.freeze()
                self.done = "frozen"
            case "frozen":
                attempt.round()
                attempt.complete()
                assert contents(attempt.target, TAG) == contents(attempt.source, TAG)
                self.done = "whole"
            case "whole":
                attempt.release()
                self.done = "released"
            case "released":
                attempt.activate()
                self.done = "open"
            case "open":
                attempt.clear(attempt.source)
                assert bucket_keys(attempt.source, TAG) == []
                self.attempt = None

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Give up if a shard refuses: the freeze has lapsed."""
        try:
            yield
        except ResponseError:
            if self.attempt is not None:
                self.give_up(self.attempt)
                self.attempt = None

    @rule(data=st.data())
    def disturb(self, data: st.DataObject) -> None:
        """Something happens that nobody wants."""
        data.draw(st.sampled_from([self.abort, self.die, self.late, self.lapse, self.others]))(data)

    def abort(self, _data: st.DataObject) -> None:
        """The attempt is given up, if it still can be."""
        attempt = self.attempt
        if attempt is not None and self.done not in ("released", "open"):
            self.give_up(attempt)
            self.attempt = None
            assert self.owner() == attempt.origin

    def die(self, _data: st.DataObject) -> None:
        """The controller is killed; the next one knows nothing of it."""
        if self.attempt is not None:
            self.dead.append(self.attempt)
            self.attempt = None

    def late(self, data: st.DataObject) -> None:
        """An order of a controller that was taken for dead arrives, or is given twice."""
        if not self.dead:
            return
        attempt = data.draw(st.sampled_from(self.dead))
        steps: list[Callable[[], object]] = [
            attempt.begin,
            attempt.copy_all,
            attempt.round,
            attempt.freeze,
            # It was only ever ordered after the release.
            *([attempt.activate] if attempt.is_released else []),
            lambda: attempt.clear(attempt.source),
            lambda: attempt.clear(attempt.target),
            lambda: self.give_up(attempt),
        ]
        with suppress(ResponseError):
            data.draw(st.sampled_from(steps))()

    def lapse(self, _data: st.DataObject) -> None:
        """Time passes in which a freeze lapses."""
        for server in Travels.servers.values():
            server.pass_time(2)

    def others(self, data: st.DataObject) -> None:
        """Other buckets of a shard are used, and its housekeeping is done."""
        calls = self.shards[data.draw(st.sampled_from(NAMES))]
        calls("claim", ["{2}b"], TERM, 1)
        calls.store(Post("b"))
        calls("sweep", [], TERM, 100, 0, 500)

    def give_up(self, attempt: Journey) -> None:
        """Let the source decide, and drop the copy only if it stays."""
        thawed = attempt.source("thaw", [f"{TAG}b"], TERM, attempt.migration)
        if not thawed.startswith(b"GONE "):
            attempt.target("drop_import", [f"{TAG}b"], TERM, attempt.migration)

    # What must always hold ------------------------------------------------------------------

    @invariant()
    def everything_is_there(self) -> None:
        """Who has the bucket has each message once, in order, and each person and session."""
        holder = self.shards[self.holder()]
        for room in ROOMS:
            log = holder.command("XRANGE", f"{TAG}l:{room}", "-", "+")
            assert [int(number.split(b"-")[0]) for number, _ in log] == self.model.logs[room]
            people = {user.decode() for user in holder.command("ZRANGE", f"{TAG}p:{room}", 0, -1)}
            links = {user for where, user in self.model.links if where == room}
            assert people == {user for user in links if self.model.links[room, user]}
            kept = holder.command("HGETALL", f"{TAG}s:{room}")
            for user in people:
                status = self.model.statuses[room, user].encode()
                assert kept.get(user.encode(), b"online") == status
        for user in USERS:
            assert holder.command("GET", f"{TAG}o:{user}") == self.model.sessions.get(user)

    def teardown(self) -> None:
        """In the end somebody settles it, and it is open."""
        if not hasattr(self, "shards"):
            return
        self.settle()
        assert self.owner() is not None
        self.everything_is_there()
        for calls in self.shards.values():
            assert calls.command("EXISTS", f"{TAG}i") == 0
            calls.close()
