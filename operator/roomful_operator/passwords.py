"""
The Secret with the passwords of the servers' users, and how they are changed: pure.

    edge             the password of the user `edge`; each program is given its own entry only
    edge.previous    the one before, while it is still taken
    users.conf       what the servers read: the users' rights, hashes of their passwords, and how
                     a replica signs in to its primary

Both are taken from the moment that the Secret is written until all pods that sign in have been
replaced by such as have the new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from roomful.control.link import Credentials
from roomful.control.server import Users
from roomful.shard.users import Role, render_users

__all__ = [
    "USERS_FILE",
    "Patch",
    "change",
    "complete",
    "credentials",
    "forget",
    "is_changing",
    "mark",
    "read_users",
]

USERS_FILE: Final = "users.conf"
PREVIOUS: Final = ".previous"

Secret = Mapping[str, str]
Patch = dict[str, str | None]
"""Entries to set; None: to take away. Empty: nothing is to do."""


def complete(secret: Secret, make: Callable[[], str]) -> Patch:
    """Give what is missing in *secret*, passwords from *make*, or is written in another way now."""
    made = {role.value: make() for role in Role if not secret.get(role.value)}
    return _written(secret, made)


def change(secret: Secret, make: Callable[[], str]) -> Patch:
    """Give every role another password, and keep the one that it has."""
    return _written(
        secret,
        {role.value: make() for role in Role}
        | {f"{role.value}{PREVIOUS}": secret[role.value] for role in Role},
    )


def forget(secret: Secret) -> Patch:
    """Let only the newest passwords be taken."""
    names = (f"{role.value}{PREVIOUS}" for role in Role)
    return _written(secret, {name: None for name in names if name in secret})


def is_changing(secret: Secret) -> bool:
    """Whether a password before the newest is taken still."""
    return any(f"{role.value}{PREVIOUS}" in secret for role in Role)


def read_users(secret: Secret) -> Users:
    """Give the passwords of each role, the newest first."""
    return {role: _passwords(secret, role) for role in Role}


def credentials(secret: Secret) -> Credentials:
    """Give what the operator itself signs in with."""
    newest, *previous = _passwords(secret, Role.CONTROLLER)
    return Credentials(newest, Role.CONTROLLER.value, previous[0] if previous else None)


def mark(secret: Secret) -> str:
    """Give a word that changes with the passwords of edges and archiver, and does not tell them."""
    newest = "\n".join(secret[role.value] for role in (Role.EDGE, Role.ARCHIVER))
    return hashlib.sha256(newest.encode()).hexdigest()[:16]


def _passwords(secret: Secret, role: Role) -> Sequence[str]:
    names = (role.value, f"{role.value}{PREVIOUS}")
    return tuple(secret[name] for name in names if secret.get(name))


def _written(secret: Secret, changes: Mapping[str, str | None]) -> Patch:
    after = {name: value for name, value in {**secret, **changes}.items() if value is not None}
    text = render_users(read_users(after))
    return dict(changes) if secret.get(USERS_FILE) == text else {**changes, USERS_FILE: text}
