"""Clients that come back by themselves and resume, and a sender that retries: by hand."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.exceptions import WebSocketException

from support.deadline import DEADLINE_S, until
from support.inbox import Ended
from support.plainjson import PlainJson
from support.sio import SocketIo

__all__ = ["Receiver", "RetryingSender", "SocketReceiver", "PlainReceiver", "running"]

_AWAY = (OSError, WebSocketException, Ended, TimeoutError, EOFError)
_RETRY_S = 0.02
_QUIET_S = 3600.0
"""A receiver hears nothing while nothing is sent: how long it waits is for the test to say."""


class Receiver(ABC):
    """Stays in one room through every loss of its connection, and remembers what it heard."""

    # State: contents in the order they came, one bool per return, and the close codes.
    def __init__(self, url: str, token: str, room: str) -> None:
        self.url = url
        self.token = token
        self.room = room
        self.heard: list[Any] = []
        self.recovered: list[bool] = []
        self.close_codes: list[int | None] = []
        self.hints: list[dict[str, Any]] = []
        self.joined = asyncio.Event()

    async def run(self) -> None:
        """Connect, listen, come back, until cancelled."""
        while True:
            try:
                await self.live_once()
            except _AWAY:
                await asyncio.sleep(_RETRY_S)

    @abstractmethod
    async def live_once(self) -> None:
        """Connect or resume, and listen until the connection ends (raises one of _AWAY)."""

    async def wait_heard(self, count: int, *, seconds: float = DEADLINE_S) -> None:
        """Return once *count* messages have come."""

        try:
            await until(lambda: len(self.heard) >= count, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"not {count} within {seconds} s: {self!r}") from None

    async def wait_recovered(self, count: int, *, seconds: float = DEADLINE_S) -> None:
        """Return once the client came back *count* times."""

        try:
            await until(lambda: len(self.recovered) >= count, seconds=seconds)
        except AssertionError:
            raise AssertionError(f"no {count} returns within {seconds} s: {self!r}") from None

    def __repr__(self) -> str:
        heard = f"{len(self.heard)}: {self.heard[:1]} to {self.heard[-1:]}"
        return (
            f"<{type(self).__name__} heard={heard} recovered={self.recovered} "
            f"closed={self.close_codes}>"
        )


class SocketReceiver(Receiver):
    """By Socket.IO's connection state recovery: pid and offset in the CONNECT."""

    def __init__(self, url: str, token: str, room: str) -> None:
        super().__init__(url, token, room)
        self.pid: str | None = None
        self.cursor: str | None = None

    async def live_once(self) -> None:
        """See Receiver."""
        async with SocketIo.dial(self.url) as client:
            await self._enter(client)
            self.joined.set()
            try:
                await self._listen(client)
            finally:
                self.cursor = client.cursor or self.cursor
                self.close_codes.append(client.close_code)

    async def _enter(self, client: SocketIo) -> None:
        auth: dict[str, Any] = {"token": self.token}
        if self.pid is not None:
            auth |= {"pid": self.pid, "offset": self.cursor}
        answer = await client.sign_in(auth)
        if self.pid is not None:
            self.recovered.append(answer["pid"] == self.pid)
        if answer["pid"] != self.pid:
            await client.join(self.room)
        self.pid = answer["pid"]

    async def _listen(self, client: SocketIo) -> None:
        while True:
            name, event = await client.inbox.next_of("message", "reconnect", seconds=_QUIET_S)
            if name == "message":
                self.heard.append(event.body["content"])
            else:
                self.hints.append(event.body)


class PlainReceiver(Receiver):
    """By the plain JSON operation `resume`."""

    def __init__(self, url: str, token: str, room: str) -> None:
        super().__init__(url, token, room)
        self.cursor: str | None = None

    async def live_once(self) -> None:
        """See Receiver."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with PlainJson.dial(self.url, headers=headers) as client:
            await client.next("connected")
            await self._enter(client)
            self.joined.set()
            try:
                await self._listen(client)
            finally:
                self.close_codes.append(client.close_code)

    async def _enter(self, client: PlainJson) -> None:
        if self.cursor is None:
            ack = await client.call("join-room", roomId=self.room)
            assert ack["success"], ack
            self.cursor = (await client.next("cursor"))["cursor"]
            return
        ack = await client.call("resume", cursor=self.cursor, rooms=[self.room])
        assert ack["success"], ack
        self.recovered.append(ack["recovered"])

    async def _listen(self, client: PlainJson) -> None:
        while True:
            name, event = await client.inbox.next_of("message", "reconnect", seconds=_QUIET_S)
            if name == "message":
                self.heard.append(event["content"])
                self.cursor = event["cursor"]
            else:
                self.hints.append(event)


class RetryingSender:
    """
    Sends 0, 1, 2, … into a room, each until it is acked, with ids that make that safe.

    With a *name* the contents are [name, 0], [name, 1], …
    """

    # State: the next number, whether it was sent and not acked, how often a send was repeated.
    def __init__(
        self, url: str, token: str, room: str, *, per_second: float, name: str | None = None
    ) -> None:
        self.url = url
        self.token = token
        self.room = room
        self.name = name
        self.pause_s = 1 / per_second
        self.acked = 0
        self.repeated = 0
        self.refused: list[str] = []
        self._is_done = False
        self._is_pending = False

    @property
    def _has_more(self) -> bool:
        return self._is_pending or not self._is_done

    def finish(self) -> None:
        """Send no new number."""
        self._is_done = True

    async def run(self) -> None:
        """Send until finish() was called and the last number is acked."""
        while self._has_more:
            try:
                await self._send_on_one_connection()
            except _AWAY:
                self.repeated += 1
                await asyncio.sleep(_RETRY_S)

    async def _send_on_one_connection(self) -> None:
        async with SocketIo.dial(self.url) as client:
            await client.sign_in({"token": self.token})
            await client.join(self.room)
            while self._has_more:
                number = self.acked
                self._is_pending = True
                content = number if self.name is None else [self.name, number]
                fields = {"roomId": self.room, "content": content, "id": f"n{number}"}
                ack = await client.call("message", fields)
                if not ack["success"]:
                    assert ack["error"]["retryable"], ack
                    self.refused.append(ack["error"]["code"])
                    await asyncio.sleep(_RETRY_S)
                    continue
                self.acked += 1
                self._is_pending = False
                client.inbox.drain("message")
                await asyncio.sleep(self.pause_s)


@asynccontextmanager
async def running(*programs: Receiver | RetryingSender) -> AsyncIterator[None]:
    """Let *programs* run for the length of the block; one that fails ends the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(program.run()) for program in programs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
