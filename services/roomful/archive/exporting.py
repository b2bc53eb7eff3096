"""
Exports: every message of an archive, of a room or of a user, as NDJSON or Parquet.

NDJSON has what members heard as `message` (or `data`, of an app's own event); Parquet has the
same as text in `body`, for queries.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

import msgspec

from roomful.archive.base import Archive, ArchiveUnavailable, Kept
from roomful.shard.message import OPEN_EVENTS, RoomId, UserId

__all__ = ["NdjsonWriter", "ParquetWriter", "Writer", "export"]

GROUP_ROWS: Final = 50_000
"""Rows of one group of a Parquet file."""


class _Line(msgspec.Struct, rename="camel", omit_defaults=True):
    room_id: str
    offset: int
    shard: str
    timestamp: int
    event: str
    id: str
    user_id: str
    message: msgspec.Raw | None = None
    data: msgspec.Raw | None = None
    attachments: list[str] | None = None
    """Base64."""


class Writer(Protocol):
    """Where an export goes."""

    def write(self, batch: Sequence[Kept]) -> None:
        """Add messages."""

    def close(self) -> None:
        """Finish: without it there is no export."""


def _body(kept: Kept) -> bytes:
    envelope = kept.entry.envelope
    return envelope.body + b"}" if envelope.event in OPEN_EVENTS else envelope.body


class NdjsonWriter:
    """One JSON object a line."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._encode = msgspec.json.Encoder().encode_lines

    def write(self, batch: Sequence[Kept]) -> None:
        """Add messages."""
        self._file.write(self._encode([_line(kept) for kept in batch]))

    def close(self) -> None:
        """Hand everything to the system; the file stays open."""
        self._file.flush()


def _line(kept: Kept) -> _Line:
    envelope, body = kept.entry.envelope, msgspec.Raw(_body(kept))
    is_open = envelope.event in OPEN_EVENTS
    return _Line(
        room_id=envelope.room,
        offset=kept.entry.offset,
        shard=kept.shard,
        timestamp=envelope.timestamp,
        event=envelope.event,
        id=envelope.id,
        user_id=envelope.user,
        message=body if is_open else None,
        data=None if is_open else body,
        attachments=[base64.b64encode(one).decode() for one in envelope.attachments] or None,
    )


class ParquetWriter:
    """A Parquet file with zstd, in groups of rows."""

    # Mutable state: rows that are not a group yet.
    def __init__(self, path: Path) -> None:
        """
        Begin the file.

        Raises:
            ArchiveUnavailable: pyarrow is not installed.
        """
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as exc:
            raise ArchiveUnavailable(
                "Parquet needs the package pyarrow: pip install 'roomful[parquet]'",
                temporary=False,
            ) from exc
        self._arrow: Any = pyarrow
        text, number = pyarrow.string(), pyarrow.int64()
        self._schema = pyarrow.schema(
            [
                ("room_id", text),
                ("offset", number),
                ("shard", text),
                ("timestamp", pyarrow.timestamp("ms", tz="UTC")),
                ("event", text),
                ("id", text),
                ("user_id", text),
                ("body", text),
                ("attachments", pyarrow.list_(pyarrow.binary())),
            ]
        )
        self._file: Any = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[tuple[Any, ...]] = []

    def write(self, batch: Sequence[Kept]) -> None:
        """Add messages."""
        self._rows += [_row(kept) for kept in batch]
        if len(self._rows) >= GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        columns = [list(column) for column in zip(*self._rows, strict=True)]
        arrays = [
            self._arrow.array(column, one.type)
            for column, one in zip(columns, self._schema, strict=True)
        ]
        self._file.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._rows = []

    def close(self) -> None:
        """Write the rest and the end of the file."""
        if self._rows:
            self._flush()
        self._file.close()


def _row(kept: Kept) -> tuple[Any, ...]:
    envelope = kept.entry.envelope
    return (
        envelope.room,
        kept.entry.offset,
        kept.shard,
        envelope.timestamp,
        envelope.event,
        envelope.id,
        envelope.user,
        _body(kept).decode(errors="replace"),
        list(envelope.attachments),
    )


async def export(
    archive: Archive,
    writer: Writer,
    *,
    room: RoomId | None = None,
    user: UserId | None = None,
    progress: Callable[[int], None],
) -> int:
    """Write all messages, a room's or a user's; *progress* hears how many so far."""
    count = 0
    async for batch in archive.export(room=room, user=user):
        writer.write(batch)
        count += len(batch)
        progress(count)
    writer.close()
    return count
