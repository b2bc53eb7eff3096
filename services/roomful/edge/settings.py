"""
The settings of `roomful serve`: read once at start, from a TOML file and from ROOMFUL_*, checked
together, and never changed after.

A key `limits.payload_bytes` is `payload_bytes` in the file's table `[limits]`, and
`ROOMFUL_LIMITS_PAYLOAD_BYTES` in the environment, which wins. A tuple is a list in the file and
comma separated in the environment. docs/settings.md is generated from the comments here.
"""

from __future__ import annotations

import math
import re
import secrets
import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import msgspec

from roomful.archive.settings import ArchiveSettings
from roomful.edge.access import AccessSettings
from roomful.edge.auth import AuthSettings
from roomful.edge.cluster_settings import RedisSettings, parse_shards
from roomful.edge.limits import LimitSettings
from roomful.edge.peers import parse_address
from roomful.protocol.errors import RoomfulError
from roomful.shard.log import LogLimits
from roomful.shard.memory import MemoryLimits
from roomful.shard.presence import PresenceLimits
from roomful.telemetry.settings import TracingSettings

__all__ = [
    "DEV_SECRET",
    "BadSettings",
    "Settings",
    "load_settings",
    "load_unchecked",
    "settings_table",
    "signing_settings",
]

PREFIX: Final = "ROOMFUL_"
DEV_SECRET: Final = "roomful-dev-secret-for-local-use-only"  # noqa: S105 - known, so refused outside --dev


class BadSettings(RoomfulError):
    """Settings that cannot be used; *problems* names each of them in one sentence."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("bad settings:\n" + "\n".join(f"  - {problem}" for problem in problems))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one edge."""

    # For a laptop: a known secret, everything allowed to tokens without rooms, any origin, a
    # page to sign in at, tokens in the query of /ws. Never for production.
    dev: bool = False
    # The profile of the official protocol suites: echo endpoints, no auth, no recovery.
    conformance: bool = False
    # The address to listen on; 127.0.0.1 under --dev.
    host: str = "0.0.0.0"  # noqa: S104 - a server in a container listens on all
    # The port to listen on.
    port: int = 8080
    # host:port under which the other edges of a cluster reach this one, for clients on polling
    # whose requests a load balancer spreads; empty: guessed from host and port.
    advertise: str = ""
    # Origins of web pages that may connect, such as https://app.example.com; * for any. A page
    # from the same host always may.
    origins: tuple[str, ...] = ()
    # Seconds between pings; a proxy's read timeout has to be above interval + timeout.
    ping_interval_s: float = 25.0
    # Seconds a client has to answer a ping.
    ping_timeout_s: float = 20.0
    # Whether clients may resume their session after a cut.
    recovery: bool = True
    # Seconds after its connection was lost in which a client may resume.
    recovery_window_s: float = 300.0
    # Seconds over which connections are closed when the edge stops; at least 100 a second go.
    drain_window_s: float = 10.0
    # Where the shards of a cluster are found: redis://host:port of some of their servers, or
    # rediss:// over TLS. None: the rooms are in this process (an embedded shard).
    shards: tuple[str, ...] = ()
    # Directory where an embedded shard keeps its messages, over restarts and a SIGKILL; empty:
    # nowhere, a stop forgets everything.
    state_dir: str = ".roomful"
    # Whether plain JSON clients may show their token in the query, where proxies log it.
    auth_query_token: bool = False
    # debug, info, warning or error.
    log_level: str = "info"
    # text, or json for machines.
    log_format: str = "text"

    # Who may connect.
    auth: AuthSettings = field(default_factory=AuthSettings)
    # Who may do what in which room.
    access: AccessSettings = field(default_factory=AccessSettings)
    # How much anyone may take.
    limits: LimitSettings = field(default_factory=LimitSettings)
    # The room logs.
    log: LogLimits = field(default_factory=LogLimits)
    # Who is in which room.
    presence: PresenceLimits = field(default_factory=PresenceLimits)
    # The rest of the embedded shard.
    memory: MemoryLimits = field(default_factory=MemoryLimits)
    # History that lasts: who fills the archive (`roomful archive`) and who reads it.
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    # Shards on Redis.
    redis: RedisSettings = field(default_factory=RedisSettings)
    # What happened to a message, as spans.
    tracing: TracingSettings = field(default_factory=TracingSettings)

    @property
    def timer_tick_s(self) -> float:
        """The resolution of heartbeats: a twentieth of the shortest of their times."""
        shortest = min(self.ping_interval_s, self.ping_timeout_s, self.limits.connect_timeout_s)
        return min(0.5, shortest / 20)


