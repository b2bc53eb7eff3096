"""
The HTTP API: what backends do with a service token, the probes, and the numbers.

Each call is an Operation: its handler with the types of its bodies (api_bodies.py), from which
openapi.py makes the document.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Raw
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from roomful.archive.base import Erasure
from roomful.edge.api_answers import JSON, json_answer, refusal
from roomful.edge.api_bodies import (
    Accepted,
    DevSignIn,
    Done,
    DoneEverywhere,
    Erased,
    Failure,
    Revocation,
    RoomEvent,
    Shed,
    Shedding,
    UserMessage,
)
from roomful.edge.control import Reached
from roomful.edge.drain import shed
from roomful.edge.encoding import page_json
from roomful.edge.envelopes import (
    build_direct,
    build_event,
    build_message,
    check_content,
    check_event_name,
    now_ms,
)
from roomful.edge.openapi import MAX_NUMBER, Operation, Parameter, build_document
from roomful.edge.report import cluster_stats, health, samples
from roomful.edge.request_body import BodyTooLarge, read_body
from roomful.edge.router import HISTORY_LIMIT, PublishCall
from roomful.protocol.errors import RefusalCode, Refused
from roomful.protocol.operations import is_clean
from roomful.shard.base import Settle, Stored
from roomful.shard.message import Cast, Envelope, RoomId, UserId, user_room
from roomful.telemetry.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from roomful.edge.edge import Edge

__all__ = ["Api", "Handler", "operations"]

TIMEOUT_S = 10.0
UPDATE_RESERVED = frozenset({"type", "cursor"})
"""What plain JSON clients take from any object: which event it is, and how far they have heard."""
ERASE_S = 8.0
"""Seconds after which who asked for an erasure is told that it goes on."""
DEV_TOKEN_S = 24 * 3600.0
REVOCATION_MOST_S = 10 * 366 * 24 * 3600.0
"""Longer than tokens live; milliseconds in the place of seconds are far beyond."""


def _everywhere(reached: Reached) -> DoneEverywhere:
    is_whole = reached.answered == reached.edges
    return DoneEverywhere(is_whole, reached.connections, reached.edges, reached.answered)


Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The handlers of one edge's HTTP API."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._metrics = Metrics(lambda: samples(edge))
        self._document: bytes | None = None

    # Checks ---------------------------------------------------------------------------------

    def guarded(self, handler: Handler, *, needs_service: bool) -> Handler:
        """Give *handler* behind the token check, with refusals as answers."""

        async def guard(request: Request) -> Response:
            try:
                if needs_service:
                    await self._check_service(request)
                if request.method == "POST" and (answer := await self._read(request)) is not None:
                    return answer
                async with asyncio.timeout(TIMEOUT_S):
                    return await handler(request)
            except Refused as refused:
                return refusal(refused)
            except TimeoutError:
                return refusal(Refused(RefusalCode.SHARD_UNAVAILABLE, "no answer in time"))

        return guard

    async def _read(self, request: Request) -> Response | None:
        """Read the body, or give the answer to one that does not come: the connection ends."""
        limits = self._edge.settings.limits
        try:
            request.state.body = await read_body(request, limits)
        except BodyTooLarge as exc:
            sentence = f"a body has at most {limits.payload_bytes} bytes"
            raise Refused(RefusalCode.PAYLOAD_TOO_LARGE, sentence) from exc
        except (ClientDisconnect, TimeoutError):
            sentence = "the body did not come whole, or not in time"
            answer = refusal(Refused(RefusalCode.BAD_REQUEST, sentence))
            answer.headers["Connection"] = "close"
            return answer
        return None

    async def _check_service(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refused(RefusalCode.TOKEN_MISSING, "a service token is needed: Bearer <token>")
        identity = self._edge.authenticator.verify(token.strip())
        if inspect.isawaitable(identity):
            identity = await identity
        if not identity.is_service:
            raise Refused(RefusalCode.FORBIDDEN, "this token is not a service's")
        request.state.caller = identity.user

    def _body(self, request: Request, kind: type[Any]) -> Any:
        body: bytes = request.state.body
        try:
            body.decode()
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise Refused(RefusalCode.BAD_REQUEST, f"body: {exc}") from exc

    def _name(self, request: Request, name: str, limit: int) -> str:
        try:
            # What is no UTF-8 came out as another name.
            unquote_to_bytes(request.scope["raw_path"]).decode()
        except UnicodeDecodeError as exc:
            raise Refused(RefusalCode.BAD_REQUEST, f"{name}: percent-encoded UTF-8") from exc
        value: str = request.path_params[name]
        if not 1 <= len(value) <= limit or not is_clean(value):
            raise Refused(RefusalCode.BAD_REQUEST, f"{name}: 1 to {limit} printable characters")
        return value

    def _room(self, request: Request) -> RoomId:
        return RoomId(self._name(request, "room", 255))

    def _user(self, request: Request) -> UserId:
        return UserId(self._name(request, "user", 128))

    # Messages -------------------------------------------------------------------------------

    async def post_event(self, request: Request) -> Response:
        """Store an event and send it to the room."""
        room = self._room(request)
        body: RoomEvent = self._body(request, RoomEvent)
        if body.event != "message":
            check_event_name(body.event)
        check_content(body.data)
        sender = _sender(body.user_id)
        if body.event == "message":
            envelope = build_message(room, sender, body.data, body.id)
        else:
            envelope = build_event(room, sender, body.event, body.data, body.id)
        publish = self._edge.shards.publish
        return await self._publish(request, publish, envelope, is_named=body.id is not None)

    async def post_message(self, request: Request) -> Response:
        """Store a direct message and send it to the user."""
        user = self._user(request)
        body: UserMessage = self._body(request, UserMessage)
        check_content(body.content)
        envelope = build_direct(user_room(user), _sender(body.sender), user, body.content, body.id)
        publish = self._edge.router.send_direct
        return await self._publish(request, publish, envelope, is_named=body.id is not None)

    async def _publish(
        self, request: Request, publish: PublishCall, envelope: Envelope, *, is_named: bool
    ) -> Response:
        done: asyncio.Future[Stored | Refused] = asyncio.get_running_loop().create_future()
        settle: Settle = partial(_settle, done)
        if (tracing := self._edge.tracing) is not None:
            traceparent = request.headers.get("traceparent")
            envelope, settle = tracing.consider(traceparent, envelope, settle)
        publish(envelope, settle, is_named=is_named)
        outcome = await done
        if isinstance(outcome, Refused):
            raise outcome
        return json_answer(Accepted(True, envelope.id, outcome.offset, outcome.timestamp), 201)

    async def post_update(self, request: Request) -> Response:
        """Send `user-update` to every connection of the user; it is not stored."""
        user = self._user(request)
        fields: dict[str, Raw] = self._body(request, dict[str, Raw])
        for name in UPDATE_RESERVED & fields.keys():
            sentence = f"{name}: plain JSON, where an update's fields stand beside it, has its own"
            raise Refused(RefusalCode.BAD_REQUEST, sentence)
        body, room = msgspec.json.encode(fields), user_room(user)
        check_content(Raw(body))
        reached = len(self._edge.fanout.listeners(room))
        self._edge.shards.cast(Cast(room, "user-update", body))
        return json_answer(Done(True, reached))

    # Connections ----------------------------------------------------------------------------

    async def delete_connections(self, request: Request) -> Response:
        """Close every connection of the user; they do not come back by themselves."""
        return json_answer(_everywhere(await self._edge.control.disconnect(self._user(request))))

    async def post_shed(self, request: Request) -> Response:
        """Send some of this edge's clients to other edges; they come back there and resume."""
        body: Shedding = self._body(request, Shedding)
        return json_answer(Shed(shed(self._edge, body.count)))

    async def post_revocation(self, request: Request) -> Response:
        """Refuse tokens from now on, and close those who hold them."""
        body: Revocation = self._body(request, Revocation)
        if body.user_id is None and body.token_id is None:
            raise Refused(RefusalCode.BAD_REQUEST, "give userId or tokenId")
        now = time.time()
        if body.until is not None and not now < body.until < now + REVOCATION_MOST_S:
            sentence = "until: seconds since the epoch, in the future, at most ten years from now"
            raise Refused(RefusalCode.BAD_REQUEST, sentence)
        reached = await self._edge.control.revoke(body.user_id, body.token_id, body.until)
        return json_answer(_everywhere(reached))

    # Privacy --------------------------------------------------------------------------------

    async def delete_message(self, request: Request) -> Response:
        """Erase one message for good, from the log and the archive."""
        offset = _whole(self._name(request, "offset", 16), "offset")
        return await self._erase(request, room=self._room(request), offset=offset)

    async def delete_messages(self, request: Request) -> Response:
        """Erase all messages of the room up to now."""
        return await self._erase(request, room=self._room(request))

    async def delete_user_messages(self, request: Request) -> Response:
        """Erase all that the user sent up to now, in any room, and the user's own room."""
        return await self._erase(request, user=self._user(request))

    async def _erase(self, request: Request, **what: Any) -> Response:
        """Erase, on when the caller does not wait so long: what was asked for is written down."""
        erasure = Erasure(now_ms(), request.state.caller, **what)
        work = asyncio.ensure_future(self._edge.history.erase(erasure))
        self._edge.watch(work)
        done, _ = await asyncio.wait([work], timeout=ERASE_S)
        if not done:
            return json_answer(Erased(True, None), 202)
        return json_answer(Erased(True, work.result()))

    # Reading --------------------------------------------------------------------------------

    async def get_history(self, request: Request) -> Response:
        """Give a page of the room's log, oldest first."""
        room = self._room(request)
        before, after, limit = (_number(request, name) for name in ("before", "after", "limit"))
        if limit == 0:
            raise Refused(RefusalCode.BAD_REQUEST, "limit is at least 1")
        page = await self._edge.history.page(
            room, before=before, after=after, limit=min(limit or 50, HISTORY_LIMIT)
        )
        return Response(b"{%b}" % page_json(page), media_type=JSON)

    async def get_presence(self, request: Request) -> Response:
        """Give who is in the room."""
        room = self._room(request)
        members = await self._edge.shards.members(room)
        return json_answer({"roomId": room, "members": members.members, "count": members.count})

    # The edge itself ------------------------------------------------------------------------

    async def get_stats(self, _request: Request) -> Response:
        """Give the numbers of all edges: sums, and by edge; a user or room of two counts twice."""
        reached = await self._edge.control.stats()
        return json_answer(cluster_stats(self._edge, reached.stats, reached.edges))

    async def get_health(self, _request: Request) -> Response:
        """Give whether this edge is well."""
        return json_answer(health(self._edge))

    async def get_livez(self, _request: Request) -> Response:
        """Answer: the loop turns."""
        return json_answer({"status": "ok"})

    async def get_readyz(self, _request: Request) -> Response:
        """Answer whether new connections may come."""
        if self._edge.is_draining:
            return json_answer({"status": "draining"}, 503)
        if (why := self._edge.shards.unready()) is not None:
            return json_answer({"status": "unready", "why": why}, 503)
        if self._edge.counts.is_over:
            return json_answer({"status": "unready", "why": "full"}, 503)
        return json_answer({"status": "ok"})

    async def get_metrics(self, _request: Request) -> Response:
        """Give the metrics in Prometheus' text format."""
        return Response(self._metrics.render(), media_type=CONTENT_TYPE)

    async def get_document(self, _request: Request) -> Response:
        """Give the OpenAPI document."""
        if self._document is None:
            self._document = msgspec.json.encode(build_document(operations(self), Failure))
        return Response(self._document, media_type=JSON)

    async def post_dev_token(self, request: Request) -> Response:
        """Sign in with a name alone: only under --dev."""
        body: DevSignIn = self._body(request, DevSignIn)
        if not is_clean(body.user):
            raise Refused(RefusalCode.BAD_REQUEST, "user: printable characters")
        authenticator = self._edge.authenticator
        token = authenticator.mint(
            user=body.user, rooms={"*": ["join", "send"]}, lifetime_s=DEV_TOKEN_S
        )
        identity = authenticator.verify(token)
        assert not inspect.isawaitable(identity)
        expires_at = identity.expires_at
        assert expires_at is not None
        answer = {"token": token, "userId": body.user, "expiresAt": int(expires_at * 1000)}
        return json_answer(answer)


