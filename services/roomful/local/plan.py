"""
Which edges and archivers a cluster on one machine runs, and the table of what runs for its user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from roomful.cluster.topology import Topology
from roomful.local.layout import Layout
from roomful.local.ports import HOST

__all__ = ["EdgePlan", "describe_cluster"]


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """The edges to run, and the archivers that carry away what they store."""

    count: int
    host: str
    first_port: int
    arguments: Sequence[str] = ()
    """Of `roomful serve`, besides where it listens."""
    drain_s: float = 10.0
    """What an edge is given to close its connections in."""
    archivers: int = 0
    """With an archive, which edges do not have without one who fills it."""
    archive_arguments: Sequence[str] = ()
    """Of `roomful archive`."""

    @property
    def ports(self) -> range:
        """Where they listen."""
        return range(self.first_port, self.first_port + self.count)

    def name(self, number: int) -> str:
        """Give what the edge with this *number*, from 1, is called."""
        return f"edge-{number}"

    def url(self, port: int) -> str:
        """Give what a person types."""
        host = "localhost" if self.host in (HOST, "0.0.0.0", "::") else self.host  # noqa: S104
        return f"http://{host}:{port}"


def describe_cluster(layout: Layout, edges: EdgePlan, topology: Topology | None) -> str:
    """Give the table of what runs, where it is, and what to do with it."""
    records = topology.shards.values() if topology else ()
    primaries = {record.primary for record in records}
    replicas = len(next(iter(layout.shards.values()))) - 1
    rows = [
        f"Roomful runs: edges {edges.count}, shards {len(layout.shards)}, replicas of each "
        f"{replicas}, durability {layout.durability}"
    ]
    for number, port in enumerate(edges.ports, 1):
        rows.append(f"  {edges.name(number):<12}{edges.url(port)}")
    for place in layout.servers():
        role = "primary" if place.address in primaries else "replica"
        rows.append(f"  {place.name:<12}redis://{place.address}  {role}")
    rows += [f"  archiver-{number:<3}to PostgreSQL" for number in range(1, edges.archivers + 1)]
    rows.append(f"  {'logs':<12}{layout.logs}")
    rows.append(f"  {'state':<12}roomful topology --state-dir {layout.directory}")
    if not edges.count:
        servers = ",".join(f"redis://{place.address}" for place in layout.servers())
        rows.append(f"  {'an edge':<12}ROOMFUL_SHARDS={servers} roomful serve")
    elif "--dev" in edges.arguments:
        rows.append(f"  {'token':<12}roomful token --user alice --rooms '*'")
    rows.append(f"  {'stop':<12}Ctrl-C")
    return "\n".join(rows) + "\n"
