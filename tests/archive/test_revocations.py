"""What one process refuses is kept until it lapses, and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from roomful.archive.base import ArchiveUnavailable
from roomful.archive.embedded import EmbeddedArchive
from roomful.archive.sqlite_chunks import connect


class Clock:
    """A time of day that the test says."""

    now = 1000.0

    def __call__(self) -> float:
        """Give it."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The time of day."""
    return Clock()


@pytest.fixture
def archive(tmp_path: Path, clock: Clock) -> Iterator[EmbeddedArchive]:
    """A database without a shard."""
    archive = EmbeddedArchive(tmp_path, 1, now=clock)
    yield archive
    archive.close()


async def test_a_revocation_is_kept_until_it_lapses(archive: EmbeddedArchive, clock: Clock) -> None:
    """And its row goes with the next one."""
    await archive.keep_revocation("user:bob", 1010.0, b"bob")
    await archive.keep_revocation("user:eve", 1020.0, b"eve")
    assert sorted(await archive.revocations()) == [(b"bob", 1010.0), (b"eve", 1020.0)]
    clock.now = 1010.0
    assert await archive.revocations() == [(b"eve", 1020.0)]
    clock.now = 1000.0
    assert len(await archive.revocations()) == 2
    clock.now = 1010.0
    await archive.keep_revocation("user:ann", 1020.0, b"ann")
    clock.now = 1000.0
    assert sorted(await archive.revocations()) == [(b"ann", 1020.0), (b"eve", 1020.0)]


async def test_an_earlier_end_does_not_shorten_it(archive: EmbeddedArchive) -> None:
    """The newest words count, for as long as any were meant to."""
    await archive.keep_revocation("user:bob", 1020.0, b"first")
    await archive.keep_revocation("user:bob", 1010.0, b"second")
    assert await archive.revocations() == [(b"second", 1020.0)]
    await archive.keep_revocation("user:bob", 1030.0, b"third")
    assert await archive.revocations() == [(b"third", 1030.0)]


async def test_revocations_are_bounded(
    archive: EmbeddedArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The soonest to lapse goes."""
    monkeypatch.setattr("roomful.archive.sqlite_revocations.MOST", 2)
    for name, lapses_at in (("a", 1030.0), ("b", 1010.0), ("c", 1020.0)):
        await archive.keep_revocation(f"user:{name}", lapses_at, name.encode())
    assert sorted(await archive.revocations()) == [(b"a", 1030.0), (b"c", 1020.0)]


async def test_what_cannot_be_kept_is_said(archive: EmbeddedArchive, tmp_path: Path) -> None:
    """Whoever revokes learns that a restart would forget it."""
    with closing(connect(tmp_path / "messages-1.sqlite3")) as connection:
        connection.execute("DROP TABLE revocation")
    with pytest.raises(ArchiveUnavailable):
        await archive.keep_revocation("user:bob", 1010.0, b"bob")
