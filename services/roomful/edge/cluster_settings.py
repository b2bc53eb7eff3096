"""
The settings of an edge whose rooms are on Redis, and the shards made of them.
"""

from __future__ import annotations

import math
import secrets
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from roomful.archive.settings import classes_by_key
from roomful.cluster.topology import Address
from roomful.shard.batch import PublishRules
from roomful.shard.commit import CommitLimits
from roomful.shard.directory import Directory
from roomful.shard.reader import ReaderLimits
from roomful.shard.redis import ShardOptions
from roomful.shard.redis_shards import RedisShards
from roomful.shard.resp import Login

if TYPE_CHECKING:
    from roomful.edge.settings import Settings

__all__ = ["RedisSettings", "build_shards", "find_servers", "parse_shards"]

DEFAULT_PORT = 6379


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """How an edge uses shards on Redis."""

    # Who to sign in as: edge, or archiver, of `roomful users`; empty: the server's default user.
    username: str | None = None
    # The password of the servers.
    password: str | None = None
    # File with the certificates of who may sign the servers' (with rediss://); empty: the system's.
    tls_ca: str | None = None
    # Seconds the shards are looked for at the start, before the edge gives up.
    start_timeout_s: float = 30.0
    # Seconds a message may take until it is safe; then it is refused as retryable.
    publish_timeout_s: float = 10.0
    # Seconds everything else that a shard is asked may take.
    call_timeout_s: float = 5.0
    # Seconds one WAIT waits for the replicas, before the batch is sent again.
    wait_s: float = 1.0
    # Messages of one batch at most; while a shard stores one, its other edges wait.
    batch_messages: int = 512
    # Bytes from which on a batch takes no further message.
    batch_bytes: int = 1 << 20
    # Bytes of messages that may wait for one shard; more are refused with OVERLOADED.
    pending_bytes: int = 32 << 20
    # Seconds in which a second message with the same id is not stored again.
    id_window_s: float = 300.0
    # Seconds after which an edge that is not heard of any more is taken for dead.
    lease_s: float = 15.0

    def __post_init__(self) -> None:
        numbers = [name for name, hint in _FIELDS.items() if hint in ("int", "float")]
        problems = []
        if bad := [name for name in numbers if not 0 < getattr(self, name) < math.inf]:
            problems.append(f"{' and '.join(bad)} must be above 0")
        if self.batch_messages > 4096:
            problems.append("batch_messages must be at most 4096")
        if self.id_window_s < 2 * self.publish_timeout_s:
            problems.append("id_window_s must be at least twice publish_timeout_s")
        if self.username is not None and self.password is None:
            problems.append("username needs a password")
        if problems:
            raise ValueError(f"redis: {', '.join(problems)}")


_FIELDS = {name: one.type for name, one in RedisSettings.__dataclass_fields__.items()}


def parse_shards(shards: Sequence[str]) -> tuple[list[Address], bool]:
    """
    Read `redis://host:port` (or `rediss://`, over TLS); gives the addresses, and whether TLS.

    Raises:
        ValueError: saying which is none, and never what it holds of a password.
    """
    addresses, schemes = [], set()
    for place, text in enumerate(shards, 1):
        example = f"shards: number {place} is not like redis://host:6379"
        try:
            parts = urlsplit(text)
            port = parts.port or DEFAULT_PORT
        except ValueError as exc:
            raise ValueError(example) from exc
        if "@" in text:
            raise ValueError(
                f"shards: number {place} has a user or a password in it: set "
                "ROOMFUL_REDIS_USERNAME and ROOMFUL_REDIS_PASSWORD instead"
            )
        if parts.scheme not in ("redis", "rediss") or not parts.hostname or parts.path.strip("/"):
            raise ValueError(example)
        schemes.add(parts.scheme)
        addresses.append(Address(parts.hostname, port))
    if len(schemes) > 1:
        raise ValueError("shards: either all are redis:// or all are rediss://")
    return addresses, schemes == {"rediss"}


def find_servers(settings: Settings) -> tuple[list[Address], Login]:
    """
    Give the servers to begin with, and how to sign in to all of them.

    Raises:
        ValueError: the certificates cannot be read.
    """
    addresses, is_tls = parse_shards(settings.shards)
    redis = settings.redis
    tls = None
    if is_tls:
        try:
            tls = ssl.create_default_context(cafile=redis.tls_ca or None)
        except (OSError, ssl.SSLError) as exc:
            raise ValueError(f"redis.tls_ca {redis.tls_ca}: {exc}") from exc
    return addresses, Login(redis.username or "default", redis.password, tls)


def build_shards(settings: Settings, about: str) -> RedisShards | None:
    """
    Make the shards of *settings*; None: they are embedded.

    Args:
        about: what other edges read of this one.

    Raises:
        ValueError: the certificates cannot be read.
    """
    if not settings.shards:
        return None
    addresses, login = find_servers(settings)
    redis = settings.redis
    age_ms = int(settings.log.age_s * 1000)
    archive = settings.archive
    outbox = f"{archive.outbox_entries} {archive.outbox_bytes}" if archive.url else "0"
    options = ShardOptions(
        login=login,
        rules=PublishRules(
            keep=settings.log.messages_per_room,
            age_ms=age_ms,
            window_ms=int(redis.id_window_s * 1000),
            outbox=outbox,
            classes=classes_by_key(archive) if archive.url else "-",
        ),
        commit=CommitLimits(
            redis.batch_messages, redis.batch_bytes, redis.wait_s, redis.publish_timeout_s
        ),
        reader=ReaderLimits(log_age_ms=age_ms),
        presence=settings.presence,
        pending_bytes=redis.pending_bytes,
        call_timeout_s=redis.call_timeout_s,
        lease_s=redis.lease_s,
        about=about,
    )
    directory = Directory(addresses, login, find_s=redis.start_timeout_s)
    return RedisShards(directory, "e" + secrets.token_hex(5), options)
