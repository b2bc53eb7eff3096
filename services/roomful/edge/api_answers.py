"""
The answers of the HTTP API: a body as JSON, or a refusal with its status.
"""

from __future__ import annotations

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from roomful.edge.api_bodies import ErrorBody, Failure
from roomful.protocol.errors import RefusalCode, Refused

__all__ = ["JSON", "json_answer", "no_such_call", "refusal"]

JSON = "application/json"

_STATUS = {
    RefusalCode.UNAUTHORIZED: 401,
    RefusalCode.TOKEN_MISSING: 401,
    RefusalCode.TOKEN_INVALID: 401,
    RefusalCode.TOKEN_EXPIRED: 401,
    RefusalCode.TOKEN_REVOKED: 401,
    RefusalCode.FORBIDDEN: 403,
    RefusalCode.RESERVED_ROOM: 403,
    RefusalCode.NOT_FOUND: 404,
    RefusalCode.PAYLOAD_TOO_LARGE: 413,
    RefusalCode.RATE_LIMITED: 429,
    RefusalCode.INTERNAL: 500,
}


def _status(code: RefusalCode) -> int:
    return _STATUS.get(code, 503 if code.is_retryable else 400)


def json_answer(body: object, status: int = 200) -> Response:
    """Answer with *body* as JSON."""
    return Response(msgspec.json.encode(body), status, media_type=JSON)


def refusal(refused: Refused) -> Response:
    """Answer with what was *refused*: its status, its code, and when it may be tried again."""
    code = refused.code
    error = ErrorBody(code, refused.sentence, code.is_retryable)
    response = json_answer(Failure(error), _status(code))
    if response.status_code == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if code.is_retryable:
        response.headers["Retry-After"] = "1"
    return response


async def no_such_call(request: Request, exc: Exception) -> Response:
    """Answer where no route is, or not with this method: as all of the API does, below /api/."""
    assert isinstance(exc, HTTPException)
    if not request.url.path.startswith("/api/"):
        return PlainTextResponse(exc.detail, exc.status_code, exc.headers)
    code = RefusalCode.NOT_FOUND if exc.status_code == 404 else RefusalCode.BAD_REQUEST
    sentence = "there is no such call" if exc.status_code == 404 else exc.detail
    answer = json_answer(Failure(ErrorBody(code, sentence, code.is_retryable)), exc.status_code)
    answer.headers.update(exc.headers or {})
    return answer
