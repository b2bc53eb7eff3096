"""Reads rooms' whole logs at the end, through the edges' own REST, a few rooms at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import httpx
import msgspec

from roomful.protocol.errors import RoomfulError
from roomful.verify.ledger import FOREIGN, Stored, parse_key

__all__ = ["LogsUnread", "read_logs"]

PAGE: Final = 100
AT_ONCE: Final = 8
ATTEMPTS: Final = 10


class _Message(msgspec.Struct):
    offset: int
    id: str


class _Page(msgspec.Struct):
    messages: list[_Message]
    next: int | None


class LogsUnread(RoomfulError):
    """A room's log could not be read, so nothing can be said about it."""


async def read_logs(
    urls: Sequence[str],
    rooms: Sequence[str],
    token: str,
    *,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[Stored]]:
    """
    Give the log of each of *rooms*, oldest first.

    Args:
        token: a service token.
        progress: called with the number of rooms read so far.

    Raises:
        LogsUnread: an edge refused, or none answered in some attempts.
    """
    logs: dict[str, list[Stored]] = {}
    gate = asyncio.Semaphore(AT_ONCE)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=10.0) as client:

        async def read(number: int, room: str) -> None:
            async with gate:
                logs[room] = await _read_log(client, urls, number, room)
            if progress is not None:
                progress(len(logs))

        async with asyncio.TaskGroup() as group:
            for number, room in enumerate(rooms):
                group.create_task(read(number, room))
    return logs


async def _read_log(
    client: httpx.AsyncClient, urls: Sequence[str], number: int, room: str
) -> list[Stored]:
    log: list[Stored] = []
    after: int | None = 0
    while after is not None:
        page = await _page(client, urls, number, f"/api/rooms/{room}/history", after)
        log += [Stored(one.offset, parse_key(one.id) or FOREIGN) for one in page.messages]
        after = page.next
    return log


async def _page(
    client: httpx.AsyncClient, urls: Sequence[str], number: int, path: str, after: int
) -> _Page:
    why = ""
    for attempt in range(ATTEMPTS):
        url = urls[(number + attempt) % len(urls)]
        try:
            response = await client.get(url + path, params={"after": after, "limit": PAGE})
        except httpx.HTTPError as exc:
            why = f"{url}: {exc or type(exc).__name__}"
        else:
            if response.status_code == httpx.codes.OK:
                return msgspec.json.decode(response.content, type=_Page)
            why = f"{url}: {response.status_code} {response.text[:200]}"
        await asyncio.sleep(0.2 * (attempt + 1))
    raise LogsUnread(f"{path}: {why}")
