"""Loading the library: once, never backwards, and only where it works."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from functions.server import RunningServer, serving
from roomful.shard.library import (
    Installed,
    LibraryRefused,
    Server,
    identify,
    install_library,
    library_source,
    library_version,
    parse_version,
)
from support.ports import claim_port

VERSION = library_version()


def of_version(version: int) -> str:
    """Give a library like ours with another version."""
    return library_source().replace(f"local VERSION = {VERSION}", f"local VERSION = {version}")


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def client(request: pytest.FixtureRequest, server: RunningServer) -> AsyncIterator[Redis]:
    """A client of a server without the library."""
    async with Redis(port=server.port, protocol=request.param) as connected:
        await connected.execute_command("FUNCTION", "FLUSH")  # type: ignore[no-untyped-call]
        yield connected


async def version_on(client: Redis) -> int:
    """Ask the server for the library's version."""
    version: int = await client.execute_command(  # type: ignore[no-untyped-call]
        "FCALL_RO", "roomful_version", 0
    )
    return version


async def test_it_is_loaded_once(client: Redis, server: RunningServer) -> None:
    """The first time it is put there, and later nothing is to do; the server says what it is."""
    first = await install_library(client)
    assert first == Installed(first.server, VERSION, None)
    assert f"{first.server.product}-server" == server.product
    assert first.server.is_standalone
    assert await version_on(client) == VERSION
    assert await install_library(client) == Installed(first.server, VERSION, VERSION)


async def test_it_replaces_an_older_one(client: Redis) -> None:
    """The new version answers."""
    await install_library(client)
    newer = await install_library(client, of_version(VERSION + 1))
    assert (newer.version, newer.before) == (VERSION + 1, VERSION)
    assert await version_on(client) == VERSION + 1


async def test_it_never_goes_back(client: Redis) -> None:
    """An old controller leaves a newer library alone."""
    await install_library(client, of_version(VERSION + 1))
    with pytest.raises(LibraryRefused, match=f"newer: {VERSION + 1}, not {VERSION}"):
        await install_library(client)
    assert await version_on(client) == VERSION + 1


async def test_one_version_is_one_text(client: Redis) -> None:
    """A library that was changed without its version is not taken for the same."""
    await install_library(client, library_source() + "-- changed\n")
    with pytest.raises(LibraryRefused, match="another library that is version"):
        await install_library(client)


async def test_code_that_does_not_load_is_refused(client: Redis) -> None:
    """With the server's words, and the one before goes on."""
    await install_library(client)
    with pytest.raises(LibraryRefused, match="could not be loaded"):
        await install_library(client, of_version(VERSION + 1) + "nonsense\n")
    assert await version_on(client) == VERSION


async def test_a_replica_is_refused(server: RunningServer, tmp_path: Path) -> None:
    """The library goes to the primary; a replica gets it from there."""
    options = ("--replicaof", "127.0.0.1", str(server.port))
    with serving(server.product, tmp_path / "replica", *options) as replica:
        async with Redis(port=server.port) as primary:
            await primary.execute_command("FUNCTION", "FLUSH")  # type: ignore[no-untyped-call]
        async with Redis(port=replica.port) as client:
            with pytest.raises(LibraryRefused, match="could not be loaded"):
                await install_library(client)


async def test_a_cluster_is_refused(server: RunningServer, tmp_path: Path) -> None:
    """Shards are standalone servers."""
    options = ("--cluster-enabled", "yes", "--cluster-port", str(claim_port()))
    with serving(server.product, tmp_path / "cluster", *options) as cluster:
        async with Redis(port=cluster.port) as client:
            with pytest.raises(LibraryRefused, match="not standalone"):
                await install_library(client)


async def test_nobody_there_is_refused_too(tmp_path: Path) -> None:
    """One kind of error, whatever the reason."""
    async with Redis(unix_socket_path=str(tmp_path / "nobody")) as client:
        with pytest.raises(LibraryRefused, match="could not be loaded"):
            await install_library(client)


class Answering:
    """A client of a server that this machine does not have: answers INFO, and nothing else."""

    def __init__(self, **info: str) -> None:
        self._info = info

    async def execute_command(self, *args: str | int) -> dict[str, str]:
        """Answer."""
        assert args == ("INFO", "server"), "it goes on with a server that it should refuse"
        return self._info


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"redis_version": "6.2.14", "redis_mode": "standalone"}, "redis 6.2.14 is too old"),
        (
            {
                "redis_version": "7.2.4",
                "valkey_version": "7.2.9",
                "server_mode": "standalone",
            },
            "valkey 7.2.9 is too old",
        ),
    ],
)
async def test_an_old_server_is_refused(info: dict[str, str], words: str) -> None:
    """By its own name and version: Valkey says that it is Redis 7.2.4 too."""
    with pytest.raises(LibraryRefused, match=re.escape(words)):
        await install_library(Answering(**info))


async def test_a_release_candidate_has_a_version() -> None:
    """What comes after a dash is not compared."""
    info = {"redis_version": "7.2.4", "valkey_version": "9.0.0-rc1", "server_mode": "standalone"}
    assert await identify(Answering(**info)) == Server("valkey", (9, 0, 0), is_standalone=True)


@pytest.mark.parametrize("source", ["", "local VERSION = x\n", "local VERSION = 1\n" * 2])
def test_a_library_has_one_version(source: str) -> None:
    """Else nobody could say which is newer."""
    with pytest.raises(LibraryRefused):
        parse_version(source)


def test_functions_are_named_by_version() -> None:
    """All but the one that says the version: edges of two releases find their own."""
    names = re.findall(r"register\('(\w+)'", library_source())
    assert len(names) == len(set(names)) > 20
    assert [name for name in names if not re.fullmatch(r"roomful_v1_[a-z_]+", name)] == [
        "roomful_version"
    ]
