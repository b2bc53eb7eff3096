"""
The protocol of a bucket's move and of failovers, as a machine of which every state is visited.

A bucket moves from shard S to T, each a primary and a replica (S two where that matters), acks
after one. Edges keep one batch under way for the bucket, send it again with the same ids
until it is stored, and nothing later before it; a batch that was given up may still arrive. A
shard is its stream of operations; a replica has a beginning of it, and gets one at a time. The
controller remembers nothing: each of its steps is possible whenever what the shards say allows it,
so its death and another's start are everywhere. A freeze lapses at any time. A shard fails over at
any time, once; its old primary is dead, or goes on as before with whoever still listens.

A variant leaves one guard out. The words are those of docs/adr/0020-moving-a-bucket.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

__all__ = ["Broken", "Model", "explore"]

Op = int | tuple[str, int, int, int]
"""A message's number, or a record: its word, version, migration, and the term it began in."""
Stream = tuple[Op, ...]
S, T = 0, 1
ACKS = 1


class Broken(Exception):
    """An invariant does not hold; the words say which."""


class Shard(NamedTuple):
    """A shard: its primary's stream, how far replicas are, and the old primary with its own."""

    stream: Stream
    replicas: tuple[int, ...]
    term: int = 1
    zombie: Stream | None = None
    listeners: tuple[int, ...] = ()


class Batch(NamedTuple):
    """What an edge has under way; *position* is where it was stored, -1 before that."""

    shard: int
    term: int
    version: int
    first: int
    size: int
    position: int = -1


class Edge(NamedTuple):
    """How many of its messages are acknowledged, where it believes the bucket is, and its batch."""

    acked: int = 0
    shard: int = S
    version: int = 1
    batch: Batch | None = None


class State(NamedTuple):
    """Everything."""

    shards: tuple[Shard, Shard]
    edges: tuple[Edge, ...]
    late: tuple[int, Batch] | None = None
    """A batch that its edge has given up and that may still arrive."""
    verified: int = 0
    """The version in which S was frozen when T had everything, and its replica too."""
    failed: int = 0
    """Bit by bit which shards failed over."""


@cache
def fold(stream: Stream) -> tuple[tuple[str, int, int, int], tuple[int, ...]]:
    """Give the record and the log that *stream* comes to."""
    record, log = ("NONE", 0, 0, 0), ()
    for op in stream:
        if isinstance(op, int):
            log = (*log, op)  # type: ignore[assignment]
        else:
            record = op
            if op[0] in ("IMPORTING", "NONE"):
                log = ()
    return record, log


