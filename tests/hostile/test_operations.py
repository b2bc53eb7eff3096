"""Operations with wrong arguments: refused with a code, the connection stays, nobody is harmed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.plainjson import plain_signed_in
from support.refusals import assert_refused, is_taken
from support.server import Server
from support.sio import signed_in
from support.tokens import make_token

NAMES_THAT_ARE_NONE = [
    pytest.param(None, id="null"),
    pytest.param(7, id="number"),
    pytest.param(True, id="boolean"),
    pytest.param([], id="array"),
    pytest.param({}, id="object"),
    pytest.param("", id="empty"),
    pytest.param("x" * 256, id="256 characters"),
    pytest.param("x" * 500_000, id="500,000 characters"),
    pytest.param("a\x00b", id="NUL"),
    pytest.param("a\nb", id="line feed"),
    pytest.param("a\x7fb", id="delete"),
    pytest.param("a\x85b", id="C1 control"),
    pytest.param("\ud800", id="lone surrogate"),
]
"""Neither rooms nor users nor events can be called this."""

MESSAGE = {"roomId": "r", "content": 1}
PUBLISH = {"roomId": "r", "event": "e", "data": 1}
WRONG_FIELDS: list[tuple[str, Any]] = [
    ("join-room", {}),
    ("join-room", ["r"]),
    ("join-room", 7),
    ("join-room", None),
    ("leave-room", {}),
    ("leave-room", 7),
    ("message", "text"),
    ("message", None),
    ("message", []),
    ("message", {"roomId": "r"}),
    ("message", {"content": 1}),
    ("message", MESSAGE | {"id": 7}),
    ("message", MESSAGE | {"id": ""}),
    ("message", MESSAGE | {"id": "x" * 129}),
    ("message", MESSAGE | {"id": {}}),
    ("direct-message", {"content": 1}),
    ("direct-message", {"userId": "u"}),
    ("direct-message", {"userId": 7, "content": 1}),
    ("direct-message", {"userId": "", "content": 1}),
    ("direct-message", {"userId": "x" * 129, "content": 1}),
    ("publish", {"roomId": "r", "event": "e"}),
    ("publish", {"roomId": "r", "data": 1}),
    ("publish", PUBLISH | {"event": 7}),
    ("publish", PUBLISH | {"event": ""}),
    ("publish", PUBLISH | {"event": "x" * 129}),
    ("typing", {}),
    ("typing", {"roomId": "r", "isTyping": "yes"}),
    ("typing", {"roomId": 7}),
    ("presence", {}),
    ("presence", "away"),
    ("presence", {"status": ""}),
    ("presence", {"status": 7}),
    ("presence", {"status": "x" * 65}),
    ("get-presence", {}),
    ("get-presence", 7),
    ("history", "r"),
    ("history", {}),
    ("history", {"roomId": "r", "limit": 0}),
    ("history", {"roomId": "r", "limit": -1}),
    ("history", {"roomId": "r", "limit": "10"}),
    ("history", {"roomId": "r", "limit": 1.5}),
    ("history", {"roomId": "r", "limit": True}),
    ("history", {"roomId": "r", "before": -1}),
    ("history", {"roomId": "r", "before": "x"}),
    ("history", {"roomId": "r", "before": 10**400}),
    ("history", {"roomId": "r", "after": []}),
    ("auth", {}),
    ("auth", {"token": 7}),
    ("auth", "token"),
]
WRONG = [pytest.param(name, body, id=f"{name} {str(body)[:40]}") for name, body in WRONG_FIELDS]


@pytest.mark.parametrize(("name", "body"), WRONG)
async def test_wrong_fields_over_socketio(server: Server, name: str, body: Any) -> None:
    """Each operation checks each field's type and size, and says what is wrong."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        assert_refused(await client.call(name, body), "BAD_REQUEST")
        await client.join("still-works")


@pytest.mark.parametrize(
    ("name", "body"), [case for case in WRONG if isinstance(case.values[1], dict)]
)
async def test_wrong_fields_over_plain_json(
    server: Server, name: str, body: dict[str, Any]
) -> None:
    """The same checks on the other wire."""
    async with plain_signed_in(server.ws_url, make_token("alice")) as client:
        assert_refused(await client.call(name, **body), "BAD_REQUEST")
        assert (await client.call("join-room", roomId="still-works"))["success"]


REST: dict[str, dict[str, Any]] = {
    "message": {"content": 1},
    "publish": {"event": "e", "data": 1},
}
"""The other fields of an operation that is right but for the room."""


