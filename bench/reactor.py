"""
The load's event loop: epoll, one receive buffer for all sockets, no task and no future.

Why not asyncio: a load that is slower than the server measures itself, and one has to say here
when to sleep and which links to read first.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Self

from bench.wire import ProtocolFault

__all__ = ["NAP_S", "Link", "LostLink", "Reactor", "StuckError"]

NAP_S = 20e-6  # the kernel makes some 75 of it

_BUFFER_BYTES = 256 * 1024
_EAGER_AT_ONCE = 256
_DEFERRED_AT_ONCE = 32
_GATHER_BYTES = 4096  # some twenty messages of these loads
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


class StuckError(Exception):
    """A condition did not come true in time; the sentence says which."""


class LostLink(Exception):
    """The server closed a connection."""


def _raise(why: Exception) -> None:
    raise why


class Link:
    """
    One TCP connection of the load.

    `on_read` is what its bytes mean at the moment: it is called with the reactor's buffer and
    the number of bytes that are in it, and must be done with them when it returns. `on_end` hears
    why there will be no more (LostLink, ProtocolFault, OSError): it raises that if nobody else is
    set, and who is set has to `remove` the link from the reactor.
    """

    __slots__ = ("on_end", "on_read", "reactor", "socket")

    def __init__(self, reactor: Reactor, on_read: Callable[[bytearray, int], None]) -> None:
        self.reactor = reactor
        self.on_read = on_read
        self.on_end: Callable[[Exception], None] = _raise
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    @classmethod
    def of(
        cls, reactor: Reactor, connected: socket.socket, on_read: Callable[[bytearray, int], None]
    ) -> Self:
        """Make one of a socket that is connected already, and read it."""
        link = cls(reactor, on_read)
        link.socket.close()
        link.socket = connected
        connected.setblocking(False)
        reactor.add(link)
        return link

    def connect(self, address: tuple[str, int], source: str) -> None:
        """Connect from the loopback address *source*; the kernel does it before this returns."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
        self.socket.bind((source, 0))
        self.socket.connect(address)
        self.socket.setblocking(False)
        self.reactor.add(self)

    def send(self, data: bytes) -> None:
        """Send all of *data* now; the load never has so much unread that the kernel refuses."""
        if self.socket.send(data) != len(data):
            raise StuckError("the server does not read: a small frame did not fit into its socket")

    def reset(self) -> None:
        """Close with a reset, so that no port stays in TIME_WAIT for the next round."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.socket.close()


class Reactor:
    """
    Reads what the kernel has for the links, in turns, for as long as the caller wants.

    A link that nobody waits for can be *deferred*: its bytes gather in the kernel, so that one
    read takes many messages, and it is read after the links that a next message waits for.

    It looks for what it can read, takes a nap of *nap_s* if there is nothing, and looks again. So
    it is never woken up by a write of the server: the server would pay for that with more than
    the write itself (an interrupt to the other core), and clients over a network cost it no such
    thing. None waits in the kernel. `idle_s` is the time without work.
    """

    def __init__(self, *, nap_s: float | None) -> None:
        self._nap_s = nap_s
        self.idle_s = 0.0
        self._eager = select.epoll()
        self._deferred = select.epoll()
        self._eager.register(self._deferred.fileno(), select.EPOLLIN)
        self._links: dict[int, Link] = {}
        self._gathering: list[Link] = []
        self._buffer = bytearray(_BUFFER_BYTES)

    def add(self, link: Link) -> None:
        """Read *link* from now on."""
        self._links[link.socket.fileno()] = link
        self._eager.register(link.socket.fileno(), select.EPOLLIN)

    def remove(self, link: Link) -> None:
        """Read *link*, which is not deferred, no more."""
        if self._links.pop(link.socket.fileno(), None) is not None:
            self._eager.unregister(link.socket.fileno())

    def defer(self, link: Link) -> None:
        """From now on read *link*, which was added before, when `_GATHER_BYTES` have come."""
        link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _GATHER_BYTES)
        self._eager.unregister(link.socket.fileno())
        self._deferred.register(link.socket.fileno(), select.EPOLLIN)
        self._gathering.append(link)

    def catch_up(self) -> None:
        """Read what the deferred links have gathered, however little it is."""
        for link in self._gathering:
            self._take(link)

    def turn(self, timeout_s: float) -> None:
        """Read what can be read; if that is nothing, wait or nap, for *timeout_s* at most."""
        started = perf_counter()
        ready = self._eager.poll(timeout_s if self._nap_s is None else 0, _EAGER_AT_ONCE)
        if not ready and self._nap_s:
            sleep(min(self._nap_s, timeout_s))
        if not ready or self._nap_s is None:
            self.idle_s += perf_counter() - started
        has_deferred = (self._deferred.fileno(), select.EPOLLIN) in ready
        self._read(ready)
        if has_deferred:
            self._read(self._deferred.poll(0, _DEFERRED_AT_ONCE))

    def _read(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, _ in ready:
            if (link := self._links.get(descriptor)) is not None:  # None: the deferred ones
                self._take(link)

    def _take(self, link: Link) -> None:
        try:
            size = link.socket.recv_into(self._buffer)
            if not size:
                raise LostLink("the server closed a connection")
            link.on_read(self._buffer, size)
        except BlockingIOError:
            pass  # nothing there, or the descriptor is another link's since the kernel was asked
        except (LostLink, OSError, ProtocolFault) as why:
            link.on_end(why)

    def run_until(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Read until *condition*; StuckError says *what* did not come true in *timeout_s*."""
        end = perf_counter() + timeout_s
        while not condition():
            left = end - perf_counter()
            if left <= 0:
                raise StuckError(f"not within {timeout_s:g} s: {what}")
            self.turn(min(left, 0.1))

    def run_for(self, seconds: float) -> None:
        """Read for *seconds*."""
        end = perf_counter() + seconds
        while (left := end - perf_counter()) > 0:
            self.turn(left)

    def close(self) -> None:
        """Reset all links."""
        for link in self._links.values():
            link.reset()
        self._links.clear()
        self._gathering.clear()
        self._eager.close()
        self._deferred.close()
