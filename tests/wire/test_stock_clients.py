"""The clients people have already, unchanged, with each way to connect."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support.server import Server
from support.sio import signed_in
from support.stock import KINDS, SignInFailed, stock_client
from support.tokens import make_token

pytestmark = pytest.mark.parametrize("kind", KINDS)

User = Callable[[str], str]


@pytest.mark.parametrize(
    "auth",
    [
        pytest.param({"token": "nonsense"}, id="nonsense"),
        pytest.param({"token": make_token("mallory", secret="x" * 40)}, id="foreign"),
        pytest.param({"token": make_token("late", lifetime_s=-60)}, id="expired"),
        pytest.param({}, id="missing"),
    ],
)
async def test_bad_token_is_refused_in_one_sentence(
    server: Server, kind: str, auth: dict[str, str]
) -> None:
    """Whatever is wrong with a token, the client hears «Authentication failed» and no more."""
    with pytest.raises(SignInFailed, match="Authentication failed"):
        async with stock_client(kind, server.url, auth):
            pytest.fail("the server let it in")


async def test_message_reaches_everyone_in_order_the_sender_too(
    server: Server, kind: str, room: str, user: User
) -> None:
    """Both members hear the same messages in the same order; the ack carries the offset."""
    alice, bob = user("alice"), user("bob")
    async with (
        stock_client(kind, server.url, {"token": make_token(alice)}) as sender,
        stock_client(kind, server.url, {"token": make_token(bob)}) as other,
    ):
        for client in (sender, other):
            assert (await client.call("join-room", room))["success"]
        acks = [await sender.call("message", {"roomId": room, "content": n}) for n in range(20)]
        heard = [[(await client.next("message")).body for _ in acks] for client in (sender, other)]
    assert all(ack["success"] for ack in acks)
    assert heard[0] == heard[1]
    assert [message["content"] for message in heard[0]] == list(range(20))
    for ack, message in zip(acks, heard[0], strict=True):
        expected = {"roomId": room, "userId": alice, "content": message["content"]}
        assert message == expected | {key: ack[key] for key in ("id", "timestamp", "offset")}


async def test_join_tells_who_is_there_and_the_others_hear_it(
    server: Server, kind: str, room: str, user: User
) -> None:
    """The ack of a join lists the members; who was there hears who came and who left."""
    alice, bob = user("alice"), user("bob")
    async with (
        stock_client(kind, server.url, {"token": make_token(alice)}) as first,
        stock_client(kind, server.url, {"token": make_token(bob)}) as second,
    ):
        await first.call("join-room", {"roomId": room})
        joined = await second.call("join-room", {"roomId": room})
        came = (await first.next("user-joined")).body
        assert (await second.call("leave-room", {"roomId": room}))["success"]
        left = (await first.next("user-left")).body
    assert joined["roomId"] == room
    assert sorted(member["userId"] for member in joined["members"]) == sorted([alice, bob])
    assert joined["count"] == 2
    assert (came["userId"], came["roomId"], left["userId"]) == (bob, room, bob)


async def test_direct_message_reaches_both_users_everywhere(
    server: Server, kind: str, user: User
) -> None:
    """A direct message comes to every connection of the user, and of the sender."""
    alice, bob = user("alice"), user("bob")
    async with (
        stock_client(kind, server.url, {"token": make_token(alice)}) as sender,
        stock_client(kind, server.url, {"token": make_token(bob)}) as receiver,
        signed_in(server.ws_url, make_token(bob)) as second_device,
        signed_in(server.ws_url, make_token(alice)) as own_device,
    ):
        ack = await sender.call("direct-message", {"userId": bob, "content": {"text": "hi"}})
        heard = [
            (await client.next("direct-message")).body
            for client in (sender, receiver, second_device, own_device)
        ]
    assert ack["success"]
    # It is stored for each of the two users, so its offset differs between them.
    assert [message | {"offset": 0} for message in heard] == [heard[0] | {"offset": 0}] * 4
    assert (heard[0]["userId"], heard[0]["to"], heard[0]["content"]) == (alice, bob, {"text": "hi"})


async def test_typing_and_status_reach_the_others(
    server: Server, kind: str, room: str, user: User
) -> None:
    """Typing and presence come to the other members, and not to the one whose they are."""
    alice, bob = user("alice"), user("bob")
    async with (
        stock_client(kind, server.url, {"token": make_token(alice)}) as sender,
        stock_client(kind, server.url, {"token": make_token(bob)}) as other,
    ):
        for client in (sender, other):
            await client.call("join-room", room)
        await sender.emit("typing", {"roomId": room})
        typing = (await other.next("typing")).body
        assert await sender.call("presence", {"status": "away"}) == {"success": True}
        status = (await other.next("presence")).body
        members = (await other.call("get-presence", {"roomId": room}))["members"]
        assert sender.inbox.pending("typing") == sender.inbox.pending("presence") == []
    assert (typing["roomId"], typing["userId"], typing["isTyping"]) == (room, alice, True)
    assert (status["userId"], status["status"], status["roomId"]) == (alice, "away", room)
    assert {member["userId"]: member["status"] for member in members} == {
        alice: "away",
        bob: "online",
    }


async def test_published_event_carries_binary(
    server: Server, kind: str, room: str, user: User
) -> None:
    """An app's own event comes with its data, bytes as bytes."""
    data = {"blob": bytes(range(256)), "list": [b"", b"\x00\xff"], "text": "ü\u2028\U0001f600"}
    async with (
        stock_client(kind, server.url, {"token": make_token(user("alice"))}) as sender,
        stock_client(kind, server.url, {"token": make_token(user("bob"))}) as other,
    ):
        for client in (sender, other):
            await client.call("join-room", room)
        ack = await sender.call("publish", {"roomId": room, "event": "drawing", "data": data})
        heard = [(await client.next("drawing")).body for client in (sender, other)]
    assert ack["success"], ack
    assert heard == [data, data]


async def test_history_gives_what_was_said(
    server: Server, kind: str, room: str, user: User
) -> None:
    """A page of history is what the members heard, oldest first."""
    async with stock_client(kind, server.url, {"token": make_token(user("alice"))}) as client:
        await client.call("join-room", room)
        for number in range(5):
            await client.call("message", {"roomId": room, "content": number})
        heard = [(await client.next("message")).body for _ in range(5)]
        page = await client.call("history", {"roomId": room, "limit": 3})
    assert page["success"]
    assert page["messages"] == heard[2:]
    assert page["next"] == heard[2]["offset"]
