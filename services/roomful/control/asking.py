"""Leaves what people ask of a cluster where the controller that leads finds it."""

from __future__ import annotations

import time
from typing import Final

from roomful.cluster.requests import Request, encode_request
from roomful.cluster.topology import Topology
from roomful.control.link import Credentials
from roomful.control.server import Server

__all__ = ["leave_request"]

TIMEOUT_S: Final = 2.0


async def leave_request(topology: Topology, request: Request, credentials: Credentials) -> None:
    """
    Leave *request* on a primary of *topology*; needs no lead.

    Raises:
        ServerUnreachable: the primary did not answer.
        OrderRefused: too many wait there, or too few replicas have it.

    Source: docs/adr/0024-what-people-ask-of-a-cluster.md
    """
    primary = topology.shards[min(topology.shards)].primary
    server = Server(primary, credentials, timeout_s=TIMEOUT_S, is_reader=True)
    try:
        await server.request(str(time.time_ns()), encode_request(request), topology.acks)
    finally:
        server.close()
