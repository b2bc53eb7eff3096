"""What an edge does with a request of a session that another edge has, packet by packet."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import httpx
import pytest

from support.deadline import within
from support.edges import ended, passing
from support.eio import EngineSocket, Polling
from support.server import Server
from support.tokens import make_token

UNKNOWN = {"code": 1, "message": "Session ID unknown"}
EVIL = "https://evil.example"


class Edges(Protocol):
    """What conftest.py gives."""

    servers: list[Server]
    folder: Path


@pytest.fixture(scope="module")
def edge_settings() -> Mapping[str, str]:
    """Short pings, because a passed poll may take one; one foreign origin is allowed."""
    return {
        "ping_interval_s": "1",
        "ping_timeout_s": "2",
        "limits_payload_bytes": "20000",
        "origins": "https://good.example",
    }


class Roaming(Polling):
    """A polling session whose next request goes to the edge of `turn_to`."""

    def turn_to(self, server: Server) -> None:
        """Send what follows to *server*."""
        self.endpoint = f"{server.url}/socket.io/"

    async def sign_in(self) -> None:
        """Send CONNECT and take its answer."""
        assert (await self.post("40" + json.dumps({"token": make_token("alice")}))).text == "ok"
        while not any(packet.startswith("40{") for packet in await self.data()):
            pass

    async def data(self) -> list[str]:
        """Poll once; pings are answered."""
        packets = await self.packets()
        if "2" in packets:
            assert (await self.post("3")).text == "ok"
        return packets


async def opened(http: httpx.AsyncClient, server: Server) -> Roaming:
    """A session of *server*."""
    session = Roaming(http, f"{server.url}/socket.io/")
    await session.open()
    return session


async def test_every_request_may_go_to_another_edge(
    edges: Edges, http: httpx.AsyncClient, room: str
) -> None:
    """Sign-in, a join, messages and pings: each over the next edge, and everything comes."""
    session = await opened(http, edges.servers[0])
    session.turn_to(edges.servers[1])
    await session.sign_in()
    await session.post("421" + json.dumps(["join-room", {"roomId": room}]))
    heard: list[int] = []
    sent = 0
    while len(heard) < 6:
        session.turn_to(edges.servers[len(heard) % 3])
        for packet in await session.data():
            if packet.startswith("431["):
                assert json.loads(packet[3:])[0]["success"], packet
            if packet.startswith("42[") and (event := json.loads(packet[2:]))[0] == "message":
                heard.append(event[1]["content"])
        if sent == len(heard):
            session.turn_to(edges.servers[(sent + 1) % 3])
            await session.post("42" + json.dumps(["message", {"roomId": room, "content": sent}]))
            sent += 1
    assert heard == list(range(6))


async def test_a_sid_names_its_edge_and_cannot_be_guessed(
    edges: Edges, http: httpx.AsyncClient
) -> None:
    """The name of the edge, a dot, and 120 random bits that are new each time."""
    sids = [(await opened(http, edges.servers[0])).sid for _ in range(2)]
    names = {sid.split(".")[0] for sid in sids}
    assert len(names) == 1
    assert names < set(os.listdir(edges.folder))
    secrets = {sid.split(".")[1] for sid in sids}
    assert len(secrets) == 2
    assert all(len(secret) == 20 for secret in secrets)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_passed_request_is_not_passed_again(
    edges: Edges, http: httpx.AsyncClient, method: str
) -> None:
    """One that says it was passed on is answered here, whatever its sid: there is no loop."""
    session = await opened(http, edges.servers[0])
    response = await http.request(
        method,
        f"{edges.servers[1].url}/socket.io/",
        params=session.parameters,
        headers={"roomful-forwarded": "00000000"},
        content=b"3" if method == "POST" else b"",
    )
    assert (response.status_code, response.json()) == (400, UNKNOWN)


@pytest.mark.parametrize(
    "sid", ["deadbeef.abcdefghijklmnopqrst", "nobody", "x.y", "../..", "DEADBEEF.x", "." * 300]
)
async def test_an_edge_that_nobody_knows_is_an_unknown_session(
    edges: Edges, http: httpx.AsyncClient, sid: str
) -> None:
    """A made up sid, well formed or not, gets the protocol's own answer on each transport."""
    server = edges.servers[0]
    parameters = {"EIO": "4", "transport": "polling", "sid": sid}
    response = await http.get(f"{server.url}/socket.io/", params=parameters)
    assert (response.status_code, response.json()) == (400, UNKNOWN)
    refused = await asked_to_upgrade(http, server, sid)
    assert (refused.status_code, refused.json()) == (400, UNKNOWN)