@pytest.mark.parametrize(
    "name", ["join-room", "leave-room", "message", "publish", "get-presence", "history"]
)
@pytest.mark.parametrize("room_name", NAMES_THAT_ARE_NONE)
async def test_names_that_are_no_room(server: Server, name: str, room_name: object) -> None:
    """A room's name is 1 to 255 characters without control characters or surrogates."""
    rest = REST.get(name, {})
    async with signed_in(server.ws_url, make_token("alice")) as client:
        ack = await client.call(name, {"roomId": room_name} | rest)
        assert_refused(ack, "BAD_REQUEST", "NOT_JOINED")
        if name == "join-room":
            assert ack["error"]["code"] == "BAD_REQUEST"
        await client.join("still-works")


SPACED = ["a b", "a\u00a0b", "\u6771\u4eac\u3000\u99c5", "\U0001f468\u200d\U0001f469"]
"""Spaces of other scripts and joiners: people's room names have them."""


@pytest.mark.parametrize(
    "room_name",
    ["x" * 255, "__proto__", "constructor", "a/b?c#d", "ü€\U0001f600", "..", "*", "{x}", *SPACED],
)
async def test_odd_names_are_rooms_like_others(server: Server, room_name: str) -> None:
    """Whatever is not forbidden works."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.join(room_name)
        await client.say(room_name, "x")
        assert (await client.next("message")).body["roomId"] == room_name
        page = await client.call("history", {"roomId": room_name})
        assert [message["content"] for message in page["messages"]][-1:] == ["x"]


@pytest.mark.parametrize("target", ["user:bob", "user:alice", "user:", "user:nobody"])
@pytest.mark.parametrize("form", [lambda room: room, lambda room: {"roomId": room}])
async def test_nobody_joins_the_room_of_a_user(server: Server, target: str, form: Any) -> None:
    """`user:` is reserved; not even one's own can be joined by hand."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        assert_refused(await client.call("join-room", form(target)), "RESERVED_ROOM")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("message", {"content": "forged"}),
        ("publish", {"event": "forged", "data": 1}),
        ("history", {}),
        ("get-presence", {}),
        ("leave-room", {}),
    ],
)
async def test_nobody_uses_the_room_of_a_user(
    server: Server, name: str, fields: dict[str, Any]
) -> None:
    """Nothing is read from or written to another user's own room by its name."""
    async with (
        signed_in(server.ws_url, make_token("bob")) as bob,
        signed_in(server.ws_url, make_token("alice")) as alice,
    ):
        await alice.call("direct-message", {"userId": "bob", "content": "secret"})
        assert (await bob.next("direct-message")).body["content"] == "secret"
        ack = await alice.call(name, {"roomId": "user:bob"} | fields)
        assert_refused(ack, "RESERVED_ROOM", "NOT_JOINED", "FORBIDDEN")
        await alice.call("direct-message", {"userId": "bob", "content": "last"})
        assert (await bob.next("direct-message")).body["content"] == "last"
        assert bob.inbox.pending("message") == bob.inbox.pending("forged") == []


async def test_nobody_leaves_the_own_room(server: Server) -> None:
    """`leave-room` of one's own `user:` room is refused, and direct messages go on."""
    async with signed_in(server.ws_url, make_token("carol")) as client:
        ack = await client.call("leave-room", "user:carol")
        assert_refused(ack, "RESERVED_ROOM", "NOT_JOINED")
        await client.call("direct-message", {"userId": "carol", "content": "me"})
        await client.next("direct-message")


@pytest.mark.parametrize(
    "event",
    """
    message direct-message user-joined user-left typing presence presence-count user-update cursor
    error reconnect recovery-failed token-expiring join-room leave-room publish history auth
    get-presence resume connect connect_error disconnect disconnecting newListener removeListener
    roomful:x roomful:
    """.split(),
)
async def test_reserved_events_cannot_be_published(server: Server, room: str, event: str) -> None:
    """Nobody forges an event of the server, or one that clients give a meaning of their own."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.join(room)
        ack = await client.call("publish", {"roomId": room, "event": event, "data": {}})
        assert_refused(ack, "RESERVED_EVENT")


@pytest.mark.parametrize(
    "event", ["__proto__", "constructor", "toString", "hasOwnProperty", "then"]
)
async def test_odd_events_come_as_they_are(server: Server, room: str, event: str) -> None:
    """Names that mean something to JavaScript objects are names like others here."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.join(room)
        ack = await client.call("publish", {"roomId": room, "event": event, "data": event})
        assert ack["success"]
        assert (await client.next(event)).body == event


