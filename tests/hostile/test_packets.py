"""Valid WebSocket messages that are no valid packets: closed with BAD_PACKET."""

from __future__ import annotations

import pytest

from support.eio import EngineSocket
from support.plainjson import PlainJson, plain_signed_in
from support.refusals import BAD_PACKET, is_taken
from support.server import Server
from support.sio import signed_in
from support.tokens import make_token

ENGINE_PACKETS = [
    pytest.param("", id="empty"),
    pytest.param("9", id="unknown type"),
    pytest.param("x", id="no digit"),
    pytest.param("٤٠", id="digits of another script"),
    pytest.param("\x00", id="NUL"),
    pytest.param('0{"sid":"x"}', id="open"),
    pytest.param("2", id="ping"),
    pytest.param("2probe", id="probe without polling"),
    pytest.param("5", id="upgrade without polling"),
    pytest.param("4", id="empty message"),
    pytest.param("49", id="unknown Socket.IO type"),
    pytest.param("44{}", id="connect error"),
    pytest.param('42["a"]', id="event before connect"),
    pytest.param('430["a"]', id="ack before connect"),
    pytest.param("41", id="disconnect before connect"),
    pytest.param("40[]", id="connect with an array"),
    pytest.param('40"token"', id="connect with a string"),
    pytest.param("400{}", id="connect with an ack id"),
    pytest.param(b"\x01\x02", id="binary before connect"),
]

EVENTS = [
    pytest.param("42", id="no body"),
    pytest.param("42[", id="cut short"),
    pytest.param("42[]", id="no name"),
    pytest.param("42[1]", id="name is a number"),
    pytest.param('42[null,"a"]', id="name is null"),
    pytest.param('42[["join-room"],"a"]', id="name is an array"),
    pytest.param('42"message"', id="a string"),
    pytest.param("42null", id="null"),
    pytest.param('42["a",]', id="trailing comma"),
    pytest.param('42["a"]x', id="text behind"),
    pytest.param("42['a']", id="single quotes"),
    pytest.param('42["a",\x01]', id="control character"),
    pytest.param('42["a","\\x"]', id="bad escape"),
    pytest.param('43["a"]', id="ack without id"),
    pytest.param('4299999999999999999999["join-room","a"]', id="ack id of 20 digits"),
    pytest.param('42-1["join-room","a"]', id="negative ack id"),
    pytest.param('42/other,["join-room","a"]', id="namespace not connected"),
    pytest.param("40", id="connect twice"),
    pytest.param('45["a"]', id="binary event without a count"),
    pytest.param('45-["a"]', id="binary event with an empty count"),
    pytest.param('421-["a",{"_placeholder":true,"num":0}]', id="count on a text event"),
    pytest.param(b"\x00", id="attachment of nothing"),
]


@pytest.mark.parametrize("packet", ENGINE_PACKETS)
async def test_bad_first_packet_closes(server: Server, packet: str | bytes) -> None:
    """Before the sign-in only CONNECT makes sense."""
    async with EngineSocket.opened(f"{server.ws_url}/socket.io/") as socket:
        await socket.send(packet)
        assert await socket.wait_closed() == BAD_PACKET


@pytest.mark.parametrize("packet", EVENTS)
async def test_bad_packet_of_a_signed_in_client_closes(server: Server, packet: str | bytes) -> None:
    """After it, events and acks that are well-formed."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.send(packet)
        assert await client.wait_closed() == BAD_PACKET


async def test_text_in_the_middle_of_attachments_closes(server: Server) -> None:
    """A binary event that is short of an attachment cannot be finished by anything else."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.send('452-["message",{"_placeholder":true,"num":0}]')
        await client.send(b"one")
        await client.send('42["join-room","a"]')
        assert await client.wait_closed() == BAD_PACKET


async def test_one_attachment_too_many_closes(server: Server) -> None:
    """The attachment after the last belongs to nothing."""
    async with signed_in(server.ws_url, make_token("alice")) as client:
        await client.send('451-["message",{"roomId":"r","content":{"_placeholder":true,"num":0}}]')
        await client.send(b"one")
        await client.send(b"two")
        assert await client.wait_closed() == BAD_PACKET


