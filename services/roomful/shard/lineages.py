"""Where buckets were before, as far as an edge has asked: once for each version of a bucket."""

from __future__ import annotations

from typing import Final

from roomful.shard.base import Lineage
from roomful.shard.routes import Route

__all__ = ["Lineages"]

FIRST_VERSION: Final = 1


class Lineages:
    """The lineages that are known, by bucket."""

    # Mutable state: the newest lineage of each bucket, with the version that it is of.
    def __init__(self) -> None:
        self._known: dict[int, tuple[int, Lineage]] = {}

    def __repr__(self) -> str:
        return f"<Lineages of {len(self._known)} buckets>"

    def find(self, route: Route) -> Lineage | None:
        """Give the lineage of the bucket where *route* says that it is; None: ask for it."""
        version, lineage = self._known.get(route.bucket, (0, None))
        if lineage is not None and version == route.version and lineage.home is route.shard:
            return lineage
        if route.version == FIRST_VERSION:
            # It has not moved; or it has, and will not be found where it was.
            return self._keep(route.bucket, route.version, Lineage(route.shard))
        return None

    async def ask(self, route: Route) -> Lineage:
        """
        Ask the bucket's shard.

        Raises:
            Elsewhere: the bucket is not there.
            LostConnection: no reply came.
        """
        bucket, version, shard = route.bucket, route.version, route.shard
        return self._keep(bucket, version, Lineage(shard, await shard.rooms.lineage(bucket)))

    def _keep(self, bucket: int, version: int, lineage: Lineage) -> Lineage:
        self._known[bucket] = version, lineage
        return lineage