def load_settings(
    environment: Mapping[str, str], *, file: Path | None = None, overrides: Mapping[str, Any]
) -> Settings:
    """
    Read the settings: defaults, then *file*, then *environment*, then *overrides* (dotted keys).

    Raises:
        BadSettings: one for all that is wrong.
    """
    problems: list[str] = []
    values = _read(environment, file, problems)
    values |= overrides
    if str(values.get("dev")).lower() in ("true", "1"):
        values = _DEV_DEFAULTS | values
    broken: set[str] = set()
    settings: Settings = _build(Settings, "", values, problems, broken)
    problems += _contradictions(settings, broken)
    if problems:
        raise BadSettings(problems)
    return settings


def load_unchecked(environment: Mapping[str, str], *, file: Path | None = None) -> Settings:
    """
    Read the settings for a process that is no edge: whether one could run so is not asked.

    Raises:
        BadSettings: one for all that is wrong.
    """
    problems: list[str] = []
    values = _read(environment, file, problems)
    settings: Settings = _build(Settings, "", values, problems, set())
    if problems:
        raise BadSettings(problems)
    return settings


def signing_settings(secret: str, environment: Mapping[str, str]) -> AuthSettings:
    """
    Give what makes tokens with *secret* that an edge of the same *environment* takes.

    Raises:
        ValueError: the secret cannot be used.
    """
    issuer = environment.get("ROOMFUL_AUTH_ISSUER") or None
    audience = environment.get("ROOMFUL_AUTH_AUDIENCE") or None
    return AuthSettings(secret=secret, issuer=issuer, audience=audience)


def _read(environment: Mapping[str, str], file: Path | None, problems: list[str]) -> dict[str, Any]:
    values = {} if file is None else _from_file(file, problems)
    return values | _from_environment(environment, problems)


_DEV_DEFAULTS: Final[dict[str, Any]] = {
    "host": "127.0.0.1",
    "origins": ["*"],
    "auth_query_token": True,
    "auth.secret": DEV_SECRET,
    "access.allow_all": True,
}


# RFC 6454 section 6.1; a slash at the end is forgiven.
_ORIGIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#@\s]*/?")


def _contradictions(settings: Settings, broken: Set[str]) -> list[str]:
    """Say what cannot be meant together; of groups that are *broken* only defaults are here."""
    problems = []
    auth = settings.auth
    if auth.secret == DEV_SECRET and not settings.dev:
        problems.append(
            "auth.secret is the development secret: everyone knows it; use --dev, "
            "or set a secret of your own"
        )
    has_key = auth.secret or auth.public_keys or auth.jwks_url or "auth" in broken
    if not (has_key or settings.conformance):
        problems.append(
            "nobody could sign in: set ROOMFUL_AUTH_SECRET (HS256), "
            "ROOMFUL_AUTH_PUBLIC_KEYS or ROOMFUL_AUTH_JWKS_URL, or use --dev"
        )
    if settings.archive.url and not settings.shards and "shards" not in broken:
        problems.append(
            "archive.url is for a cluster (ROOMFUL_SHARDS): without one messages are in SQLite"
        )
    if settings.access.allow_all and not settings.dev:
        problems.append("access.allow_all is for --dev only")
    if not 0 <= settings.port <= 65535:
        problems.append(f"port {settings.port} is not between 0 and 65535")
    if settings.advertise:
        try:
            parse_address(settings.advertise)
        except ValueError as exc:
            problems.append(f"advertise: {exc}")
    problems += [
        f"{name} has to be a number of seconds above 0"
        for name in ("ping_interval_s", "ping_timeout_s", "recovery_window_s")
        if not 0 < getattr(settings, name) < math.inf
    ]
    if not 0 <= settings.drain_window_s < math.inf:
        problems.append("drain_window_s has to be a number of seconds, 0 or more")
    problems += [
        f"origins: {origin!r} is not like https://app.example.com (no path; or * for any)"
        for origin in settings.origins
        if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin)
    ]
    try:
        parse_shards(settings.shards)
    except ValueError as exc:
        problems.append(str(exc))
    if settings.log_level not in ("debug", "info", "warning", "error"):
        problems.append(f"log_level {settings.log_level!r}: debug, info, warning or error")
    if settings.log_format not in ("text", "json"):
        problems.append(f"log_format {settings.log_format!r}: text or json")
    return problems