async def test_two_polls_at_two_edges_are_two_polls_at_once(
    edges: Edges, http: httpx.AsyncClient
) -> None:
    """The rule of one poll at a time holds over edges: the session ends."""
    first = await opened(http, edges.servers[0])
    await first.sign_in()
    await first.data()  # the cursor, which would answer the poll below
    second = Roaming(http, "")
    second.parameters = first.parameters
    first.turn_to(edges.servers[1])
    second.turn_to(edges.servers[2])
    one, two = asyncio.create_task(first.poll()), asyncio.create_task(second.poll())
    answers = await within(asyncio.gather(one, two))
    assert sorted(answer.status_code for answer in answers) == [200, 400]
    assert "1" in next(answer.text for answer in answers if answer.status_code == 200)
    await ended(first, edges.servers[0])


async def test_a_body_above_the_limit_ends_the_session_at_its_edge(
    edges: Edges, http: httpx.AsyncClient
) -> None:
    """The edge that got it refuses it, and the owner hears that the session is over."""
    session = await opened(http, edges.servers[0])
    session.turn_to(edges.servers[1])
    response = await session.post("4" * 20_001)
    assert response.status_code == 413
    await ended(session, edges.servers[0])


async def test_a_bad_packet_is_answered_as_at_its_own_edge(
    edges: Edges, http: httpx.AsyncClient
) -> None:
    """What the owner says to a packet goes to the client as it is."""
    here, there = await opened(http, edges.servers[0]), await opened(http, edges.servers[0])
    there.turn_to(edges.servers[1])
    for own, other in zip(
        *[(await one.post("abc"), await one.poll()) for one in (here, there)], strict=True
    ):
        assert (other.status_code, other.content) == (own.status_code, own.content)


async def test_a_client_that_hangs_up_ends_its_session(
    edges: Edges, http: httpx.AsyncClient
) -> None:
    """A poll that is broken off at another edge ends the session as one at its own does."""
    session = await opened(http, edges.servers[0])
    await session.sign_in()
    await session.data()
    session.turn_to(edges.servers[1])
    poll = asyncio.create_task(session.poll())
    await passing(http, edges.servers[1], 1)
    poll.cancel()
    await asyncio.wait([poll])
    await ended(session, edges.servers[0])


async def test_origins_are_answered_the_same_at_every_edge(
    edges: Edges, http: httpx.AsyncClient
) -> None:
    """The CORS headers of a passed answer are those of a direct one; a foreign page is refused."""
    session = await opened(http, edges.servers[0])
    found = []
    for server in edges.servers[:2]:
        for origin in ("https://good.example", EVIL):
            response = await http.post(
                f"{server.url}/socket.io/",
                params=session.parameters,
                content=b"3",
                headers={"origin": origin},
            )
            cors = {key: value for key, value in response.headers.items() if key != "date"}
            found.append((response.status_code, response.content, cors))
    assert found[:2] == found[2:]
    assert found[0][2]["access-control-allow-origin"] == "https://good.example"
    assert found[1][0] == 403


async def test_an_upgrade_goes_through_another_edge(
    edges: Edges, http: httpx.AsyncClient, room: str
) -> None:
    """Probe, the last poll and the upgrade by three edges; then packets both ways."""
    session = await opened(http, edges.servers[0])
    await session.sign_in()
    await session.data()
    session.turn_to(edges.servers[2])
    poll = asyncio.create_task(session.poll())
    async with EngineSocket.dial(
        f"{edges.servers[1].ws_url}/socket.io/", f"EIO=4&transport=websocket&sid={session.sid}"
    ) as socket:
        await socket.send("2probe")
        assert await socket.receive() == "3probe"
        assert (await within(poll)).text in ("2", "6")
        await socket.send("5")
        await socket.send("421" + json.dumps(["join-room", {"roomId": room}]))
        while not str(packet := await socket.receive_data()).startswith("431"):
            pass
        assert json.loads(str(packet)[3:])[0]["success"]
        await passing(http, edges.servers[1], 1)
    await passing(http, edges.servers[1], 0)
    await ended(session, edges.servers[0])


async def asked_to_upgrade(http: httpx.AsyncClient, server: Server, sid: str) -> httpx.Response:
    """Ask for a WebSocket of the session *sid*, which the server must refuse to be returned."""
    return await http.get(
        f"{server.url}/socket.io/",
        params={"EIO": "4", "transport": "websocket", "sid": sid},
        headers={
            "connection": "Upgrade",
            "upgrade": "websocket",
            "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        },
    )
