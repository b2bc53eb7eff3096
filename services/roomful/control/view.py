"""
What the controller knows of one shard at one moment, and what it says about it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address, ShardRecord
from roomful.control.observation import Observation, Role
from roomful.protocol.errors import RoomfulError

__all__ = ["Blocked", "Phase", "ShardStatus", "ShardView", "Waiting", "describe", "log_changes"]

logger = logging.getLogger("roomful.control")


class Phase(StrEnum):
    """How a shard is."""

    STARTING = "starting"
    """It has no role in a topology yet."""
    SERVING = "serving"
    """It takes writes, and as many replicas follow as an ack needs."""
    DEGRADED = "degraded"
    """Its primary is there, and too few replicas are: nothing is acknowledged."""
    SUSPECT = "suspect"
    """Its primary does not answer; it is too early to replace it."""
    FAILING_OVER = "failing over"
    BLOCKED = "blocked"
    """It needs something that only people or time can give; the reason says what."""


@dataclass(frozen=True, slots=True)
class ShardStatus:
    """What people are told about a shard."""

    name: ShardName
    phase: Phase
    reason: str = ""
    primary: Address | None = None
    term: int = 0
    replicas: tuple[Address, ...] = ()
    """The replicas that it should have."""
    online: tuple[Address, ...] = ()
    """Those of them that follow and are whole."""

    @property
    def is_whole(self) -> bool:
        """Whether it serves with all its replicas: it can lose any one server now."""
        return self.phase is Phase.SERVING and set(self.replicas) <= set(self.online)


class Waiting(RoomfulError):
    """The next step has to wait for something that is under way; nothing is wrong."""


class Blocked(RoomfulError):
    """The next step would not be safe; the words say what would have to be different."""


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard: what is recorded, what is wanted, and what its servers say."""

    name: ShardName
    record: ShardRecord | None
    """What the topology says; None: it is not in it yet."""
    members: tuple[Address, ...]
    """The servers that it shall have, in the order in which they would become primary first."""
    acks: int
    seen: Mapping[Address, Observation]
    """The servers that answered, of *members* and of the record."""
    missing_s: Mapping[Address, float] = field(default_factory=dict)
    """For how long each of the others has not."""
    unreachable: Mapping[Address, str] = field(default_factory=dict)
    """Why each of them did not."""

    def is_alive(self, record: ShardRecord) -> bool:
        """Whether the primary of *record* is there and is the process that it was."""
        primary = self.seen.get(record.primary)
        return (
            primary is not None
            and primary.role is Role.PRIMARY
            and primary.state.name == self.name
            and primary.state.term == record.term
            and record.run_id in (None, primary.run_id)
        )

    def strangers(self) -> list[Address]:
        """Give the servers that hold another shard's data: nothing may be copied over it."""
        return [
            address for address, one in self.seen.items() if one.state.name not in (None, self.name)
        ]


def describe(
    view: ShardView, record: ShardRecord | None, phase: Phase | None = None, reason: str = ""
) -> ShardStatus:
    """
    Give how the shard of *view* is by *record*.

    Args:
        phase: what is known better than the view shows; None: a primary is there or it is not.
    """
    if record is None:
        return ShardStatus(view.name, phase or Phase.STARTING, reason)
    primary = view.seen.get(record.primary)
    online = tuple(one for one in record.replicas if primary and one in primary.online)
    if phase is None and not view.is_alive(record):
        phase, reason = Phase.SUSPECT, f"{record.primary} is not its primary now"
    if phase is None:
        missing = view.acks - len(online)
        phase = Phase.DEGRADED if missing > 0 else Phase.SERVING
        if missing > 0:
            reason = f"nothing is acknowledged: {len(online)} of {view.acks} replicas follow"
    return ShardStatus(
        view.name, phase, reason, record.primary, record.term, record.replicas, online
    )


def log_changes(
    before: Mapping[ShardName, ShardStatus], after: Mapping[ShardName, ShardStatus]
) -> None:
    """Log each shard that has come to another phase or primary."""
    for name, now in after.items():
        was = before.get(name)
        if was is None or (was.phase, was.primary) != (now.phase, now.primary):
            extra = {"shard": name, "phase": now.phase.value, "primary": str(now.primary)}
            logger.info("shard changed", extra=extra | ({"why": now.reason} if now.reason else {}))
