"""
The operator's settings, from OPERATOR_* in its environment.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from roomful.protocol.errors import RoomfulError

__all__ = ["BadOperatorSettings", "OperatorSettings", "load_operator_settings"]


class BadOperatorSettings(RoomfulError):
    """Settings that cannot be used."""


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """All settings of one operator."""

    # The namespace of the Lease, that of the operator's own pod.
    namespace: str = "default"
    # The Lease's name; operators with the same one take turns.
    lease: str = "roomful-operator"
    # Who this one is in the Lease; the pod's name.
    identity: str = ""
    # Namespaces whose clusters it looks after; empty: all.
    namespaces: tuple[str, ...] = ()
    # Seconds between two looks at a cluster at rest.
    interval_s: float = 10.0
    # The port of /healthz and /metrics.
    port: int = 8081
    # debug, info, warning or error.
    log_level: str = "info"
    # text, or json for machines.
    log_format: str = "json"


def load_operator_settings(environment: Mapping[str, str]) -> OperatorSettings:
    """
    Read the settings.

    Raises:
        BadOperatorSettings: naming all that is wrong.
    """
    problems = []
    text = {
        name: environment.get(f"OPERATOR_{name.upper()}", "")
        for name in OperatorSettings.__dataclass_fields__
    }
    port, interval_s = 8081, 10.0
    try:
        port = int(text["port"] or port)
    except ValueError:
        problems.append(f"OPERATOR_PORT {text['port']!r} is no number")
    try:
        interval_s = float(text["interval_s"] or interval_s)
    except ValueError:
        problems.append(f"OPERATOR_INTERVAL_S {text['interval_s']!r} is no number of seconds")
    if not 0 < interval_s <= 30:
        problems.append("OPERATOR_INTERVAL_S has to be above 0, and at most 30")
    level = text["log_level"] or "info"
    if level not in ("debug", "info", "warning", "error"):
        problems.append(f"OPERATOR_LOG_LEVEL {level!r}: debug, info, warning or error")
    form = text["log_format"] or "json"
    if form not in ("text", "json"):
        problems.append(f"OPERATOR_LOG_FORMAT {form!r}: text or json")
    if problems:
        raise BadOperatorSettings("; ".join(problems))
    return OperatorSettings(
        namespace=text["namespace"] or "default",
        lease=text["lease"] or "roomful-operator",
        identity=text["identity"] or socket.gethostname(),
        namespaces=tuple(one.strip() for one in text["namespaces"].split(",") if one.strip()),
        interval_s=interval_s,
        port=port,
        log_level=level,
        log_format=form,
    )
