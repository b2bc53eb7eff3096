"""What was revoked, kept for edges that come later."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from functions.calls import TERM, Calls
from functions.server import RunningServer

HOUR_MS = 3_600_000


def read(shard: Calls, count: int = 10) -> dict[bytes, int]:
    """Read all pages."""
    found: dict[bytes, int] = {}
    cursor = b"0"
    while True:
        cursor, *pairs = shard("revocations", [], TERM, cursor, count)
        found |= zip(pairs[::2], map(int, pairs[1::2]), strict=True)
        if cursor == b"0":
            return found


def test_a_revocation_is_heard_and_kept(shard: Calls) -> None:
    """Whoever listens hears the words now, whoever reads later gets them with their end."""
    ear = shard.listen("roomful:control")
    assert shard("revoke", [], TERM, "user:alice", HOUR_MS, b"\xff words") == 1
    assert ear.raw() == [("roomful:control", b"\xff words")]
    assert 0 < read(shard)[b"\xff words"] <= HOUR_MS


def test_a_second_revocation_of_the_same_is_one_with_the_later_end(shard: Calls) -> None:
    """The newest words count, and an earlier end does not shorten it."""
    ttl = 2 * HOUR_MS
    shard("revoke", [], TERM, "user:alice", ttl, "first")
    shard("revoke", [], TERM, "user:alice", ttl - HOUR_MS, "second")
    assert HOUR_MS < read(shard)[b"second"] <= ttl


def test_what_lapsed_is_not_read_and_is_forgotten(server: RunningServer, shard: Calls) -> None:
    """After its end it is not told, and the next revocation takes it away."""
    shard("revoke", [], TERM, "user:alice", 60_000, "alice")
    shard("revoke", [], TERM, "user:bob", HOUR_MS, "bob")
    server.pass_time(61)
    assert set(read(shard)) == {b"bob"}
    shard("revoke", [], TERM, "user:carol", HOUR_MS, "carol")
    assert shard.command("HLEN", "roomful:revocations") == 2
    assert shard.command("ZCARD", "roomful:revoked") == 2


def test_many_are_read_in_pages(shard: Calls) -> None:
    """All of them come, however small the pages."""
    for number in range(1500):
        shard("revoke", [], TERM, f"user:{number}", HOUR_MS, f"words {number}")
    assert read(shard, 100).keys() == {f"words {number}".encode() for number in range(1500)}


def test_an_old_term_revokes_and_reads_nothing(shard: Calls) -> None:
    """A primary that was replaced keeps nothing that its successor does not know."""
    for function, args in (("revoke", ("user:a", 1, "w")), ("revocations", ("0", 10))):
        with pytest.raises(ResponseError, match=f"^ROOMFUL STALE_TERM {TERM}$"):
            shard(function, [], TERM + 1, *args)
