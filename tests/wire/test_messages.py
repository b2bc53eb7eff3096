"""Messages, published events and history: acks key by key, and what is heard (docs/wire.md)."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from support.server import Server
from support.sio import signed_in
from support.tokens import make_token

User = Callable[[str], str]


def assert_now(timestamp_ms: int) -> None:
    """Timestamps are milliseconds since the epoch."""
    assert isinstance(timestamp_ms, int)
    assert abs(timestamp_ms - time.time() * 1000) < 60_000


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("text", id="string"),
        pytest.param({"a": [1, 2.5, None, True, {"b": {}}]}, id="object"),
        pytest.param(None, id="null"),
        pytest.param("", id="empty"),
        pytest.param(2**53, id="large number"),
        pytest.param('\u2028\ud83d\ude00\\"/\b'.encode("utf-16", "surrogatepass").decode("utf-16")),
        pytest.param({"__proto__": {"x": 1}, "constructor": "c"}, id="prototype keys"),
        pytest.param({"_placeholder": True, "num": 7}, id="looks like a placeholder"),
    ],
)
async def test_content_comes_as_it_went(
    server: Server, room: str, user: User, content: object
) -> None:
    """Whatever JSON an app sends is what the members get."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        await client.say(room, content)
        heard = (await client.next("message")).body["content"]
    assert heard == content


async def test_message_ack_and_event_agree(server: Server, room: str, user: User) -> None:
    """The ack has id, offset and timestamp of the event; the event ends with the cursor."""
    alice = user("alice")
    async with signed_in(server.ws_url, make_token(alice)) as client:
        await client.join(room)
        ack = await client.call("message", {"roomId": room, "content": "x", "id": "mine"})
        event = await client.next("message")
    assert set(ack) == {"success", "id", "offset", "timestamp"}
    assert (ack["success"], ack["id"]) == (True, "mine")
    assert_now(ack["timestamp"])
    assert event.args == [
        {
            "id": "mine",
            "roomId": room,
            "userId": alice,
            "content": "x",
            "timestamp": ack["timestamp"],
            "offset": ack["offset"],
        },
        event.cursor,
    ]
    assert event.cursor


async def test_offsets_grow(server: Server, room: str, user: User) -> None:
    """Later messages of a room have larger offsets, all of them positive integers."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        offsets = [(await client.say(room, n))["offset"] for n in range(10)]
    assert all(type(offset) is int and offset > 0 for offset in offsets)
    assert offsets == sorted(set(offsets))


async def test_same_id_is_stored_once(server: Server, room: str, user: User) -> None:
    """A second message with room, user and id of a first gets the first one's ack; one is heard."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        first = await client.say(room, "one", id="same")
        again = await client.say(room, "two", id="same")
        await client.say(room, "three")
        heard = [(await client.next("message")).body["content"] for _ in range(2)]
        page = await client.call("history", {"roomId": room})
    assert again == first
    assert heard == ["one", "three"]
    assert [message["content"] for message in page["messages"]] == ["one", "three"]


async def test_same_id_of_another_user_or_room_is_another_message(
    server: Server, room: str, user: User
) -> None:
    """An id is the sender's own name for a message in a room."""
    async with (
        signed_in(server.ws_url, make_token(user("alice"))) as alice,
        signed_in(server.ws_url, make_token(user("bob"))) as bob,
    ):
        for client, where in ((alice, room), (alice, room + "b"), (bob, room)):
            await client.join(where)
        acks = [
            await alice.say(room, 1, id="same"),
            await alice.say(room + "b", 1, id="same"),
            await bob.say(room, 1, id="same"),
        ]
    assert len({(ack["offset"], ack["timestamp"]) for ack in acks}) == 3


async def test_server_names_messages_without_id(server: Server, room: str, user: User) -> None:
    """Without an id the server makes one, a new one each time."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        ids = {(await client.say(room, "x"))["id"] for _ in range(5)}
    assert len(ids) == 5
    assert all(isinstance(name, str) and name for name in ids)


async def test_message_needs_membership(server: Server, room: str, user: User) -> None:
    """Who is not in the room may not speak in it, nor read it."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        for name, fields in (
            ("message", {"content": "x"}),
            ("publish", {"event": "e", "data": 1}),
        ):
            ack = await client.call(name, {"roomId": room} | fields)
            assert (ack["success"], ack["error"]["code"]) == (False, "NOT_JOINED")


