"""
One shard's stream as one connection brings it, made whole: no I/O, no clock.

Everything goes over one RESP3 connection: publications, and the replies of what is asked on it.
The server puts both into it in the order in which it did things, and that is what the rules here
stand on: a reply that tells of offset N comes behind all publications up to N and before all later
ones. So a room is heard without a gap from where its subscription was confirmed, and a log that
was read meets the live stream exactly.

While anything is missing (a *round*: after a reconnect, or when a publication names an offset
before it that was not heard) the live stream waits, bounded in bytes:

1. every room's newest offset is asked for (its tail); rooms with a higher one than was heard are
   behind;
2. those are read, in shares of so many rooms, page by page; what all shares have read up to (the
   horizon) is delivered together with what waits, in offset order;
3. when every share is complete, all that waits is delivered, and the stream is live again.

What waits beyond its bound is thrown away with the round, and a new round reads it from the logs.
Entries that are gone from a log are a loss, and so are entries that were heard and that the next
primary never had: the sink is told before it is given anything newer, because a cursor spans all
rooms of the shard and the next message would hide the loss.

A room whose bucket comes from another shard is heard there up to its end, and here after that.
Meanwhile (a *bar*) the live stream waits as in a round, from where it told of the arrival: so no
cursor passes what is still to come (holding.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from roomful.cluster.cursor import ShardName
from roomful.shard.asking import Asking, Read, Request, Tails
from roomful.shard.base import Sink
from roomful.shard.filling import Round, Waiting
from roomful.shard.held import Held, HeldRooms, StreamLimits, StreamStatistics, channel_of
from roomful.shard.message import RoomId
from roomful.shard.outlet import Outlet
from roomful.shard.publication import CastMessage, Found, Publication, decode_message
from roomful.shard.terms import Terms

__all__ = ["ShardStream"]


class ShardStream:
    """The rooms that an edge holds on one shard, and what becomes of what is heard of them."""

    # Mutable state: the rooms; how far the sink has heard the shard; what is to be said next; and
    # the round that is under way, with what holds it up.
    def __init__(self, shard: ShardName, sink: Sink, limits: StreamLimits | None = None) -> None:
        self._shard = shard
        self._limits = limits or StreamLimits()
        self.statistics = StreamStatistics()
        self._outlet = Outlet(shard, sink, self.statistics)
        self._rooms = HeldRooms()
        self._asking = Asking(self._rooms)
        self._is_connected = False
        self._terms = Terms(0)
        self._round: Round | None = None
        self._bars: set[object] = set()

    def __repr__(self) -> str:
        state = "live" if self.is_live else "filling" if self._is_connected else "not connected"
        return f"<ShardStream {self._shard} {state} at {self._outlet.position}, {len(self)} rooms>"

    @property
    def position(self) -> int:
        """The offset up to which the sink has heard the shard."""
        return self._outlet.position

    @property
    def is_live(self) -> bool:
        """Whether what comes is delivered as it comes."""
        return self._is_connected and self._round is None

    # Rooms ----------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._rooms.held)

    def find(self, room: RoomId) -> Held | None:
        """Give *room* if it is held."""
        return self._rooms.held.get(channel_of(room))

    def hold(self, room: RoomId, after: int | None = None) -> Held:
        """
        Hear *room* from when it is ready on, or from *after* on: then nothing after it is missed.

        Holding a room that is held changes nothing.
        """
        return self._rooms.hold(room, after, is_connected=self._is_connected)

    def renew(self, room: RoomId) -> None:
        """Hear *room* from now on, whatever was heard or missed of it before."""
        self._rooms.release(room, is_connected=self._is_connected)
        self._rooms.hold(room, None, is_connected=self._is_connected, is_new=True)

    def release(self, room: RoomId) -> int | None:
        """No longer hear *room*; gives up to where it was delivered, None if that is not known."""
        held = self._rooms.release(room, is_connected=self._is_connected)
        if held is None:
            return None
        return held.heard if self._round is None else self._round.delivered(held)

    def note(self, room: RoomId, offset: int) -> None:
        """Know that somebody in *room* was given an entry that was read apart."""
        held = self.find(room)
        if held is not None and offset > held.last:
            held.last = offset

    def take_requests(self) -> list[Request]:
        """Give what is to be said to the server now, in this order."""
        return self._asking.take() if self._is_connected else []

    # What comes from another shard ----------------------------------------------------------

    def bar(self, reason: object, offset: int) -> None:
        """
        Deliver nothing more, from *offset* on, until unbar(*reason*).

        Raises:
            AnotherTerm: as on_message().
        """
        if self._is_connected:
            self._terms.check(offset)
        self._bars.add(reason)
        if not self._is_connected:
            return
        if self._round is None:
            self._outlet.reach(offset - 1)
            self._open_round()
        elif self._round.shares:
            # What was read may reach beyond.
            self._begin_round()

    def unbar(self, reason: object) -> None:
        """Go on, with the rooms that are held since: what they have here comes in its place."""
        self._bars.discard(reason)
        round_ = self._round
        if round_ is None:
            return
        round_.asked += self._asking.ask_changes(round_)
        self._begin_reads_if_due(round_)

    # The connection -------------------------------------------------------------------------

    def connect(self, terms: Terms, *, is_long: bool = False) -> None:
        """
        Begin on a new connection: subscribe to everything, and fill what was missed.

        Args:
            terms: what the shard says of its terms.
            is_long: it has been so long that the shard may have forgotten rooms since.
        """
        assert not self._is_connected
        self._is_connected = True
        self._terms = terms
        # Before anything newer goes out.
        self._outlet.tell_rewound(self._rooms.rewind(terms))
        round_ = self._open_round(is_long=is_long)
        rooms = list(self._rooms.held.values())
        ask = self._asking.subscribe if rooms else self._asking.ask_tails
        round_.asked = ask(rooms, round_)

    def disconnect(self) -> None:
        """End with the connection; rooms stay held."""
        self._is_connected = False
        self._abandon()
        self._rooms.disconnect()
        self._asking.clear()

    # What comes -----------------------------------------------------------------------------

    def on_subscribed(self, channels: Iterable[bytes]) -> None:
        """Take the confirmation of a subscription."""
        self._rooms.confirm(channels)

    def on_message(self, channel: bytes, data: bytes) -> None:
        """
        Take what was published on a room's channel.

        Raises:
            AnotherTerm: the server is not the primary any more that it was.
        """
        held = self._rooms.held.get(channel)
        if held is None or not held.is_subscribed:
            self.statistics.strays += 1
            return
        message, unreadable = decode_message(data)
        if unreadable:
            self.statistics.unreadable += unreadable
        if type(message) is Publication:
            if message.entries:
                self._terms.check(message.entries[-1].offset)
            if self._round is None and self._take(held, message):
                return
            if message.entries:
                self._wait(message.entries[-1].offset, held, message, len(data))
        elif type(message) is CastMessage:
            if self._round is None:
                self._outlet.cast(held, message)
            else:
                self._wait(0, held, message, len(data))

    def on_position(self, seq: int) -> None:
        """Know that the stream has reached the offset *seq*."""
        if self._round is None:
            self._outlet.reach(seq)
        else:
            self._wait(seq, None, None, 64)

    def end_burst(self) -> None:
        """All that was read at once was taken: let the sink send it."""
        self._outlet.end_burst()

    def _take(self, held: Held, publication: Publication) -> bool:
        """Deliver *publication*; False: something before it is missing, and a round began."""
        entries, heard = publication.entries, held.heard
        if not entries:
            return True
        if heard is not None:
            if publication.before > heard:
                self.statistics.gaps += 1
                self._begin_round()
                return False
            if entries[0].offset <= heard:
                fresh = [entry for entry in entries if entry.offset > heard]
                self.statistics.duplicates += len(entries) - len(fresh)
                if not fresh:
                    return True
                entries = fresh
        held.heard = entries[-1].offset
        self._outlet.deliver(held, entries)
        return True

    def _wait(
        self, offset: int, held: Held | None, message: Publication | CastMessage | None, size: int
    ) -> None:
        round_ = self._round
        assert round_ is not None
        round_.wait(offset, held, message, size)
        if round_.waiting_bytes > self._limits.waiting_bytes:
            self.statistics.overflows += 1
            self._begin_round()

    # Rounds ---------------------------------------------------------------------------------

    def _open_round(self, *, is_long: bool = False) -> Round:
        self._abandon()
        self.statistics.rounds += 1
        round_ = self._round = Round(self._outlet.position, is_long=is_long)
        return round_

    def _begin_round(self) -> None:
        """See what all rooms have, and read what is missing."""
        round_ = self._open_round()
        round_.asked = self._asking.ask_tails(list(self._rooms.held.values()), round_)

    def _abandon(self) -> None:
        round_, self._round = self._round, None
        if round_ is not None:
            round_.abandon()

    def audit(self, count: int) -> None:
        """Ask for the tails of the next *count* rooms: a loss in a quiet room is found, too."""
        if self.is_live:
            self._asking.audit(count)

    def on_tails(self, request: Tails, seq: int, tails: Sequence[int]) -> None:
        """
        Take the shard's newest offset and those of the rooms that were asked for.

        Args:
            tails: 0 for a room that has none, -1 for one whose bucket is not there.
        """
        round_ = self._round
        self._terms.know(seq)
        if seq < self._outlet.position:
            # In the same term: nothing that was heard is certain.
            self._outlet.tell_rewound(self._rooms.go_back(seq))
            self._outlet.position = seq
        behind, gone = [], []
        for held, tail in zip(request.rooms, tails, strict=True):
            # One that was not said to be heard yet has Tails of its own, behind its SUBSCRIBE.
            if self._rooms.held.get(held.channel) is not held or not held.is_subscribed:
                continue
            is_unsure = tail == 0 and request.round is not None and request.round.is_long
            if tail < 0 and held.heard is not None:
                # Its bucket has gone on: what it published here may wait, or was missed.
                if request.round is not None:
                    gone.append(held)
                    held.hear(seq)
            elif held.heard is None or tail <= held.heard and not is_unsure:
                held.hear(seq)
            else:
                behind.append((held, tail))
            if not held.is_ready:
                held.is_ready = True
                held.on_ready()
        self._outlet.tell_lost(gone)
        if round_ is None:
            if behind:
                self.statistics.gaps += len(behind)
                self._begin_round()
        elif request.round is round_:
            round_.asked -= 1
            round_.seq = max(round_.seq, seq)
            round_.behind += [held for held, _ in behind]
        else:
            round_.later += behind
        self.on_position(seq)
        if round_ is not None and request.round is round_:
            self._begin_reads_if_due(round_)

    def _begin_reads_if_due(self, round_: Round) -> None:
        if round_ is not self._round or round_.asked or self._bars:
            return
        limits = self._limits
        rooms = [held for held in round_.behind if self._rooms.held.get(held.channel) is held]
        count = -(-len(rooms) // limits.share_rooms)
        page_bytes = max(limits.page_bytes, limits.fill_bytes // max(1, count))
        round_.share_out(rooms, limits.share_rooms, page_bytes)
        self._advance(round_)

    def on_read(
        self, request: Read, reached: int, found: Sequence[Found], *, is_complete: bool
    ) -> None:
        """Take a page of the logs that were asked for."""
        share, round_ = request.share, request.share.round
        if round_ is not self._round:
            return
        self.statistics.filled += len(found)
        round_.take_page(share, request.rooms, found, reached)
        if is_complete:
            round_.complete(share)
        self._advance(round_)

    def on_missing(self, request: Read, places: Iterable[int]) -> None:
        """Take that the logs of some rooms that were asked for do not reach back, or are gone."""
        share, round_ = request.share, request.share.round
        if round_ is not self._round:
            return
        lost = [request.rooms[place] for place in places]
        for held in lost:
            share.rooms.remove(held)
            held.hear(round_.seq)
        self._outlet.tell_lost(
            [held for held in lost if self._rooms.held.get(held.channel) is held]
        )
        share.is_asked = False
        if not share.rooms:
            round_.complete(share)
        self._advance(round_)

    def _advance(self, round_: Round) -> None:
        """Deliver what nothing can come before any more; ask for more, or end the round."""
        for one in round_.deliverable():
            if isinstance(one, Waiting):
                self._take_waiting(one)
                if self._round is not round_:
                    return
            elif self._rooms.held.get(one[0].channel) is one[0]:
                self._outlet.deliver(*one)
        shares = round_.open_shares
        if shares:
            horizon = min(share.reached for share in shares)
            self._outlet.reach(horizon)
            for share in shares:
                if not share.is_asked and share.reached == horizon:
                    self._asking.read(share)
            return
        self._round = None
        rooms_behind = (held for held, tail in round_.later if (held.heard or 0) < tail)
        if any(self._rooms.held.get(held.channel) is held for held in rooms_behind):
            self._begin_round()

    def _take_waiting(self, waiting: Waiting) -> None:
        held, message = waiting.held, waiting.message
        if held is None:
            self._outlet.reach(waiting.reached)
        elif self._rooms.held.get(held.channel) is not held:
            return
        elif isinstance(message, Publication):
            self._take(held, message)
        elif message is not None:
            self._outlet.cast(held, message)
