"""
Who may do what in which room: the token's ``rooms`` claim, then a webhook, then no.

The order is in ``RoomAccess.check``. What a claim allows is answered at once; only a webhook's
answer that is not cached is waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import httpx
import msgspec

from roomful.edge.grants import Right, RoomGrants
from roomful.protocol.errors import RefusalCode, Refused

if TYPE_CHECKING:
    from roomful.edge.auth import Identity

__all__ = ["AccessSettings", "AccessStatistics", "RoomAccess", "sign_body"]

RESERVED_PREFIX = "user:"
SIGNATURE_HEADER = "Roomful-Signature"

MAX_ANSWER_BYTES = 16 * 1024
MAX_TTL_FACTOR = 10
# A question that failed is not asked again for this long, so that retries do not keep a hook down.
FAILURE_CACHE_S = 1.0

_NO_ANSWER = (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError, RecursionError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """
    Who decides about rooms; without a webhook it is the token alone.

    Raises:
        ValueError: a number is not above 0, or the URL is not http or https.
    """

    # Everything is allowed to tokens without a rooms claim. Set by --dev only.
    allow_all: bool = False
    # Where to ask about rooms that the claim does not allow; None = nowhere, they are refused.
    webhook_url: str | None = None
    # Signs the questions (Roomful-Signature); None = unsigned, for a hook inside the cluster.
    webhook_secret: str | None = field(default=None, repr=False)
    # Seconds for one answer, and again for the wait until it is asked. Someone waits for a join.
    webhook_timeout_s: float = 2.0
    # Seconds an answer is used when it has no ttl_s of its own; also how long a right that was
    # taken away lives on.
    webhook_cache_s: float = 30.0
    # Answers kept; about 400 bytes each, so 20 MB. The oldest goes first.
    webhook_cache_entries: int = 50_000
    # Questions asked at once, by one edge.
    webhook_concurrency: int = 32
    # Questions waiting to be asked; beyond it they are refused at once. At 20 ms per answer, 32
    # at once work this off in 1.3 s, so within the timeout.
    webhook_waiting: int = 2_000

    def __post_init__(self) -> None:
        numbers = [name for name in self.__slots__ if name.startswith("webhook_")][2:]
        bad = [name for name in numbers if not getattr(self, name) > 0]
        if bad:
            raise ValueError("access: " + ", ".join(bad) + " must be above 0")
        if not (self.webhook_url or "http://").startswith(("http://", "https://")):
            raise ValueError("access: webhook_url must begin with http:// or https://")


@dataclass(slots=True)
class AccessStatistics:
    """What the webhook part has done since it began."""

    asked: int = 0
    failed: int = 0  # no answer, or not one that is understood
    refused_busy: int = 0  # not asked: too many were waiting
    cached: int = 0  # answered from the cache


class _Verdict(Enum):
    ALLOW = "allow"
    DENY = "deny"
    UNKNOWN = "unknown"  # the hook gave no answer


class _Question(NamedTuple):
    user: str
    token: str | float | None  # what tells this token from the user's others: jti, else iat
    room: str
    right: Right
    token_id: str | None


class _HookAnswer(msgspec.Struct, frozen=True):
    allow: bool
    ttl_s: float | None = None


class _Webhook:
    """Asks one URL, at most so many questions at a time."""

    def __init__(self, url: str, settings: AccessSettings, now: Callable[[], float]) -> None:
        self._url = url
        self._secret = settings.webhook_secret
        self._timeout_s = settings.webhook_timeout_s
        self._now = now
        self._slots = asyncio.Semaphore(settings.webhook_concurrency)
        self._client = httpx.AsyncClient(timeout=settings.webhook_timeout_s)

    async def ask(self, question: _Question) -> _HookAnswer:
        """Return the answer; raises one of ``_NO_ANSWER`` when there is none."""
        async with asyncio.timeout(self._timeout_s):
            await self._slots.acquire()
        try:
            async with asyncio.timeout(self._timeout_s):
                return msgspec.json.decode(await self._post(question), type=_HookAnswer)
        finally:
            self._slots.release()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _post(self, question: _Question) -> bytes:
        user, _, room, right, token_id = question
        body = msgspec.json.encode(
            {"userId": user, "roomId": room, "right": right, "tokenId": token_id}
        )
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers[SIGNATURE_HEADER] = sign_body(self._secret, body, int(self._now()))
        answer = bytearray()
        request = self._client.stream("POST", self._url, content=body, headers=headers)
        async with request as response:
            if response.status_code != httpx.codes.OK:
                raise ValueError(f"status {response.status_code}")
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise ValueError(f"an answer above {MAX_ANSWER_BYTES} bytes")
        return bytes(answer)


class RoomAccess:
    """
    Decides about rooms, for all connections of an edge.

    Answers of the webhook are cached per user, token, room and right; the same question is asked
    once at a time. Denied unless someone allows it.
    """

    # State: _answers with their end, oldest first; _asked_by, each user's questions in it;
    # _flights, the questions under way; _tasks, those and the ones forgotten meanwhile.
    def __init__(
        self,
        settings: AccessSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.statistics = AccessStatistics()
        self._settings = settings
        self._clock = clock
        self._answers: dict[_Question, tuple[_Verdict, float]] = {}
        self._asked_by: dict[str, set[_Question]] = {}
        self._flights: dict[_Question, asyncio.Task[_Verdict]] = {}
        self._tasks: set[asyncio.Task[_Verdict]] = set()
        url = settings.webhook_url
        self._hook = None if url is None else _Webhook(url, settings, now)
        self._most_tasks = settings.webhook_concurrency + settings.webhook_waiting

    def check(self, identity: Identity, room: str, right: Right) -> None | Awaitable[None]:
        """
        Return None when *identity* has *right* in *room*, or what to await when a hook decides.

        Rooms of users are refused to everyone; then a claim that fits allows; then the webhook
        decides if there is one; then ``allow_all`` for tokens without a claim; else it is refused.

        Raises:
            Refused: FORBIDDEN, RESERVED_ROOM, or ACCESS_UNAVAILABLE when the hook does not answer;
                awaiting raises the same.
        """
        if room.startswith(RESERVED_PREFIX):
            raise Refused(RefusalCode.RESERVED_ROOM, "rooms of users are joined by the server only")
        rooms = identity.rooms
        if rooms is not None and _grants(rooms).allows(room, right):
            return None
        if self._hook is not None:
            return self._check_hook(self._hook, identity, room, right)
        if rooms is None and self._settings.allow_all:
            return None
        raise _forbidden(right)

    @property
    def is_static(self) -> bool:
        """Whether what check() allows a token, it allows for the token's whole life."""
        return self._hook is None

    def forget(self, user: str) -> None:
        """Drop the webhook's answers about *user*, and those that are on their way."""
        for question in self._asked_by.pop(user, ()):
            del self._answers[question]
        for question in [q for q in self._flights if q.user == user]:
            del self._flights[question]

    async def aclose(self) -> None:
        """Stop asking; who still waits is refused with ACCESS_UNAVAILABLE."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._hook is not None:
            await self._hook.aclose()

    def _check_hook(
        self, hook: _Webhook, identity: Identity, room: str, right: Right
    ) -> None | Awaitable[None]:
        token = identity.token_id if identity.token_id is not None else identity.issued_at
        question = _Question(identity.user, token, room, right, identity.token_id)
        answer = self._answers.get(question)
        if answer is not None:
            if self._clock() < answer[1]:
                self.statistics.cached += 1
                _settle(answer[0], right)
                return None
            self._drop(question)
        return _wait(self._flights.get(question) or self._ask(hook, question), right)

    def _ask(self, hook: _Webhook, question: _Question) -> asyncio.Task[_Verdict]:
        if len(self._tasks) >= self._most_tasks:
            self.statistics.refused_busy += 1
            raise _unavailable()
        flight = asyncio.create_task(self._fly(hook, question), name="access webhook")
        self._flights[question] = flight
        self._tasks.add(flight)
        flight.add_done_callback(self._tasks.discard)
        return flight

    async def _fly(self, hook: _Webhook, question: _Question) -> _Verdict:
        """Get the answer, and keep it unless it was forgotten meanwhile."""
        self.statistics.asked += 1
        verdict, lifetime_s = _Verdict.UNKNOWN, FAILURE_CACHE_S
        try:
            verdict, lifetime_s = self._judge(await hook.ask(question))
        except _NO_ANSWER as exc:
            self.statistics.failed += 1
            logger.warning("access webhook failed", extra={"error": repr(exc)})
        finally:
            if self._flights.get(question) is asyncio.current_task():
                del self._flights[question]
                self._keep(question, verdict, lifetime_s)
        return verdict

    def _judge(self, answer: _HookAnswer) -> tuple[_Verdict, float]:
        usual_s = self._settings.webhook_cache_s
        lifetime_s = usual_s if answer.ttl_s is None else answer.ttl_s
        verdict = _Verdict.ALLOW if answer.allow else _Verdict.DENY
        return verdict, min(lifetime_s, usual_s * MAX_TTL_FACTOR)

    def _keep(self, question: _Question, verdict: _Verdict, lifetime_s: float) -> None:
        if lifetime_s <= 0:
            return
        self._answers[question] = (verdict, self._clock() + lifetime_s)
        self._asked_by.setdefault(question.user, set()).add(question)
        if len(self._answers) > self._settings.webhook_cache_entries:
            self._drop(next(iter(self._answers)))

    def _drop(self, question: _Question) -> None:
        del self._answers[question]
        asked = self._asked_by[question.user]
        asked.discard(question)
        if not asked:
            del self._asked_by[question.user]


def sign_body(secret: str, body: bytes, timestamp: int) -> str:
    """
    Build the signature header's value: ``t=<seconds>,v1=<hex>``.

    The hex is HMAC-SHA256 with *secret* over ``<seconds>.<body>``, so neither can be changed, and a
    receiver that compares the time with its own cannot be sent an old question again.
    """
    mac = hmac.digest(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
    return f"t={timestamp},v1={mac.hex()}"


def _grants(rooms: Mapping[str, frozenset[str]]) -> RoomGrants:
    return rooms if isinstance(rooms, RoomGrants) else _compile(frozenset(rooms.items()))


@lru_cache(maxsize=1024)
def _compile(rights: frozenset[tuple[str, frozenset[str]]]) -> RoomGrants:
    return RoomGrants(dict(rights))


async def _wait(flight: asyncio.Task[_Verdict], right: Right) -> None:
    await asyncio.wait([flight])  # one who gives up does not take the answer from the others
    _settle(_Verdict.UNKNOWN if flight.cancelled() else flight.result(), right)


def _settle(verdict: _Verdict, right: Right) -> None:
    if verdict is _Verdict.DENY:
        raise _forbidden(right)
    if verdict is _Verdict.UNKNOWN:
        raise _unavailable()


def _forbidden(right: Right) -> Refused:
    return Refused(RefusalCode.FORBIDDEN, f"the token does not allow to {right} in this room")


def _unavailable() -> Refused:
    return Refused(RefusalCode.ACCESS_UNAVAILABLE, "access to the room cannot be checked just now")
