"""
Going away without a stampede. The order:

1. not ready: the load balancer stops sending, new sessions are refused with a hint to retry;
2. connections are told `reconnect` {reason, afterMs} and closed in waves over the window, before
   uvicorn closes anything; what is only carried to other edges is cut in the same waves: its
   clients come back by another edge and resume. Polling clients have LINGER_S to fetch the hint;
3. what is in the shard's batch is committed, the embedded shard is written down;
4. uvicorn stops: listening sockets, idle keep-alive connections, lifespan.

A second signal skips to 4.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from roomful.edge.connection import Connection
from roomful.edge.endpoint import LINGER_S
from roomful.protocol.errors import CloseCode

if TYPE_CHECKING:
    from roomful.edge.edge import Edge, Passing

__all__ = ["drain", "shed"]

logger = logging.getLogger("roomful.edge")

WAVE_S = 0.1
MIN_PER_SECOND = 100.0
RESTART_MS = 500
"""The least time a client is asked to wait: the next process needs it to start."""


async def drain(edge: Edge, *, reason: str = "restart") -> int:
    """Close all connections of *edge* in waves; gives how many there were."""
    edge.is_draining = True
    window_s = edge.settings.drain_window_s
    waiting: list[Connection | Passing] = [*edge.connections, *edge.passing]
    random.shuffle(waiting)
    count = len(waiting)
    logger.info("drain began", extra={"connections": count, "window_s": window_s})
    per_wave = max(1, int(WAVE_S * max(MIN_PER_SECOND, count / max(window_s, WAVE_S))))
    while waiting:
        wave, waiting = waiting[:per_wave], waiting[per_wave:]
        for one in wave:
            if isinstance(one, Connection):
                _close(one, reason, window_s)
            else:
                one.close()
        if waiting:
            await asyncio.sleep(WAVE_S)
    for late in tuple(edge.passing):
        late.close()
    for _ in range(int(LINGER_S / WAVE_S)):
        if not any(endpoint.lingering for endpoint in edge.endpoints.values()):
            break
        await asyncio.sleep(WAVE_S)
    logger.info("drain ended", extra={"connections": count})
    return count


def shed(edge: Edge, count: int) -> int:
    """
    Send *count* signed-in clients elsewhere, or as many as there are; gives how many.

    They are told to come back, through the load balancer, and resume. Who goes is drawn by lot:
    with a fixed order the same ones would move each time.
    """
    staying = [one for one in edge.connections if one.record is not None and not one.is_closed]
    chosen = random.sample(staying, min(count, len(staying)))
    for connection in chosen:
        _close(connection, "rebalance", edge.settings.drain_window_s)
    logger.info("connections shed", extra={"count": len(chosen)})
    return len(chosen)


def _close(connection: Connection, reason: str, window_s: float) -> None:
    if connection.is_closed:
        return
    # Spread over a window as long as ours, so that those closed together do not come back
    # together. Jitter needs no cryptography.
    after_ms = RESTART_MS + int(random.random() * window_s * 100)  # noqa: S311
    connection.notify("reconnect", {"reason": reason, "afterMs": after_ms})
    connection.close(CloseCode.RESTART, reason)
