"""Ids: each message once in its window, over generations, moves, and what broke off."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from functions.calls import FIRST, Calls, Entry, Limits, Post, Publication, bucket_of
from functions.moving import Journey, bucket_keys
from functions.server import RunningServer

WINDOW_S = 20
LIMITS = Limits(window_ms=WINDOW_S * 1000)
A = bucket_of("a")


class Unnamed(Post):
    """A message that its sender gave no id: its edge did, for retries."""

    @property
    def identity(self) -> str:
        """What makes it the same message."""
        return f"~{self.body}"


def kept(shard: Calls) -> int:
    """Count the ids that take memory, over or not."""
    return sum(shard.command("HLEN", key) for key in shard.command("KEYS", "{ids}*"))


@pytest.mark.parametrize("age_s", range(0, WINDOW_S + 1, 5))
def test_an_id_has_its_window_whenever_in_a_generation_it_came(
    shard: Calls, server: RunningServer, age_s: int
) -> None:
    """The next generation begins meanwhile, and the one after it."""
    shard.store(Post("a", name="first"), limits=LIMITS)
    server.pass_time(age_s)
    (offset,) = shard.store(Post("a", name="x"), limits=LIMITS)
    for _ in range(WINDOW_S):
        server.pass_time(1)
        shard.store(Post("b", name=f"{server.now_s}"), limits=LIMITS)
        assert shard.publish(Post("a", name="x"), limits=LIMITS) == [f"{offset} 1000"]
    server.pass_time(1)
    assert shard.store(Post("a", name="x"), limits=LIMITS)[0] > offset


def test_a_shorter_window_is_for_what_comes_after(shard: Calls, server: RunningServer) -> None:
    """What was stored in a long one is known to its end."""
    (offset,) = shard.store(Post("a", name="x"), limits=LIMITS)
    short = Limits(window_ms=2000)
    for _ in range(WINDOW_S):
        server.pass_time(1)
        shard.store(Post("b", name=f"{server.now_s}"), limits=short)
    assert shard.publish(Post("a", name="x"), limits=short) == [f"{offset} 1000"]


def test_ids_that_are_over_go(shard: Calls, server: RunningServer) -> None:
    """Never more is kept than came in three windows, and two when a generation has ended."""
    for number in range(10 * WINDOW_S):
        shard.store(Post("a", name=str(number)), limits=LIMITS)
        server.pass_time(1)
        assert kept(shard) <= 3 * WINDOW_S


def test_ids_of_edges_go_after_a_minute(shard: Calls, server: RunningServer) -> None:
    """They are for retries; the long window of what senders named is not theirs."""
    (offset,) = shard.store(Unnamed("a", "1"))
    server.pass_time(60)
    assert shard.publish(Unnamed("a", "1")) == [f"{offset} 1000"]
    server.pass_time(1)
    shard.store(Unnamed("a", "1"))
    server.pass_time(61)
    shard.store(Unnamed("a", "1"))
    assert kept(shard) == 2


def test_what_the_library_before_kept_is_known(shard: Calls) -> None:
    """It had a key for each id; they lapse before this library's first generation does."""
    shard.command("SET", f"{A}d:1:a5:alicex", "7 900", "PX", 300_000)
    assert shard.publish(Post("a", name="x"), Post("a", name="y")) == ["7 900", FIRST]


def test_ids_move_whatever_keeps_them(journey: Journey, server: RunningServer) -> None:
    """Of both generations, and of the library before; each with the time that it has left."""
    source, target = journey.source, journey.target
    (first,) = source.store(Post("a", name="old"), limits=LIMITS)
    (edges,) = source.store(Unnamed("a", "1"), limits=LIMITS)
    server.pass_time(15)
    (second,) = source.store(Post("a", name="last"), limits=LIMITS)
    source.command("SET", f"{A}d:1:a5:alicekey", "7 900", "PX", 20_000)
    server.pass_time(5)
    source.store(Post("b", name="turns"), limits=LIMITS)
    journey.travel()
    assert bucket_keys(source, A) == []

    def tell(*posts: Post) -> list[int | str]:
        return target.publish(*posts, versions={A: 3}, limits=LIMITS)

    told = tell(*(Post("a", name=name) for name in ("old", "last", "key")), Unnamed("a", "1"))
    assert told == [f"{first} 1000", f"{second} 1000", "7 900", f"{edges} 1000"]


def test_an_id_of_the_library_before_is_taken(journey: Journey, shard: Calls) -> None:
    """A source that has not this library yet sends what DUMP gives."""
    name = f"{A}d:1:a5:alicex"
    shard.command("SET", name, "7 900")
    payload = shard.command("DUMP", name)
    shard.command("DEL", name)
    journey.begin()
    assert journey.target("import", [name], 1, "m1", payload, 20_000) == 1
    assert bucket_keys(journey.target, A) == [name]
    assert journey.target.command("EXISTS", name) == 0
    assert journey.target("import", [name], 1, "m1", b"", -2) == 1
    assert bucket_keys(journey.target, A) == []


@pytest.mark.parametrize("room", ["a", "b"])
def test_what_was_stored_is_told_though_its_batch_broke_off(shard: Calls, room: str) -> None:
    """A retry is answered with what was stored, so nobody would tell it any more."""
    ear = shard.listen("r:a", "r:b")
    args: list[str | int | bytes] = [1, "many", 3_600_000, 300_000, "0", "-"]
    post = Post(room, name="x")
    for name in ("a", "b"):
        own = Post(name, name="x")
        args += [1, 1, own.identity, own.time, own.envelope]
    with pytest.raises(ResponseError):
        shard("publish", [f"{bucket_of(name)}l:{name}" for name in ("a", "b")], *args)
    (reply,) = shard.publish(post)
    offset = reply if isinstance(reply, int) else int(reply.split()[0])
    told = [publication for channel, publication in ear.heard() if channel == f"r:{room}"]
    assert told == [Publication(0, [Entry(offset, ("x", b"\xff\x00"))])]