@dataclass(frozen=True)
class Model:
    """The protocol with its bounds, and the guards that are left out."""

    messages: tuple[tuple[int, ...], ...] = ((10, 11), (20,))
    """Of each edge: tens are the sender, and what is left of a division by *rooms* is the room."""
    rooms: int = 1
    fails: int = 3
    """Which shards may fail over: 1 is S, 2 is T."""
    replicas: int = 1
    """Of S; T has one."""
    migrations: int = 1
    has_late: bool = False
    has_zombies: bool = True
    """Whether an old primary may go on; else it dies."""
    without: frozenset[str] = field(default_factory=frozenset)

    def start(self) -> State:
        """S owns the bucket in version 1, and everybody knows."""
        source = Shard((("OWNED", 1, 0, 0),), (1,) * self.replicas)
        return State((source, Shard((), (0,))), tuple(Edge() for _ in self.messages))

    # What must always hold ------------------------------------------------------------------

    def check(self, state: State) -> None:
        """
        Look at one state.

        Raises:
            Broken: see there.
        """
        folded = [fold(shard.stream) for shard in state.shards]
        records, logs = [record for record, _ in folded], [log for _, log in folded]
        owners = [
            number
            for number, record in enumerate(records)
            if record[0] in ("OWNED", "MOVING", "FROZEN")
        ]
        if len(owners) > 1:
            raise Broken("two owners")
        holder = owners[0] if owners else T if records[T][0] == "IMPORTING" else None
        if holder is None:
            raise Broken("released without a copy")
        log = logs[holder]
        for edge, mine in zip(state.edges, self.messages, strict=True):
            if not set(mine[: edge.acked]) <= set(log):
                raise Broken("lost an acknowledged message")
            stored = [one for one in log if one in mine]
            if len(stored) != len(set(stored)):
                raise Broken("stored a message twice")
            if any(list(room) != sorted(room) for room in self._by_room(tuple(stored))):
                raise Broken("turned the order of a sender round")

    def _by_room(self, log: Stream) -> list[Stream]:
        """Give what is in each room: a room is copied by itself, in its own order."""
        if self.rooms == 1:
            return [log]
        return [
            tuple(one for one in log if isinstance(one, int) and one % self.rooms == room)
            for room in range(self.rooms)
        ]

    def _left_to_copy(self, log: Stream, copied: Stream) -> list[Op] | None:
        """Give what comes next in each room; None: *copied* has something that *log* has not."""
        left: list[Op] = []
        for room, there in zip(self._by_room(log), self._by_room(copied), strict=True):
            if room[: len(there)] != there:
                return None
            left.extend(room[len(there) : len(there) + 1])
        return left

    # What can happen ------------------------------------------------------------------------

    def steps(self, state: State) -> Iterator[State]:
        """Give every state that can come next."""
        for number, edge in enumerate(state.edges):
            for new, late in self._edge_steps(state, number, edge):
                yield new._replace(late=late)
        for number, shard in enumerate(state.shards):
            yield from self._replicate(state, number, shard)
            if self.fails >> number & 1 and not state.failed >> number & 1:
                for failed in self._fail_over(number, shard):
                    mended = state._replace(failed=state.failed | 1 << number)
                    yield _with(mended, number, failed)
        if state.late is not None:
            number, batch = state.late
            stored = self._store(state, number, batch)
            if stored is not None:
                yield stored[0]._replace(late=None)
            yield state._replace(late=None)
        yield from self._control(state)

    def _edge_steps(
        self, state: State, number: int, edge: Edge
    ) -> Iterator[tuple[State, tuple[int, Batch] | None]]:
        left = len(self.messages[number]) - edge.acked
        batch = edge.batch
        if batch is None:
            for count in {1, left} if left else set():
                shard = state.shards[edge.shard]
                terms = {shard.term, 1} if shard.zombie is not None else {shard.term}
                for term in terms:
                    sent = Batch(edge.shard, term, edge.version, edge.acked, count)
                    yield _edge(state, number, edge._replace(batch=sent)), state.late
            return
        if batch.position < 0:
            yield self._arrive(state, number, edge, batch), state.late
        elif self._is_replicated(state.shards[batch.shard], batch):
            done = edge._replace(acked=edge.acked + batch.size, batch=None)
            yield _edge(state, number, done), state.late
        # No answer: it asks where the bucket is, and sends the same again.
        late = state.late
        if self.has_late and late is None and batch.position < 0:
            late = (number, batch)
        is_moved = fold(state.shards[T].stream)[0][0] == "OWNED"
        known = fold(state.shards[T if is_moved else S].stream)[0]
        place, version = (T, known[1]) if is_moved else (S, known[1])
        yield _edge(state, number, Edge(edge.acked, place, version)), late
        if "one batch" in self.without and left > batch.size:
            # What is behind a refused or lost batch goes out before it comes again.
            skipped = Batch(place, state.shards[place].term, version, edge.acked + batch.size, 1)
            ahead = self._store(state, number, skipped)
            if ahead is not None:
                yield ahead[0], late

    def _arrive(self, state: State, number: int, edge: Edge, batch: Batch) -> State:
        stored = self._store(state, number, batch)
        if stored is not None:
            new, position = stored
            return _edge(new, number, edge._replace(batch=batch._replace(position=position)))
        again = edge._replace(batch=None)
        record = fold(state.shards[batch.shard].stream)[0]
        if batch.term == state.shards[batch.shard].term:
            if record[0] == "GONE":
                again = Edge(edge.acked, T, record[1])
            elif record[0] in ("OWNED", "MOVING"):
                again = Edge(edge.acked, batch.shard, record[1])
        return _edge(state, number, again)

    def _store(self, state: State, number: int, batch: Batch) -> tuple[State, int] | None:
        """Give the state and the position after *batch* was stored; None: it was refused."""
        shard = state.shards[batch.shard]
        is_current = batch.term == shard.term
        stream = shard.stream if is_current else shard.zombie
        if stream is None:
            return None
        record, log = fold(stream)
        if record[0] not in ("OWNED", "MOVING"):
            return None
        if record[1] != batch.version and "version" not in self.without:
            return None
        mine = self.messages[number][batch.first : batch.first + batch.size]
        is_once = "ids" not in self.without
        longer = stream + tuple(one for one in mine if not (is_once and one in log))
        if is_current:
            return _with(state, batch.shard, shard._replace(stream=longer)), len(longer)
        return _with(state, batch.shard, shard._replace(zombie=longer)), len(longer)

    def _is_replicated(self, shard: Shard, batch: Batch) -> bool:
        followers = shard.replicas if batch.term == shard.term else shard.listeners
        return sum(one >= batch.position for one in followers) >= ACKS

    def _replicate(self, state: State, number: int, shard: Shard) -> Iterator[State]:
        for index, reached in enumerate(shard.replicas):
            if reached < len(shard.stream):
                more = (*shard.replicas[:index], reached + 1, *shard.replicas[index + 1 :])
                yield _with(state, number, shard._replace(replicas=tuple(sorted(more))))
        for index, reached in enumerate(shard.listeners):
            if shard.zombie is not None and reached < len(shard.zombie):
                more = (*shard.listeners[:index], reached + 1, *shard.listeners[index + 1 :])
                yield _with(state, number, shard._replace(listeners=more))

    def _fail_over(self, number: int, shard: Shard) -> Iterator[Shard]:
        replicas = shard.replicas
        needed = 1 if "fence" in self.without else len(replicas) - ACKS + 1
        fenced_sets = [replicas] if needed == len(replicas) else [(one,) for one in replicas]
        for fenced in fenced_sets:
            left = list(replicas)
            for one in fenced:
                left.remove(one)
            candidates = set(fenced) if "best" in self.without else {max(fenced)}
            for best in candidates:
                others = list(fenced)
                others.remove(best)
                stream = shard.stream[:best]
                behind = tuple(min(one, best) for one in others)
                # The old primary is dead, and comes back as a replica that has nothing.
                yield Shard(stream, tuple(sorted((*behind, 0))), 2)
                if self.has_zombies:
                    yield Shard(stream, behind or (0,), 2, shard.stream, tuple(left))

    # The controller -------------------------------------------------------------------------

    def _control(self, state: State) -> Iterator[State]:
        source, target = state.shards
        (word, version, migration, term), log = fold(source.stream)
        (there, at, importing, _), copied = fold(target.stream)
        guards = self.without
        is_ours = there == "IMPORTING" and importing == migration
        if word == "OWNED" and migration < self.migrations and there == "NONE":
            yield _say(state, S, ("MOVING", version, migration + 1, source.term))
        left = self._left_to_copy(log, copied) if is_ours else None
        if word in ("MOVING", "FROZEN"):
            is_stale = term != source.term and "restart" not in guards
            if there == "NONE" and word == "MOVING" and importing < migration and not is_stale:
                yield _say(state, T, ("IMPORTING", 0, migration, 0))
            if not is_stale:
                for one in left or ():
                    yield _say(state, T, one)
            if word == "MOVING" and is_ours and not is_stale:
                yield _say(state, S, ("FROZEN", version + 1, migration, term))
            # A freeze lapses, and an abort ends a move before anything was released.
            yield _say(state, S, ("OWNED", version + 1, migration, 0))
            has_all = is_ours and (left == [] or "digest" in guards)
            is_safe = max(target.replicas) >= len(target.stream) or "wait copy" in guards
            if word == "FROZEN" and has_all and is_safe and not is_stale:
                yield state._replace(verified=version)
            if word == "FROZEN" and state.verified == version and not is_stale:
                yield _say(state, S, ("GONE", version + 1, migration, 0))
        if word == "OWNED" and there == "IMPORTING":
            yield _say(state, T, ("NONE", 0, importing, 0))
        is_out = word == "GONE" and (
            max(source.replicas) >= len(source.stream) or "wait release" in guards
        )
        if is_ours and (is_out or ("activate" in guards and word == "FROZEN" and left == [])):
            yield _say(state, T, ("OWNED", version + ("activate" in guards), migration, 0))
        if "replay" in guards and there in ("IMPORTING", "OWNED") and at == 0:
            # What a leader of before had ordered arrives now, and nothing says that it is old.
            yield _say(state, T, ("IMPORTING", 0, importing, 0))