@pytest.mark.parametrize(
    "content",
    [
        pytest.param('{"_placeholder":true,"num":1}', id="number out of range"),
        pytest.param('{"_placeholder":true,"num":-1}', id="negative number"),
        pytest.param('{"_placeholder":true,"num":"0"}', id="number is a string"),
        pytest.param('{"_placeholder":true}', id="no number"),
        pytest.param('"none"', id="attachment not named"),
        pytest.param(
            '[{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]', id="named twice"
        ),
    ],
)
async def test_placeholders_that_do_not_fit_reach_nobody(
    server: Server, room: str, content: str
) -> None:
    """They would make stock clients drop their connection: refused, or the sender is closed."""
    async with (
        signed_in(server.ws_url, make_token("victim")) as victim,
        signed_in(server.ws_url, make_token("alice")) as client,
    ):
        await victim.join(room)
        await client.join(room)
        body = f'["message",{{"roomId":"{room}","content":{content}}}]'
        assert not await is_taken(client, body, b"one")
        await victim.say(room, "mine")
        assert (await victim.next("message")).body["content"] == "mine"


@pytest.mark.parametrize("depth", [50, 100, 101, 900, 5_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"":', "}")], ids=["[]", "{}"])
async def test_deep_json_in_an_event(
    server: Server, room: str, depth: int, opening: str, closing: str
) -> None:
    """Up to 100 levels are carried, more are refused; no member or page of history breaks."""
    content = opening * depth + "1" + closing * depth
    async with (
        signed_in(server.ws_url, make_token("victim")) as victim,
        signed_in(server.ws_url, make_token("alice")) as client,
    ):
        await victim.join(room)
        await client.join(room)
        taken = await is_taken(client, f'["message",{{"roomId":"{room}","content":{content}}}]')
        assert taken == (depth <= 100)
        await victim.say(room, "mine")
        heard = [(await victim.next("message")).body for _ in range(2 if taken else 1)]
        page = await victim.call("history", {"roomId": room})
    assert heard[-1]["content"] == "mine"
    assert page["messages"] == heard


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("", id="empty"),
        pytest.param("hello", id="no JSON"),
        pytest.param("[]", id="an array"),
        pytest.param('"message"', id="a string"),
        pytest.param("{}", id="no type"),
        pytest.param('{"type":1}', id="type is a number"),
        pytest.param('{"type":null}', id="type is null"),
        pytest.param('{"type":"join-room","roomId":"a"', id="cut short"),
        pytest.param('{"type":"join-room","roomId":"a"}{}', id="two objects"),
        pytest.param("[" * 100_000, id="100,000 opening brackets"),
        pytest.param('{"type":' * 100_000, id="100,000 nested objects"),
        pytest.param("NaN", id="NaN"),
        pytest.param(b'{"type":"join-room","roomId":"a"}', id="a binary message"),
    ],
)
async def test_bad_plain_json_closes(server: Server, message: str | bytes) -> None:
    """A message is a JSON object with a string `type`."""
    async with plain_signed_in(server.ws_url, make_token("alice")) as client:
        await client.connection.send(message)
        assert await client.wait_closed() == BAD_PACKET


@pytest.mark.parametrize("message", ["", "x", "[]", "{}", '{"type":7}', "[" * 100_000])
async def test_bad_first_plain_message_closes(server: Server, message: str) -> None:
    """Before the sign-in too."""
    async with PlainJson.dial(server.ws_url) as client:
        await client.connection.send(message)
        assert await client.wait_closed() == BAD_PACKET


@pytest.mark.parametrize("message", ['{"type":"auth"}', '{"type":"auth","token":7}'])
async def test_plain_sign_in_without_a_token_is_refused(server: Server, message: str) -> None:
    """It is an operation with a wrong field, and says so."""
    async with PlainJson.dial(server.ws_url) as client:
        await client.connection.send(message)
        error = await client.next("error")
    assert (error["code"], error["operation"]) == ("BAD_REQUEST", "auth")