@pytest.mark.parametrize(
    "name", ["no-such-thing", "", "MESSAGE", "__proto__", "x" * 10_000, "\ud800", "\x00", "resume"]
)
async def test_unknown_event_is_refused(server: Server, name: str) -> None:
    """What is no operation is UNKNOWN_EVENT, with an ack and without."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        assert_refused(await client.call(name, {}), "UNKNOWN_EVENT")
        await client.emit(name, {})
        assert (await client.next("error")).body["code"] == "UNKNOWN_EVENT"
        await client.join("still-works")


@pytest.mark.parametrize("event", ["a\nb", "\x00", "\x7f", "\x9f", "\ud800"])
async def test_events_with_control_characters_cannot_be_published(
    server: Server, room: str, event: str
) -> None:
    """As for rooms; and what is no Unicode is no name at all."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.join(room)
        ack = await client.call("publish", {"roomId": room, "event": event, "data": {}})
        assert_refused(ack, "RESERVED_EVENT", "BAD_REQUEST")


async def test_event_without_arguments_is_refused(server: Server) -> None:
    """`["join-room"]` has no room."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        assert_refused(await client.call("join-room"), "BAD_REQUEST")


async def test_duplicate_keys_do_not_fool_the_check(server: Server) -> None:
    """The room whose rights are checked is the room that is joined, whichever key counts."""
    rights = {"open": ["join", "send"]}
    async with signed_in(server.ws_url, make_token("alice", rooms=rights)) as client:
        for first, second in (("open", "closed"), ("closed", "open")):
            await client.call_raw(f'["join-room",{{"roomId":"{first}","roomId":"{second}"}}]')
            answer = await client.call("message", {"roomId": "closed", "content": 1})
            assert_refused(answer, "FORBIDDEN", "NOT_JOINED")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('"\\ud800"', id="lone surrogate"),
        pytest.param('"\\udc00\\ud800"', id="surrogates in the wrong order"),
        pytest.param('{"\\ud800":1}', id="lone surrogate in a key"),
        pytest.param("1e999", id="1e999"),
        pytest.param("1" * 5000, id="5,000 digits"),
        pytest.param('{"a":1,"a":2}', id="duplicate keys"),
        pytest.param('"\\u0000"', id="NUL"),
        pytest.param("-0.0", id="minus zero"),
    ],
)
async def test_odd_json_is_refused_or_stays_readable(
    server: Server, room: str, content: str
) -> None:
    """Content at the edge of JSON harms nobody: other members, plain JSON and history go on."""
    async with (
        signed_in(server.ws_url, make_token("victim")) as victim,
        plain_signed_in(server.ws_url, make_token("plain")) as plain,
        signed_in(server.ws_url, make_token("alice")) as client,
    ):
        await victim.join(room)
        await plain.call("join-room", roomId=room)
        await client.join(room)
        ack = await client.call_raw(f'["message",{{"roomId":"{room}","content":{content}}}]')
        if ack["success"]:
            assert (await victim.next("message")).body["content"] == json.loads(content)
        else:
            assert_refused(ack, "BAD_REQUEST")
        await client.say(room, "last")
        assert (await victim.next("message")).body["content"] == "last"
        while (await plain.next("message"))["content"] != "last":
            pass
        for reader in (
            victim.call("history", {"roomId": room}),
            plain.call("history", roomId=room),
        ):
            page = await reader
            assert page["success"], page
            assert page["messages"][-1]["content"] == "last"


@pytest.mark.parametrize(
    "content", ["NaN", "Infinity", "-Infinity", "01", "'a'", "undefined", "+1"]
)
async def test_content_that_is_no_json_is_refused(server: Server, room: str, content: str) -> None:
    """What other clients could not parse is not sent to them."""
    async with signed_in(server.ws_url, make_token("victim")) as victim:
        await victim.join(room)
        async with signed_in(server.ws_url, make_token("alice")) as client:
            await client.join(room)
            body = f'["message",{{"roomId":"{room}","content":{content}}}]'
            assert not await is_taken(client, body)
            await victim.say(room, "mine")
            assert (await victim.next("message")).body["content"] == "mine"


@pytest.mark.parametrize("binary", [b"\xff", b"", b"\x00" * 1000])
async def test_odd_json_beside_binary(server: Server, room: str, binary: bytes) -> None:
    """A lone surrogate next to an attachment breaks no reader that sees the binary as base64."""
    async with (
        plain_signed_in(server.ws_url, make_token("plain")) as plain,
        signed_in(server.ws_url, make_token("alice")) as client,
    ):
        await plain.call("join-room", roomId=room)
        await client.join(room)
        body = f'{{"roomId":"{room}","content":["\\ud800",{{"_placeholder":true,"num":0}}]}}'
        await client.send(f'451-["message",{body}]')
        await client.send(binary)
        await client.say(room, "last")
        while (await plain.next("message"))["content"] != "last":
            pass
        assert (await plain.call("history", roomId=room))["success"]
