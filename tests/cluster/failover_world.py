"""
A shard's servers without machines: what they have, who follows whom, and what breaks.

A server's data is the list of all that was done to it; a stream is a name, and an offset in it.
What is promised is checked by the world itself: a write that was acknowledged is never missing
from a primary that edges may use.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from roomful.cluster.failover import Plan, plan_shard
from roomful.cluster.shard_facts import (
    NO_PLACE,
    Attach,
    Fence,
    HandOver,
    Order,
    Patience,
    Promote,
    Publish,
    ServerFacts,
    ShardFacts,
    TakeTerm,
    Wish,
)
from roomful.cluster.topology import Address, ShardRecord

__all__ = ["PATIENCE", "SHARD", "Server", "World", "address"]

SHARD = "s1"
PATIENCE = Patience(3.0)
TERM_SIZE = 1000
WIDTH = 10
"""How many bytes of a stream an operation takes."""

Operation = tuple[str, int] | tuple[str, int, ShardRecord]


def address(number: int) -> Address:
    """Give the address of a server."""
    return Address("server", 7000 + number)


@dataclass
class Server:
    """One server process and its file."""

    address: Address
    run: int = 0
    is_up: bool = True
    upstream: Address | None = None
    is_primary: bool = False
    stream: str = ""
    offset: int = 0
    previous: str = ""
    turned_at: int = 0
    is_lost: bool = True
    """Whether it has no place in the stream."""
    copying: int = 0
    data: list[Operation] = field(default_factory=list)

    @property
    def run_id(self) -> str:
        """The process."""
        return f"{self.address.port}.{self.run}"

    def do(self, operation: Operation) -> None:
        """Append to the data and the stream."""
        self.data.append(operation)
        self.offset += WIDTH

    def term(self) -> int:
        """Give the term in the data."""
        return max((one[1] for one in self.data if one[0] == "term"), default=0)

    def generation(self) -> tuple[int, ShardRecord | None]:
        """Give the newest topology in the data."""
        found = [one for one in self.data if len(one) == 3]
        best = max(found, key=lambda one: one[1], default=None)
        return (0, None) if best is None else (best[1], best[2])

    def sequences(self) -> tuple[int, int]:
        """Give the newest offset given out, and the newest before the last term."""
        sequence = base = 0
        for kind, number, *_ in self.data:
            if kind == "term":
                base, sequence = sequence, number * TERM_SIZE
            elif kind == "write":
                sequence += 1
        return sequence, base


class World:
    """Some servers, an edge, and a controller that remembers nothing."""

    # Mutable state: the servers, cut lines, streams made so far, and what was promised.
    def __init__(self, replicas: int, acks: int, *, is_heard: bool = True) -> None:
        """
        Begin with a primary in its first term.

        Args:
            is_heard: whether its replicas have heard of that; before it they copied nothing.
        """
        self.acks = acks
        self.servers = {address(number): Server(address(number)) for number in range(replicas + 1)}
        self.cut: set[frozenset[Address | str]] = set()
        self.streams = 0
        self.writes = 0
        self.pending: list[tuple[Server, int, int, int]] = []
        self.acked: set[int] = set()
        self.wish = Wish()
        first, *others = self.servers.values()
        first.is_primary, first.is_lost = True, False
        first.stream = self._new_stream()
        for one in others:
            one.upstream, one.stream, one.is_lost = first.address, first.stream, False
        first.do(("term", 1))
        record = ShardRecord(
            1, first.address, tuple(one.address for one in others), first.run_id, first.stream
        )
        first.do(("topology", 1, record))
        self.edge: tuple[int, ShardRecord] = (1, record)
        if is_heard:
            self.settle()

    def _new_stream(self) -> str:
        self.streams += 1
        return f"stream{self.streams}"

    def talks(self, one: Address | str, other: Address | str) -> bool:
        """Whether the two reach each other."""
        is_up = all(self.servers[end].is_up for end in (one, other) if isinstance(end, Address))
        return is_up and frozenset((one, other)) not in self.cut

    def settle(self) -> None:
        """Let everything replicate that can."""
        for _ in range(400):
            has_moved = [self.replicate(one) for one in self.servers.values()]
            if not any(has_moved):
                return

    # What servers and edges do by themselves -----------------------------------------------

    def replicate(self, one: Server) -> bool:
        """Let a replica get one operation, or one step nearer to it; says whether it did."""
        if not one.is_up or one.upstream is None:
            return False
        primary = self.servers.get(one.upstream)
        if primary is None or not self.talks(one.address, primary.address):
            return False
        # A replica of a replica gets nothing here: nobody orders that.
        if not primary.is_primary:
            return False
        if one.stream != primary.stream or one.is_lost:
            self._meet(one, primary)
            return True
        if one.offset == primary.offset:
            return False
        one.data.append(primary.data[len(one.data)])
        one.offset += WIDTH
        self._acknowledge()
        return True

    def _meet(self, one: Server, primary: Server) -> None:
        can_continue = one.stream == primary.previous and one.offset <= primary.turned_at
        if can_continue and not one.is_lost and not one.copying:
            one.previous, one.turned_at = one.stream, one.offset
            one.stream = primary.stream
        elif one.copying < 2:
            one.copying += 1
            one.is_lost = True
        else:
            one.copying = 0
            one.data = list(primary.data)
            one.stream, one.offset, one.is_lost = primary.stream, primary.offset, False
            one.previous, one.turned_at = "", 0

    def write(self) -> None:
        """The edge writes, to whom it believes in, if that is of the right term."""
        _, record = self.edge
        one = self.servers[record.primary]
        if not (one.is_up and one.is_primary and one.term() == record.term):
            return
        if not self.talks("edge", one.address):
            return
        self.writes += 1
        one.do(("write", self.writes))
        self.pending.append((one, one.run, one.offset, self.writes))
        self._acknowledge()

    def _acknowledge(self) -> None:
        for waiting in list(self.pending):
            one, run, offset, number = waiting
            if one.run != run or not one.is_primary:
                self.pending.remove(waiting)
                continue
            followers = [
                other
                for other in self.servers.values()
                if other.upstream == one.address
                and other.stream == one.stream
                and other.offset >= offset
                and self.talks(other.address, one.address)
            ]
            if len(followers) >= self.acks and self.talks("edge", one.address):
                self.pending.remove(waiting)
                # With replicas and without their acks any one of them may be promoted.
                if self.acks or len(self.servers) == 1:
                    self.acked.add(number)

    # What the controller does ---------------------------------------------------------------

    def facts(self) -> ShardFacts:
        """Give what a controller sees that was just started."""
        seen = [one for one in self.servers.values() if self.talks("controller", one.address)]
        _, record = self.record()
        return ShardFacts(
            SHARD,
            record,
            self.acks,
            {one.address: self._facts_of(one) for one in seen},
            {one: 10.0 for one in self.servers if not self.talks("controller", one)},
            self.wish,
        )

    def record(self) -> tuple[int, ShardRecord]:
        """Give the newest topology that the controller can see, or that edges have."""
        found = [
            one.generation()
            for one in self.servers.values()
            if self.talks("controller", one.address)
        ]
        # Nobody orders anything who sees no topology; here then nothing is seen at all.
        generation, record = max(found, key=lambda one: one[0], default=(0, None))
        return self.edge if record is None else (generation, record)

    def _facts_of(self, one: Server) -> ServerFacts:
        sequence, base = one.sequences()
        is_linked = one.upstream is not None and self.talks(one.address, one.upstream)
        online = frozenset(
            other.address
            for other in self.servers.values()
            if other.upstream == one.address
            and other.stream == one.stream
            and self.talks(one.address, other.address)
        )
        return ServerFacts(
            address=one.address,
            run_id=one.run_id,
            is_primary=one.is_primary,
            stream=one.stream,
            offset=NO_PLACE if one.is_lost else one.offset,
            previous=one.previous,
            turned_at=one.turned_at,
            upstream=one.upstream,
            is_linked=is_linked,
            silence_s=0.0 if is_linked else None,
            is_copying=bool(one.copying),
            shard=SHARD if one.term() else None,
            has_nothing=not one.term(),
            term=one.term(),
            sequence=sequence,
            base=base,
            online=online if one.is_primary else frozenset(),
        )

    def plan(self) -> Plan:
        """Give what the controller would do now."""
        return plan_shard(self.facts(), PATIENCE)

    def carry_out(self, order: Order) -> None:
        """Do what was ordered, where it can be reached."""
        match order:
            case Fence(server):
                self._follow(server, None)
            case Attach(server, primary):
                self._follow(server, primary)
            case Promote(server):
                one = self.servers[server]
                if self.talks("controller", server) and not one.is_primary:
                    one.is_primary, one.upstream, one.is_lost = True, None, False
                    one.previous, one.turned_at = one.stream, one.offset
                    one.stream = self._new_stream()
            case TakeTerm(server, term):
                one = self.servers[server]
                if self.talks("controller", server) and one.is_primary and one.term() < term:
                    one.do(("term", term))
            case HandOver(primary, target):
                self._hand_over(self.servers[primary], self.servers[target])
            case Publish(record):
                self._publish(record)

    def _follow(self, server: Address, upstream: Address | None) -> None:
        one = self.servers[server]
        if self.talks("controller", server):
            if one.upstream != upstream:
                one.copying = 0  # it is ended, and what was there stays
            one.is_primary, one.upstream = False, upstream

    def _hand_over(self, primary: Server, target: Server) -> None:
        if not self.talks("controller", primary.address) or not primary.is_primary:
            return
        while self.replicate(target):
            pass
        if target.stream == primary.stream and target.offset == primary.offset:
            self.carry_out(Promote(target.address))
            if target.is_primary:
                self._follow(primary.address, target.address)

    def _publish(self, record: ShardRecord) -> None:
        generation, _ = self.record()
        one = self.servers[record.primary]
        if self.talks("controller", one.address) and one.is_primary and one.term() == record.term:
            one.do(("topology", generation + 1, record))
            age = generation + 1, record.term
            # Without acks a term may be begun twice, and nothing is promised.
            if age > (self.edge[0], self.edge[1].term) or not self.acks:
                self.edge = (generation + 1, record)
            self.check()

    # What breaks ----------------------------------------------------------------------------

    def kill(self, one: Server) -> None:
        """End the process; its file has all that it had."""
        one.is_up = False

    def start(self, one: Server) -> None:
        """Start it, sealed: with its data, and without a place in a stream."""
        if one.is_up:
            return
        one.is_up = True
        one.run += 1
        one.is_primary, one.upstream, one.is_lost = False, None, True
        one.stream, one.offset, one.previous, one.turned_at = self._new_stream(), 0, "", 0
        if one.copying:
            # What was being copied is not in the file yet.
            one.copying = 0

    def heal(self) -> None:
        """Mend everything that was broken."""
        self.cut.clear()
        self.wish = replace(self.wish, hand_over=False)
        for one in self.servers.values():
            self.start(one)
        if not self.acks:
            # Edges may have heard of a term that was begun twice: they look at all servers again.
            self.edge = self.record()

    # What is promised -----------------------------------------------------------------------

    def check(self) -> None:
        """The primary that edges believe in has all that was acknowledged."""
        _, record = self.edge
        one = self.servers[record.primary]
        if one.is_up and one.is_primary and one.term() == record.term:
            writes = {operation[1] for operation in one.data if operation[0] == "write"}
            assert self.acked <= writes, f"lost {self.acked - writes} at {one.address}"