def _from_file(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        document = tomllib.loads(file.read_text())
    except OSError as exc:
        problems.append(f"{file} cannot be read: {exc.strerror}")
        return {}
    except ValueError as exc:
        problems.append(f"{file}: {exc}")
        return {}
    values: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            values |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            values[key] = value
    problems += [f"{file}: there is no setting {key}" for key in values if key not in _KEYS]
    return {key: value for key, value in values.items() if key in _KEYS}


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    names = {variable_of(key): key for key in _KEYS}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        key = names.get(variable)
        if key is None:
            problems.append(f"{variable}: there is no such setting")
        elif tuple in (_KEYS[key], getattr(_KEYS[key], "__origin__", None)):
            values[key] = [part.strip() for part in text.split(",") if part.strip()]
        else:
            values[key] = None if text == "" and type(None) in get_args(_KEYS[key]) else text
    return values


def variable_of(key: str) -> str:
    """Give the environment variable of the setting *key*."""
    return PREFIX + key.replace(".", "_").upper()


def _build(
    cls: type[Any],
    prefix: str,
    values: Mapping[str, Any],
    problems: list[str],
    broken: set[str],
) -> Any:
    """
    Make *cls* from the values under *prefix*; what does not fit is a problem, and is left out.

    Its fields that do not fit are added to *broken*; if they do not fit together, it has defaults.
    """
    hints = get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for one in fields(cls):
        hint = hints[one.name]
        key = prefix + one.name
        if is_dataclass(hint):
            assert isinstance(hint, type)
            count = len(problems)
            arguments[one.name] = _build(hint, key + ".", values, problems, set())
            if len(problems) > count:
                broken.add(one.name)
        elif key in values:
            try:
                arguments[one.name] = msgspec.convert(values[key], hint, strict=False)
            except msgspec.ValidationError as exc:
                problems.append(f"{key} ({variable_of(key)}): {exc}")
                broken.add(one.name)
    try:
        return cls(**arguments)
    except ValueError as exc:
        problems.append(str(exc))
        return cls()


def _keys(cls: type[Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    hints = get_type_hints(cls)
    for one in fields(cls):
        hint = hints[one.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            found |= _keys(hint, f"{prefix}{one.name}.")
        else:
            found[prefix + one.name] = hint
    return found


_KEYS: Final = _keys(Settings)

_SECRET_KEYS: Final = frozenset(
    {
        "auth.secret",
        "access.webhook_secret",
        "archive.url",
        "redis.password",
    }
)


_CREDENTIALS: Final = re.compile(r"(?<=://)[^/?#]*(?=@)|(?<=\?)[^#]+")
"""In a URL: who signs in, and the query, where some take their token from."""


def settings_table(settings: Settings) -> list[tuple[str, str, str]]:
    """Give (key, variable, value) of every setting; secrets are not shown."""
    rows = []
    for key in _KEYS:
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part)
        if key in _SECRET_KEYS and value:
            value = "(set)"
        elif isinstance(value, str) and "://" in value:
            value = _CREDENTIALS.sub("(set)", value)
        rows.append((key, variable_of(key), msgspec.json.encode(value).decode()))
    return rows


def conformance_settings(settings: Settings) -> Settings:
    """Give the profile that the official suites need, on the host and port of *settings*."""
    return replace(
        settings,
        conformance=True,
        ping_interval_s=0.3,
        ping_timeout_s=0.2,
        recovery=False,
        auth=replace(settings.auth, secret=secrets.token_hex(32)),
        origins=("*",),
        state_dir="",
        limits=replace(settings.limits, connect_timeout_s=1.0, payload_bytes=1_000_000),
    )
