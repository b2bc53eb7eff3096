"""The library's functions as Python calls, and what they send as Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis

__all__ = [
    "FIRST",
    "TERM",
    "Calls",
    "Canary",
    "Cast",
    "Ear",
    "Entry",
    "Limits",
    "Post",
    "Publication",
    "Real",
    "Replay",
    "bucket_of",
]

TERM = 1
FIRST = (TERM << 40) + 1
"""The first offset of the first term."""

BUCKETS = 4


def bucket_of(room: str) -> str:
    """Give the hash tag of a room's bucket: `a` is in 1, `b` in 2, `e` in 1 again."""
    return f"{{{sum(room.encode()) % BUCKETS}}}"


@dataclass(frozen=True, slots=True)
class Post:
    """A message to publish; with a *name* it is stored once."""

    room: str
    body: str = ""
    name: str = ""
    user: str = "alice"
    time: int = 1000

    @property
    def identity(self) -> str:
        """What makes it the same message."""
        return f"{len(self.user.encode())}:{self.user}{self.name}" if self.name else ""

    @property
    def envelope(self) -> bytes:
        """What is stored: opaque to the library, with bytes that are no UTF-8."""
        return msgspec.msgpack.encode([self.body or self.name, b"\xff\x00"])


class Real(Post):
    """A post whose envelope is as an edge's."""

    @property
    def envelope(self) -> bytes:
        """What is stored."""
        return msgspec.msgpack.encode(
            [self.room, "message", self.name, self.user, self.time, b"{", []]
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch says about keeping."""

    keep: int = 5000
    age_ms: int = 3_600_000
    window_ms: int = 300_000
    outbox: int = 0
    """Entries; 0 is no outbox."""
    outbox_bytes: int | None = None
    classes: str = "0"
    """One character for each run of messages of a room, or one for all."""

    @property
    def bounds(self) -> str:
        """What the outbox may hold, as the library takes it."""
        entries = str(self.outbox)
        return entries if self.outbox_bytes is None else f"{entries} {self.outbox_bytes}"


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """A stored message, as it is published."""

    offset: int
    envelope: tuple[str, bytes]


class Publication(msgspec.Struct, array_like=True, tag=0, frozen=True):
    """A room's new messages of one batch."""

    before: int
    entries: list[Entry]


class Cast(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """An event that is not stored."""

    event: str
    body: bytes
    except_user: str | None
    is_volatile: bool


class Canary(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """What an edge sends itself."""

    offset: int
    token: str


class _Read(msgspec.Struct, array_like=True, frozen=True):
    offset: int
    room: int
    envelope: list[Any]


@dataclass(frozen=True, slots=True)
class Replay:
    """A read's answer: entries as (offset, room, body)."""

    reached: int
    is_complete: bool
    entries: list[tuple[int, str, str]]
    holes: list[str]

    @property
    def bodies(self) -> list[str]:
        """The messages' bodies, in the order they came."""
        return [body for _, _, body in self.entries]


_sent = msgspec.msgpack.Decoder(Publication | Cast | Canary)
_read = msgspec.msgpack.Decoder(list[_Read])
_page = msgspec.msgpack.Decoder(list[Entry])


class Ear:
    """Hears channels of a server."""

    # Mutable state: the subscription.
    def __init__(self, client: redis.Redis, channels: Iterable[str]) -> None:
        self._pubsub = client.pubsub()  # type: ignore[no-untyped-call]  # redis-py
        self._pubsub.subscribe(*channels)
        self.raw()

    def raw(self) -> list[tuple[str, bytes]]:
        """Give what was published since the last time of asking: channels and payloads."""
        # The answer comes behind all that was published before.
        self._pubsub.ping()
        heard: list[tuple[str, bytes]] = []
        while (message := self._pubsub.get_message(timeout=30)) is not None:
            if message["type"] == "pong":
                return heard
            if message["type"] == "message":
                heard.append((message["channel"].decode(), message["data"]))
        raise TimeoutError("the server does not answer")

    def heard(self) -> list[tuple[str, Publication | Cast | Canary]]:
        """Give the same, decoded."""
        return [(channel, _sent.decode(data)) for channel, data in self.raw()]

    def told(self) -> list[tuple[str, dict[str, Any]]]:
        """Give the casts' events and bodies without their time."""
        told = []
        for _, cast in self.heard():
            assert isinstance(cast, Cast)
            body = msgspec.json.decode(cast.body, type=dict[str, Any])
            if cast.event != "presence-count":
                assert body.pop("timestamp") > 0
                assert cast.except_user == body["userId"]
            told.append((cast.event, body))
        return told

    def close(self) -> None:
        """Hear no more."""
        self._pubsub.close()


class Calls:
    """One connection to a shard, as an edge of the right term and versions uses it."""

    # Mutable state: the connection and its subscriptions.
    def __init__(self, port: int) -> None:
        self.client = redis.Redis(port=port, single_connection_client=True, socket_timeout=30)
        self._subscriber = redis.Redis(port=port, socket_timeout=30)
        self._ears: list[Ear] = []

    def __call__(self, function: str, keys: Iterable[str] = (), *args: str | int | bytes) -> Any:
        """Call a function by its name without `roomful_v1_`."""
        names = list(keys)
        return self.command("FCALL", f"roomful_v1_{function}", len(names), *names, *args)

    def command(self, *words: str | int | bytes) -> Any:
        """Send any command."""
        return self.client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py

    def listen(self, *channels: str) -> Ear:
        """Hear *channels* from now on."""
        ear = Ear(self._subscriber, channels)
        self._ears.append(ear)
        return ear

    def close(self) -> None:
        """Close all connections."""
        for ear in self._ears:
            ear.close()
        self._subscriber.close()
        self.client.close()

    def publish(
        self,
        *posts: Post,
        term: int = TERM,
        versions: Mapping[str, int] | None = None,
        limits: Limits | None = None,
    ) -> list[int | str]:
        """Publish a batch; a room that comes again is named again."""
        runs: list[list[Post]] = []
        for post in posts:
            if runs and runs[-1][0].room == post.room:
                runs[-1].append(post)
            else:
                runs.append([post])
        limits = limits or Limits()
        args: list[str | int | bytes] = [
            term,
            limits.keep,
            limits.age_ms,
            limits.window_ms,
            limits.outbox
            if limits.outbox_bytes is None
            else f"{limits.outbox} {limits.outbox_bytes}",
            limits.classes,
        ]
        for run in runs:
            args += [(versions or {}).get(bucket_of(run[0].room), 1), len(run)]
            for post in run:
                args += [post.identity, post.time, post.envelope]
        reply = self("publish", [f"{bucket_of(run[0].room)}l:{run[0].room}" for run in runs], *args)
        return [one if isinstance(one, int) else one.decode() for one in reply]

    def store(self, *posts: Post, limits: Limits | None = None) -> list[int]:
        """Publish a batch that is stored, and give its offsets."""
        offsets = self.publish(*posts, limits=limits)
        stored = [one for one in offsets if isinstance(one, int)]
        assert len(stored) == len(posts), offsets
        return stored

    def read(
        self,
        rooms: Mapping[str, int],
        after: int,
        limit: int = 1 << 30,
        *,
        age_ms: int = 3_600_000,
        term: int = TERM,
        upto: Mapping[str, int] | None = None,
    ) -> Replay:
        """Give what *rooms*, with their join offsets, got after *after*, some *upto* an offset."""
        names = list(rooms)
        keys = [f"{bucket_of(room)}l:{room}" for room in names]
        args: list[int | str] = [term, after, limit, age_ms, *rooms.values()]
        if upto is not None:
            args += [upto.get(room, "") for room in names]
        reached, is_complete, packed, holes = self("read", keys, *args)
        entries = [(one.offset, names[one.room], one.envelope[0]) for one in _read.decode(packed)]
        return Replay(reached, bool(is_complete), entries, [names[index] for index in holes])

    def page(
        self,
        room: str,
        count: int,
        *,
        before: int | None = None,
        after: int | None = None,
        limit: int = 1 << 30,
        age_ms: int = 3_600_000,
    ) -> tuple[list[tuple[int, str]], int | None]:
        """Give a page as (offset, body), and the `next`."""
        bounds = ["" if bound is None else bound for bound in (before, after)]
        following, packed = self(
            "page", [f"{bucket_of(room)}l:{room}"], TERM, *bounds, count, limit, age_ms
        )
        return self.decode_page(packed), following or None

    @staticmethod
    def decode_page(packed: bytes) -> list[tuple[int, str]]:
        """Read a page's entries as (offset, body)."""
        return [(entry.offset, entry.envelope[0]) for entry in _page.decode(packed)]

    def bodies(self, room: str) -> list[str]:
        """Give the bodies of all that is kept of *room*."""
        return [body for _, body in self.page(room, 100_000)[0]]

    def record(self, tag: str) -> str:
        """Give a bucket's record, as it comes to now."""
        (record,) = self("buckets", [f"{tag}b"])
        text: str = record.decode()
        return text

    def keys(self) -> Sequence[bytes]:
        """Give the names of all keys."""
        names: list[bytes] = sorted(self.command("KEYS", "*"))
        return names
