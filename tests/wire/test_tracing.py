"""Traces of one server: which messages are traced, and what a span says (docs/tracing.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from support.deadline import DEADLINE_S
from support.otlp import Receiver, SeenSpan, receiving
from support.plainjson import PlainJson, plain_signed_in
from support.ports import claim_port
from support.server import Server, serving
from support.stock import stock_client
from support.tokens import make_service_token, make_token

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED = f"00-{TRACE}-{PARENT}-00"
SERVICE = {"Authorization": f"Bearer {make_service_token()}"}


@contextmanager
def tracing(directory: Path, url: str, **settings: str) -> Iterator[Server]:
    """Run a server that sends its spans to *url*."""
    with serving(directory, settings={"tracing_endpoint": url} | settings) as server:
        yield server


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A receiver of spans."""
    with receiving() as one:
        yield one


@pytest.fixture(scope="module")
def traced(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that traces what senders ask for, and nothing else."""
    with tracing(tmp_path_factory.mktemp("t"), receiver.url, tracing_ratio="0") as server:
        yield server


def spans_of(receiver: Receiver, message_room: str, count: int) -> list[SeenSpan]:
    """Wait until *count* spans of a room have come; gives them, publish spans first."""

    def found() -> list[SeenSpan]:
        name = "messaging.destination.name"
        return [span for span in receiver.spans if span.attributes[name] == message_room]

    receiver.wait_until(lambda: len(found()) >= count)
    assert len(found()) == count
    return sorted(found(), key=lambda span: span.name, reverse=True)


def check_one_trace(spans: list[SeenSpan], parent: str = PARENT) -> None:
    """The sender's span has published, and that has delivered."""
    publish, deliver = spans
    assert (publish.name, deliver.name) == ("publish", "deliver")
    assert (publish.trace, deliver.trace) == (TRACE, TRACE)
    assert publish.parent == parent
    assert deliver.parent == publish.span
    assert deliver.links == ((TRACE, publish.span),)
    assert publish.ns > 0 < deliver.ns


async def test_message_with_a_sampled_traceparent_is_traced(
    receiver: Receiver, traced: Server, room: str
) -> None:
    """Its own field says so; one without it, and one that is not sampled, are not traced."""
    async with plain_signed_in(traced.ws_url, make_token("alice")) as alice:
        await alice.call("join-room", roomId=room)
        for fields in ({}, {"traceparent": UNSAMPLED}, {"traceparent": "nonsense" * 9}):
            await alice.call("message", roomId=room, content="no", **fields)
        ack = await alice.call("message", roomId=room, content="yes", traceparent=SAMPLED)
        heard = [await alice.next("message") for _ in range(4)]
    spans = spans_of(receiver, room, 2)
    check_one_trace(spans)
    assert spans[0].attributes["messaging.message.id"] == ack["id"]
    assert spans[0].attributes["roomful.offset"] == ack["offset"]
    assert spans[1].attributes["roomful.members"] == 1
    assert all("trace" not in name for message in heard for name in message)


@pytest.mark.parametrize("where", ["header", "query"])
async def test_handshake_of_plain_json_says_what_all_its_messages_are_part_of(
    receiver: Receiver, traced: Server, room: str, where: str
) -> None:
    """A page cannot set headers of a WebSocket, so the query will do."""
    headers = {"Authorization": f"Bearer {make_token('alice')}"}
    if where == "header":
        headers["traceparent"] = SAMPLED
    query = f"?traceparent={quote(SAMPLED)}" if where == "query" else ""
    async with PlainJson.dial(traced.ws_url, headers=headers, query=query) as alice:
        await alice.call("join-room", roomId=room)
        await alice.call("message", roomId=room, content="yes")
    check_one_trace(spans_of(receiver, room, 2))


@pytest.mark.parametrize("kind", ["python-websocket", "python-polling", "python-upgrade"])
@pytest.mark.parametrize("where", ["auth", "query"])
async def test_stock_client_says_it_in_its_auth_object_or_its_query(
    receiver: Receiver, traced: Server, room: str, kind: str, where: str
) -> None:
    """On every transport, also after the upgrade from one to the other."""
    auth: dict[str, Any] = {"token": make_token("alice")}
    if where == "auth":
        auth["traceparent"] = SAMPLED
    url = traced.url + (f"?traceparent={quote(SAMPLED)}" if where == "query" else "")
    async with stock_client(kind, url, auth) as alice:
        await alice.call("join-room", {"roomId": room})
        await alice.call("publish", {"roomId": room, "event": "poll", "data": {}})
    check_one_trace(spans_of(receiver, room, 2))


async def test_direct_message_is_one_publish_and_heard_by_two(
    receiver: Receiver, traced: Server, user: Callable[[str], str]
) -> None:
    """It is stored in two rooms; both are delivered below the one span."""
    name, to = user("alice"), user("bob")
    async with (
        plain_signed_in(traced.ws_url, make_token(name)) as alice,
        plain_signed_in(traced.ws_url, make_token(to)),
    ):
        fields = {"userId": to, "content": 1, "traceparent": SAMPLED}
        assert (await alice.call("direct-message", **fields))["success"]
    check_one_trace(spans_of(receiver, f"user:{to}", 2))
    [copy] = spans_of(receiver, f"user:{name}", 1)
    assert (copy.name, copy.trace) == ("deliver", TRACE)


@pytest.mark.parametrize("what", ["room", "user"])
async def test_publish_over_rest_goes_on_with_its_callers_trace(
    receiver: Receiver,
    traced: Server,
    http: httpx.AsyncClient,
    room: str,
    user: Callable[[str], str],
    what: str,
) -> None:
    """The header of the request, as every instrumented HTTP client sends it."""
    name = user("alice")
    paths: Mapping[str, tuple[str, dict[str, object]]] = {
        "room": (f"/api/rooms/{room}/events", {"data": 1}),
        "user": (f"/api/users/{name}/messages", {"content": 1}),
    }
    path, body = paths[what]
    async with plain_signed_in(traced.ws_url, make_token(name)) as alice:
        await alice.call("join-room", roomId=room)
        headers = SERVICE | {"traceparent": SAMPLED}
        answer = await http.post(traced.url + path, json=body, headers=headers)
        assert answer.status_code == 201
    check_one_trace(spans_of(receiver, room if what == "room" else f"user:{name}", 2))


async def test_ratio_traces_messages_of_senders_that_do_not_say(
    tmp_path: Path, receiver: Receiver, room: str
) -> None:
    """With 1 that is every one, in a trace of its own; who says no is not traced."""
    with tracing(tmp_path, receiver.url, tracing_ratio="1") as server:
        async with plain_signed_in(server.ws_url, make_token("alice")) as alice:
            await alice.call("join-room", roomId=room)
            await alice.call("message", roomId=room, content=0, traceparent=UNSAMPLED)
            for number in range(3):
                await alice.call("message", roomId=room, content=number)
        spans = spans_of(receiver, room, 6)
    assert len({span.trace for span in spans}) == 3
    assert [span.parent for span in spans[:3]] == ["", "", ""]
    assert {span.parent for span in spans[3:]} == {span.span for span in spans[:3]}


async def test_receiver_that_is_away_hurts_no_message(
    tmp_path: Path, room: str, http: httpx.AsyncClient
) -> None:
    """Everything is acknowledged and heard; the lost spans are counted; the stop is clean."""
    url = f"http://127.0.0.1:{claim_port()}"
    with tracing(tmp_path, url, tracing_ratio="1", tracing_spans_per_second="10") as server:
        async with plain_signed_in(server.ws_url, make_token("alice")) as alice:
            await alice.call("join-room", roomId=room)
            for number in range(300):
                await alice.send({"type": "message", "roomId": room, "content": number})
            heard = [await alice.next("message") for _ in range(300)]
        assert [message["content"] for message in heard] == list(range(300))
        metrics = (await http.get(f"{server.url}/metrics")).text
        begin = server.log_bytes()
        assert server.stop(patience_s=2 * DEADLINE_S) == 0
        said = server.log_since(begin)
    lines = dict(line.split() for line in metrics.splitlines() if line.startswith("roomful_span"))
    assert float(lines["roomful_spans_dropped_total"]) >= 100
    assert "Traceback" not in said
    assert "spans were not taken by the tracing endpoint" in server.log_since(0)


async def test_hung_receiver_hurts_no_message(tmp_path: Path, room: str) -> None:
    """One that takes the request and never answers: messages go on as if it were not there."""
    with receiving() as receiver:
        receiver.may_answer.clear()
        with tracing(tmp_path, receiver.url, tracing_ratio="1") as server:
            async with plain_signed_in(server.ws_url, make_token("alice")) as alice:
                await alice.call("join-room", roomId=room)
                await alice.call("message", roomId=room, content="first")
                receiver.wait_until(lambda: receiver.requests > 0)
                for number in range(100):
                    assert (await alice.call("message", roomId=room, content=number))["success"]
            receiver.may_answer.set()
