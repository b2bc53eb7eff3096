"""`roomful users`: the part of a server's configuration that says who may do what there."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any, Final

from roomful.control.command import BadOption
from roomful.control.server import Users
from roomful.shard.users import Role, render_users

__all__ = ["add_users_command", "parse_passwords"]

PASSWORD: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
ROLES: Final = ", ".join(role.value for role in Role)
DESCRIPTION: Final = f"""\
Prints the lines of redis.conf (valkey.conf) that give each program a user of its own with no more
rights than it needs, and turn off the default user. FILE has a password for each of
{ROLES}, one on a line:

    edge=e9f26d7c5a8b

A role may have two lines while its password changes, the new one first. Passwords are hashed, but
for the replica's, with which servers sign in to their primary.
"""


def add_users_command(commands: Any) -> None:
    """Add `users` to the command line."""
    users = commands.add_parser(
        "users",
        help="print the users for servers of shards that you run yourself",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    users.add_argument("file", type=Path, metavar="FILE", help="the passwords; - for stdin")
    users.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        text = sys.stdin.read() if str(options.file) == "-" else options.file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise BadOption(f"{options.file} cannot be read: {why}") from exc
    sys.stdout.write(render_users(parse_passwords(text)))
    return 0


def parse_passwords(text: str) -> Users:
    """
    Read the lines `role=password`; others that are empty or begin with # are nothing.

    Raises:
        BadOption: naming every line that is wrong and every role that has no password.
    """
    found: dict[Role, list[str]] = {role: [] for role in Role}
    names = {role.value: role for role in Role}
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        name, _, password = line.strip().partition("=")
        if name in names and PASSWORD.fullmatch(password):
            found[names[name]].append(password)
        elif line.strip() and not line.lstrip().startswith("#"):
            wrong.append(f"line {number} is not role=password of letters, digits and -._~+/")
    wrong += [f"{role.value} has no password" for role, some in found.items() if not some]
    if wrong:
        raise BadOption(f"{'; '.join(wrong)}. The roles are {ROLES}")
    return found
