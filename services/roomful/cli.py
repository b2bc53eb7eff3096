"""The command `roomful`: serve an edge, make a token."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import uvloop

from roomful.archive.command import ArchiveConfig, add_archive
from roomful.control.command import add_controller_command
from roomful.control.users_command import add_users_command
from roomful.edge.app import EdgeServer, build_edge
from roomful.edge.auth import MAX_USER_LENGTH, Authenticator, is_user
from roomful.edge.cluster_settings import find_servers
from roomful.edge.open_files import fit_connections
from roomful.edge.settings import (
    DEV_SECRET,
    BadSettings,
    Settings,
    conformance_settings,
    load_settings,
    load_unchecked,
    settings_table,
    signing_settings,
)
from roomful.local.command import add_cluster_command
from roomful.local.reshard_commands import add_reshard_commands
from roomful.local.role_commands import add_role_commands
from roomful.local.topology_command import add_topology_command
from roomful.protocol.errors import RoomfulError
from roomful.telemetry.logging import configure_logging
from roomful.verify.command import add_verify

__all__ = ["build_parser", "main"]

logger = logging.getLogger("roomful.edge")

BAD_USAGE = 2


def build_parser() -> argparse.ArgumentParser:
    """Give the command line."""
    parser = argparse.ArgumentParser(
        prog="roomful",
        description="Realtime rooms for any Socket.IO client: an acknowledged message is never "
        "lost, doubled or reordered.",
    )
    parser.add_argument("--version", action="version", version=f"roomful {version('roomful')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    add_cluster_command(commands)
    add_controller_command(commands)
    add_users_command(commands)
    add_topology_command(commands)
    add_role_commands(commands)
    add_reshard_commands(commands)
    _add_token(commands)
    add_archive(commands, _load_archive)
    add_verify(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except RoomfulError as exc:
        print(f"roomful: {exc}", file=sys.stderr)
        return BAD_USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Who reads has enough, as `head` does; Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="run one edge with its rooms in the process",
        description="Runs one edge. Settings come from --config FILE (TOML), then from "
        "ROOMFUL_* in the environment, then from the options here; docs/settings.md lists them.",
    )
    serve.add_argument(
        "--dev",
        action="store_true",
        help="for a laptop: a known secret, any origin, all rooms allowed, a demo page",
    )
    serve.add_argument("--host", help="address to listen on (default: all; 127.0.0.1 with --dev)")
    serve.add_argument("--port", type=int, help="port to listen on (default: 8080)")
    serve.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML")
    serve.add_argument(
        "--state-dir", metavar="DIR", help="where rooms are kept over a restart (default: .roomful)"
    )
    serve.add_argument(
        "--check-config",
        action="store_true",
        help="read the settings, say what is wrong or what they are, and exit",
    )
    serve.add_argument(
        "--conformance",
        action="store_true",
        help="the profile of the official Engine.IO and Socket.IO test suites: echoes, no auth",
    )
    serve.set_defaults(run=_serve)


def _add_token(commands: Any) -> None:
    token = commands.add_parser(
        "token",
        help="print a signed token",
        description="Prints a JWT (HS256) signed with ROOMFUL_AUTH_SECRET; without one, with the "
        "development secret that only `roomful serve --dev` takes. ROOMFUL_AUTH_ISSUER and "
        "ROOMFUL_AUTH_AUDIENCE are in it if they are set.",
    )
    token.add_argument("--user", help="who the token is for (claim sub); needed, but for --service")
    token.add_argument(
        "--rooms",
        action="append",
        metavar="PATTERN[=RIGHTS]",
        help="rooms it may join and send to, * stands for any characters; =join or =join+send; "
        "may be repeated (default: what the server allows)",
    )
    token.add_argument(
        "--expires", default="24h", help="how long it is good: 30m, 24h, 7d (default: %(default)s)"
    )
    token.add_argument("--service", action="store_true", help="a backend's token, for REST")
    token.set_defaults(run=_token)


def _load(options: argparse.Namespace) -> Settings:
    overrides: dict[str, Any] = {}
    if options.dev:
        overrides["dev"] = True
    if options.conformance:
        overrides["conformance"] = True
    for name in ("host", "port", "state_dir"):
        if getattr(options, name) is not None:
            overrides[name] = getattr(options, name)
    settings = load_settings(os.environ, file=options.config, overrides=overrides)
    return conformance_settings(settings) if settings.conformance else settings


def _load_archive(options: argparse.Namespace) -> ArchiveConfig:
    settings = load_unchecked(os.environ, file=options.config)
    try:
        servers, login = find_servers(settings)
    except ValueError as exc:
        raise BadSettings([str(exc)]) from exc
    return ArchiveConfig(
        archive=settings.archive,
        servers=servers,
        login=login,
        state_dir=settings.state_dir,
        port=settings.port,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )


def _serve(options: argparse.Namespace) -> int:
    settings = _load(options)
    if options.check_config:
        for key, variable, value in settings_table(settings):
            print(f"{key} = {value}  # {variable}")
        return 0
    configure_logging(settings.log_level, settings.log_format)
    listener = _listen(settings)
    try:
        edge = build_edge(_fitting(settings))
    except ValueError as exc:
        raise BadSettings([str(exc)]) from exc
    server = EdgeServer(edge, on_started=lambda: _greet(settings, listener))
    uvloop.run(server.serve([listener]))
    return 0


def _fitting(settings: Settings) -> Settings:
    """Take no more connections than this process may open files."""
    wanted = settings.limits.connections
    fitting = fit_connections(wanted)
    if fitting == wanted:
        return settings
    logger.log(
        logging.DEBUG if settings.dev else logging.WARNING,
        "fewer connections than limits.connections: this process may not open so many files "
        "(ulimit -Hn)",
        extra={"connections": fitting, "wanted": wanted},
    )
    return replace(settings, limits=replace(settings.limits, connections=fitting))


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # All addresses are those of IPv4, too.
    is_dual = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (host, port), family=family, backlog=4096, dualstack_ipv6=is_dual
        )
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            why = f"port {port} of {host} is taken by another program: choose another by --port"
        else:
            # create_server() adds what it tried to the words of the system.
            words = (exc.strerror or str(exc)).partition(" (while")[0]
            why = f"cannot listen on {host}:{port}: {words}"
        raise BadSettings([why]) from exc


def _greet(settings: Settings, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    shown = "localhost" if host in ("127.0.0.1", "0.0.0.0", "::") else host  # noqa: S104
    if ":" in shown:
        shown = f"[{shown}]"
    print(f"Roomful is at http://{shown}:{port}", file=sys.stderr)
    if settings.dev:
        print(
            "  development mode: everyone who can reach this port can sign in\n"
            f"  chat:   http://{shown}:{port}/\n"
            "  token:  roomful token --user alice --rooms '*'\n"
            "  stop:   Ctrl-C",
            file=sys.stderr,
        )


_DURATION = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _token(options: argparse.Namespace) -> int:
    duration = _DURATION.fullmatch(options.expires)
    if duration is None:
        raise BadSettings([f"--expires {options.expires!r}: a number and s, m, h or d"])
    if options.user is None and not options.service:
        raise BadSettings(["--user is needed (or --service)"])
    user = "service" if options.user is None else options.user
    if not is_user(user):
        raise BadSettings([f"--user: 1 to {MAX_USER_LENGTH} characters, none of control"])
    rooms: dict[str, list[str]] = {}
    for rule in options.rooms or ():
        pattern, _, rights = rule.partition("=")
        rooms[pattern] = rights.split("+") if rights else ["join", "send"]
        if not set(rooms[pattern]) <= {"join", "send"}:
            raise BadSettings([f"--rooms {rule!r}: rights are join, send or join+send"])
    secret = os.environ.get("ROOMFUL_AUTH_SECRET", DEV_SECRET)
    try:
        authenticator = Authenticator(signing_settings(secret, os.environ))
    except ValueError as exc:
        raise BadSettings([str(exc)]) from exc
    print(
        authenticator.mint(
            user=user,
            rooms=rooms or None,
            lifetime_s=int(duration[1]) * _SECONDS[duration[2]],
            is_service=options.service,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
