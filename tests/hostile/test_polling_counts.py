"""More sessions on long-polling than allowed, over few connections."""

from __future__ import annotations

from collections.abc import Mapping

import httpx
import pytest

from support.deadline import eventually
from support.eio import Handshake, Polling
from support.server import Server
from support.sio import SocketIo

CONNECTIONS = 30


@pytest.fixture(scope="module")
def server_settings() -> Mapping[str, str]:
    """Few connections."""
    return {"limits_connections": str(CONNECTIONS)}


async def test_polling_sessions_are_bounded_like_connections(
    server: Server, http: httpx.AsyncClient
) -> None:
    """However few connections they come over; a WebSocket is let in, and who leaves makes room."""
    sessions: list[Polling] = []

    async def is_full() -> bool:
        session = Polling(http, f"{server.url}/socket.io/")
        response = await http.get(session.endpoint, params=session.parameters)
        if response.status_code == 503:
            assert int(response.headers["retry-after"]) > 0
            return True
        session.parameters |= {"sid": Handshake.parse(response.text).sid}
        sessions.append(session)
        return False

    await eventually(is_full, "there are as many as the edge takes")
    assert len(sessions) <= CONNECTIONS
    async with SocketIo.dial(server.ws_url):
        pass
    assert (await sessions.pop().post("1")).is_success
    assert not await is_full()
    for session in sessions:
        await session.post("1")
