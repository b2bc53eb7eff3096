"""History that lasts longer than the hot log: pages, resuming, and what is erased."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import httpx
import pytest

from roomful.archive.sqlite_chunks import connect, forward
from roomful.shard.message import RoomId
from support.plainjson import plain_signed_in
from support.server import Server
from support.sio import SocketIo, signed_in
from support.tokens import make_service_token, make_token

User = Callable[[str], str]
KEPT = 20
SERVICE = {"Authorization": f"Bearer {make_service_token()}"}


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """Room logs that are short; the archive is behind them."""
    return {"log_messages_per_room": str(KEPT)}


async def fill(server: Server, user: str, room: str, count: int) -> list[int]:
    """Store *count* messages in the room; gives their offsets."""
    async with signed_in(server.ws_url, make_token(user)) as sender:
        await sender.join(room)
        return [(await sender.say(room, number))["offset"] for number in range(count)]


def get_page(server: Server, room: str, **query: int) -> dict[str, Any]:
    """Give a page over REST."""
    answer = httpx.get(
        f"{server.url}/api/rooms/{room}/history", params=query, headers=SERVICE, timeout=30
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def contents(page: dict[str, Any]) -> list[Any]:
    """Give the contents of a page's messages."""
    return [message["content"] for message in page["messages"]]


@pytest.mark.parametrize("limit", [7, 20, 50])
async def test_history_goes_back_through_log_and_archive(
    server: Server, room: str, user: User, limit: int
) -> None:
    """One sequence, one cursor: no message twice, none left out, from either end."""
    await fill(server, user("alice"), room, 5 * KEPT)
    seen: list[Any] = []
    before: int | None = None
    while True:
        page = get_page(server, room, limit=limit, **({} if before is None else {"before": before}))
        seen = contents(page) + seen
        before = page["next"]
        if before is None:
            break
    assert seen == list(range(5 * KEPT))
    forth: list[Any] = []
    after: int | None = 0
    async with signed_in(server.ws_url, make_token(user("bob"))) as client:
        await client.join(room)
        while after is not None:
            ask = {"roomId": room, "after": after, "limit": limit}
            page = await client.call("history", ask)
            forth += contents(page)
            after = page["next"]
    assert forth == seen


async def test_a_client_that_was_away_long_gets_it_from_the_archive(
    server: Server, room: str, user: User
) -> None:
    """Recovered, truly: everything it missed, in order, then what is new."""
    token = make_token(user("bob"))
    async with signed_in(server.ws_url, token) as old:
        await old.join(room)
        await old.say(room, "before")
        await old.next("message")
        old.cut()
        await old.closed.wait()
    await fill(server, user("alice"), room, 5 * KEPT)
    async with SocketIo.dial(server.ws_url) as new:
        answer = await new.sign_in({"token": token, "pid": old.pid, "offset": old.cursor})
        assert answer["pid"] == old.pid
        await new.say(room, "new")
        heard = [(await new.next("message")).body["content"] for _ in range(5 * KEPT + 1)]
    assert heard == [*range(5 * KEPT), "new"]


async def test_a_plain_client_too(server: Server, room: str, user: User) -> None:
    """By its cursor alone, in several rooms."""
    quiet = f"{room}-quiet"
    async with plain_signed_in(server.ws_url, make_token(user("bob"))) as old:
        for name in (room, quiet):
            await old.call("join-room", roomId=name)
        await old.call("message", roomId=room, content="before")
        cursor = (await old.next("message"))["cursor"]
    await fill(server, user("alice"), room, 3 * KEPT)
    await fill(server, user("alice"), quiet, 1)
    async with plain_signed_in(server.ws_url, make_token(user("bob"))) as new:
        ack = await new.call("resume", cursor=cursor, rooms=[room, quiet])
        assert (ack["recovered"], ack["holes"]) == (True, [])
        heard = [(await new.next("message"))["content"] for _ in range(3 * KEPT + 1)]
    assert heard == [*range(3 * KEPT), 0]


def archived(server: Server, room: str) -> int:
    """Count a room's messages in the archive."""
    (path,) = server.state.glob("messages-*.sqlite3")
    with closing(connect(path)) as connection:
        return sum(1 for _ in forward(connection, RoomId(room), -1))


def erase(server: Server, path: str) -> Any:
    """Ask for an erasure; gives how many messages went."""
    answer = httpx.delete(f"{server.url}/api{path}", headers=SERVICE, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["messages"]


async def test_a_message_is_erased_from_log_and_archive(
    server: Server, room: str, user: User
) -> None:
    """An old one and a new one; the others stay where they were."""
    offsets = await fill(server, user("alice"), room, 2 * KEPT)
    for number in (3, 2 * KEPT - 3):
        assert erase(server, f"/rooms/{room}/messages/{offsets[number]}") == 1
    left = [number for number in range(2 * KEPT) if number not in (3, 2 * KEPT - 3)]
    assert contents(get_page(server, room, limit=100)) == left
    assert archived(server, room) == len(left)
    assert erase(server, f"/rooms/{room}/messages/{offsets[3]}") == 0


async def test_a_room_is_erased(server: Server, room: str, user: User) -> None:
    """All of it up to now; what comes later is kept."""
    await fill(server, user("alice"), room, 2 * KEPT)
    assert erase(server, f"/rooms/{room}/messages") == 2 * KEPT
    page = get_page(server, room)
    assert (page["messages"], page["next"]) == ([], None)
    await fill(server, user("alice"), room, 2)
    assert contents(get_page(server, room)) == [0, 1]


async def test_what_a_user_sent_is_erased_everywhere(server: Server, room: str, user: User) -> None:
    """In all rooms, from the log and the archive; what others said stays. It is written down."""
    other = f"{room}-other"
    await fill(server, user("alice"), room, KEPT + 5)
    await fill(server, user("bob"), room, 3)
    await fill(server, user("alice"), other, 2)
    assert erase(server, f"/users/{user('alice')}/messages") == KEPT + 7
    assert contents(get_page(server, room)) == [0, 1, 2]
    assert contents(get_page(server, other)) == []
    (path,) = server.state.glob("messages-*.sqlite3")
    with closing(sqlite3.connect(path)) as connection:
        (row,) = connection.execute(
            "SELECT by, user_id, erased FROM erasure WHERE user_id = ?", (user("alice"),)
        ).fetchall()
    assert row == ("backend", user("alice"), KEPT + 7)


def test_only_backends_erase(server: Server, room: str, user: User) -> None:
    """A user's token does not do."""
    headers = {"Authorization": f"Bearer {make_token(user('alice'))}"}
    answer = httpx.delete(f"{server.url}/api/rooms/{room}/messages", headers=headers)
    assert answer.status_code == 403