def _with(state: State, number: int, shard: Shard) -> State:
    source, target = state.shards
    return state._replace(shards=(shard, target) if number == S else (source, shard))


def _say(state: State, number: int, op: Op) -> State:
    shard = state.shards[number]
    return _with(state, number, shard._replace(stream=(*shard.stream, op)))


def _edge(state: State, number: int, edge: Edge) -> State:
    edges = state.edges
    return state._replace(edges=(*edges[:number], edge, *edges[number + 1 :]))


def explore(model: Model, limit: int = 2_000_000) -> tuple[int, bool]:
    """
    Visit every state; gives how many there are, and whether the move ends well in some.

    Raises:
        Broken: one of them breaks an invariant.
    """
    start = model.start()
    seen, front = {start}, [start]
    is_done = False
    while front:
        later = []
        for state in front:
            model.check(state)
            is_done = is_done or _is_done(model, state)
            for step in model.steps(state):
                if step not in seen:
                    seen.add(step)
                    later.append(step)
        front = later
        if len(seen) > limit:
            raise RuntimeError(f"more than {limit} states")
    return len(seen), is_done


def _is_done(model: Model, state: State) -> bool:
    is_moved = fold(state.shards[T].stream)[0][0] == "OWNED"
    sent = (edge.acked == len(mine) for edge, mine in zip(state.edges, model.messages, strict=True))
    return is_moved and all(sent)