async def test_one_id_to_several_users_is_several_messages(server: Server, user: User) -> None:
    """The sender, too, hears each and has each in its history, and a retry is none of them."""
    alice, others = user("alice"), [user("bob"), user("cyd")]
    async with signed_in(server.ws_url, make_token(alice)) as client:
        for to in (*others, alice, *others, alice):
            ack = await client.call("direct-message", {"userId": to, "content": to, "id": "1"})
            assert ack["success"]
        page = await client.call("history", {"roomId": f"user:{alice}"})
        heard = [(await client.next("direct-message")).body for _ in range(3)]
        await client.call("get-presence", "anywhere")
        assert client.inbox.pending("direct-message") == []
    for messages in (heard, page["messages"]):
        assert [(one["content"], one["id"]) for one in messages] == [
            (to, "1") for to in (*others, alice)
        ]


async def test_message_to_oneself_comes_once(server: Server, user: User) -> None:
    """A direct message whose sender is its receiver is one message."""
    alice = user("alice")
    async with signed_in(server.ws_url, make_token(alice)) as client:
        await client.call("direct-message", {"userId": alice, "content": 1})
        await client.call("direct-message", {"userId": alice, "content": 2})
        heard = [(await client.next("direct-message")).body["content"] for _ in range(2)]
        await client.call("get-presence", "anywhere")
        assert client.inbox.pending("direct-message") == []
    assert heard == [1, 2]


async def test_recovery_can_be_declined(server: Server, room: str, user: User) -> None:
    """`auth: {recovery: false}`: events have exactly their own arguments."""
    token = make_token(user("alice"))
    async with signed_in(server.ws_url, token, recovery=False) as client:
        await client.join(room)
        await client.say(room, "x")
        assert len((await client.next("message")).args) == 1


async def test_publish_sends_the_apps_own_event(server: Server, room: str, user: User) -> None:
    """The event's name and data are the app's; history has the rest too."""
    alice = user("alice")
    async with signed_in(server.ws_url, make_token(alice)) as client:
        await client.join(room)
        ack = await client.call(
            "publish", {"roomId": room, "event": "score", "data": [1, "two"], "id": "p"}
        )
        event = await client.next("score")
        page = await client.call("history", {"roomId": room})
    assert event.args == [[1, "two"], event.cursor]
    assert page["messages"] == [
        {
            "id": "p",
            "roomId": room,
            "userId": alice,
            "event": "score",
            "data": [1, "two"],
            "timestamp": ack["timestamp"],
            "offset": ack["offset"],
        }
    ]


async def test_published_string_is_not_taken_for_a_cursor(
    server: Server, room: str, user: User
) -> None:
    """Data that is a string is followed by the cursor: the last string is always the cursor."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        await client.call("publish", {"roomId": room, "event": "note", "data": "text"})
        event = await client.next("note")
    assert event.body == "text"
    assert event.cursor not in (None, "text")


async def test_history_pages_cover_the_log_once(server: Server, room: str, user: User) -> None:
    """Going back by `before` and forth by `after` meets each message once, oldest first."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        offsets = [(await client.say(room, n))["offset"] for n in range(25)]

        async def pages(**position: int) -> list[list[int]]:
            """Follow `next` in the direction of the first question."""
            (direction,) = position or {"before": 0}
            found: list[list[int]] = []
            while True:
                page = await client.call("history", {"roomId": room, "limit": 10} | position)
                assert page["success"], page
                found.append([message["offset"] for message in page["messages"]])
                if page["next"] is None:
                    return found
                position = {direction: page["next"]}

        backwards = await pages()
        forwards = await pages(after=0)
    assert sum(reversed(backwards), []) == offsets
    assert sum(forwards, []) == offsets
    assert all(page == sorted(page) for page in backwards)


async def test_history_limits(server: Server, room: str, user: User) -> None:
    """A page has 50 messages by default and 100 at most."""
    async with signed_in(server.ws_url, make_token(user("alice"))) as client:
        await client.join(room)
        pending = [
            await client.start_call("message", {"roomId": room, "content": n}) for n in range(110)
        ]
        for ack in pending:
            assert (await ack)[0]["success"]
        default = await client.call("history", {"roomId": room})
        most = await client.call("history", {"roomId": room, "limit": 100})
        more = await client.call("history", {"roomId": room, "limit": 101})
    assert [message["content"] for message in default["messages"]] == list(range(60, 110))
    assert [message["content"] for message in most["messages"]] == list(range(10, 110))
    assert more["success"] is False or len(more["messages"]) == 100