def _sender(name: str) -> UserId:
    if not is_clean(name):
        raise Refused(RefusalCode.BAD_REQUEST, "a sender's name has no control characters")
    return UserId(name)


def _settle(done: asyncio.Future[Stored | Refused], outcome: Stored | Refused) -> None:
    if not done.done():
        done.set_result(outcome)


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    return None if text is None else _whole(text, name)


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MAX_NUMBER):
        raise Refused(RefusalCode.BAD_REQUEST, f"{name} is a whole number, at most 2^53")
    return int(text)


def operations(api: Api) -> list[Operation]:
    """Give all calls of the API, with what OpenAPI has to say of them."""
    page = [
        Parameter("before", int, "Only messages below this offset."),
        Parameter("after", int, "Only messages above this offset."),
        Parameter("limit", int, f"50 by default; above {HISTORY_LIMIT} it is {HISTORY_LIMIT}.", 1),
    ]
    found = [
        Operation("POST", "/api/rooms/{room}/events", api.post_event, RoomEvent, Accepted, 201),
        Operation("GET", "/api/rooms/{room}/history", api.get_history, query=page),
        Operation("GET", "/api/rooms/{room}/presence", api.get_presence),
        # Before the one with an offset: a room's name may end in `/messages`.
        Operation("DELETE", "/api/rooms/{room}/messages", api.delete_messages, answer=Erased),
        Operation(
            "DELETE", "/api/rooms/{room}/messages/{offset}", api.delete_message, answer=Erased
        ),
        Operation("DELETE", "/api/users/{user}/messages", api.delete_user_messages, answer=Erased),
        Operation(
            "POST", "/api/users/{user}/messages", api.post_message, UserMessage, Accepted, 201
        ),
        Operation("POST", "/api/users/{user}/update", api.post_update, dict[str, Any], Done),
        Operation(
            "DELETE", "/api/users/{user}/connections", api.delete_connections, answer=DoneEverywhere
        ),
        Operation("POST", "/api/edge/shed", api.post_shed, Shedding, Shed),
        Operation("POST", "/api/revocations", api.post_revocation, Revocation, DoneEverywhere),
        Operation("GET", "/api/ws/stats", api.get_stats, is_open=True),
        Operation("GET", "/api/ws/health", api.get_health, is_open=True),
        Operation("GET", "/livez", api.get_livez, is_open=True),
        Operation("GET", "/readyz", api.get_readyz, is_open=True, failures=(503,)),
        Operation("GET", "/metrics", api.get_metrics, is_open=True, media_type="text/plain"),
        Operation("GET", "/api/openapi.json", api.get_document, is_open=True),
    ]
    return found
