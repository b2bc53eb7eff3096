"""A real PostgreSQL for the tests, and PgBouncer before it, both on free ports."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg

from support.ports import claim_port

__all__ = ["Cluster", "PgBouncer", "bouncing", "running_cluster"]

_START_S = 60.0
_NUMBERS = count(1)


def _program(name: str) -> str:
    """Find a program of PostgreSQL, which Debian does not put on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]))
    program = str(found[-1]) if found else shutil.which(name)
    assert program, f"these tests need PostgreSQL (Debian: apt-get install postgresql): no {name}"
    return program


def _user() -> str | None:
    """The servers refuse root: then the user that Debian made for them, or nobody."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


def _own_directory() -> Path:
    # Not below pytest's own, which is for its user only.
    directory = Path(tempfile.mkdtemp(prefix="roomful-postgres-"))
    if user := _user():
        shutil.chown(directory, user)
    return directory


@dataclass(slots=True)
class Cluster:
    """One PostgreSQL server, which keeps its port and data over restarts."""

    directory: Path
    port: int
    fsync: str = "off"
    """Tests do not cut the power."""
    _process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": self.fsync,
            "max_connections": "50",
            "autovacuum": "off",
        }
        command = [_program("postgres"), "-D", str(self.directory / "data"), "-p", str(self.port)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, user=_user(), stdout=log, stderr=log, cwd=self.directory
            )
        _wait_for(self.port)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _START_S
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError:
                assert time.monotonic() < end, (self.directory / "log").read_text()[-4000:]
            else:
                return

    def kill(self) -> None:
        """End the server as a crash would: no farewell to its clients, recovery at the start."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """End the server, cutting its clients."""
        self._end(signal.SIGINT)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_S)
            self._process = None

    def url(self, database: str, port: int | None = None) -> str:
        """Where a database is; *port* is that of a pooler before it."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    def create(self, template: str = "template1") -> str:
        """Make a database; gives its name."""
        name = f"test{next(_NUMBERS)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return name

    def drop(self, name: str) -> None:
        """Drop a database, cutting who uses it."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def running_cluster(fsync: str = "off") -> Iterator[Cluster]:
    """Make a PostgreSQL and run it."""
    cluster = Cluster(_own_directory(), claim_port(), fsync)
    command = [_program("initdb"), "-D", str(cluster.directory / "data"), "-U", "postgres"]
    command += ["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
    try:
        subprocess.run(
            command, user=_user(), check=True, capture_output=True, cwd=cluster.directory
        )
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(cluster.directory)


@dataclass(frozen=True, slots=True)
class PgBouncer:
    """A pooler in transaction mode."""

    port: int


@contextmanager
def bouncing(cluster: Cluster) -> Iterator[PgBouncer]:
    """Run PgBouncer before *cluster*."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    assert program, "these tests need PgBouncer (Debian: apt-get install pgbouncer)"
    directory, port = _own_directory(), claim_port()
    (directory / "users").write_text('"postgres" ""\n')
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={cluster.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "pool_mode = transaction\nauth_type = trust\ndefault_pool_size = 4\n"
        f"auth_file = {directory}/users\nserver_idle_timeout = 1\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(directory / "pgbouncer.ini")], user=_user(), stdout=log, stderr=log
        )
    try:
        _wait_for(port)
        yield PgBouncer(port)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


def _wait_for(port: int) -> None:
    end = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except OSError:
            assert time.monotonic() < end, f"nobody listens on {port}"
            time.sleep(0.02)
        else:
            return
