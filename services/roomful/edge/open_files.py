"""
Each connection is an open file, and of those the system allows a process only so many.

Shells and service managers begin with a low limit (1,024) that a process may raise by itself up to
a high one. Beyond that one nobody can be let in, nor a journal or database be opened; so an edge
keeps some for itself, and refuses connections before the system does.
"""

from __future__ import annotations

import resource
from typing import Final

__all__ = ["fit_connections"]

RESERVED: Final = 256
"""Files that are no client's: of journal and database, to shards, other edges, webhooks."""


def fit_connections(wanted: int) -> int:
    """
    Let this process open the files of *wanted* connections, or as many as it may have.

    Returns:
        how many connections it can take, at most *wanted*.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError):
            # A system with one more limit of its own.
            allowed = soft
    return min(wanted, max(allowed - RESERVED, allowed // 2))
