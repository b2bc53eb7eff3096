"""`roomful failover` and `roomful promote` on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from control.driving import QUICK, Driven
from control.servers import Fleet, SealedServer, running_fleet
from roomful.cli import main
from roomful.control.controller import Controller
from support.users import CONTROLLER, USERS


async def _bring_up(fleet: Fleet, acks: int) -> None:
    controller = Controller(fleet.spec(acks), credentials=CONTROLLER, users=USERS, pace=QUICK)
    driven = Driven(controller)
    await driven.until(
        lambda status: status.is_serving and all(one.is_whole for one in status.shards.values())
    )
    await driven.controller.aclose()


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SealedServer]]:
    """
    A shard that serves, primary first, with two replicas; acks wait for one.

    Its servers have users: the commands sign in as the controller does.
    """
    monkeypatch.setenv("ROOMFUL_REDIS_USERNAME", CONTROLLER.username or "")
    monkeypatch.setenv("ROOMFUL_REDIS_PASSWORD", CONTROLLER.password or "")
    with running_fleet(tmp_path, shards=1, replicas=2, has_users=True) as fleet:
        asyncio.run(_bring_up(fleet, 1))
        yield fleet.servers


def roomful(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run `roomful`; gives its status and what it said."""
    status = main([str(one) for one in arguments])
    return status, capsys.readouterr().err


def test_a_role_goes_to_the_replica_that_is_named(
    servers: list[SealedServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """With everything; the old primary is a replica then."""
    first, second, third = servers
    first.store("kept", "value")
    where = str(first.address)
    status, said = roomful(capsys, "failover", "s1", where, "--to", third.address, "--dry-run")
    assert (status, first.info()["role"]) == (0, "master")
    assert f"hands over to {third.address}" in said
    status, said = roomful(capsys, "failover", "s1", where, "--to", third.address)
    assert status == 0, said
    assert "done in" in said
    assert third.command("GET", "kept") == b"value"
    assert first.info()["role"] == second.info()["role"] == "slave"


def test_what_cannot_be_handed_over_is_refused(
    servers: list[SealedServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """No such shard, no such replica, the primary itself: a sentence, and nothing is changed."""
    where = str(servers[0].address)
    for arguments, words in (
        (("s7", where), "there is no shard 's7': s1"),
        (("s1", where, "--to", "127.0.0.1:1"), "is no whole replica"),
        (("s1", where, "--to", where), "is the primary of s1 already"),
        (("s1", where, "--to", "nonsense"), "host:port"),
    ):
        status, said = roomful(capsys, "failover", *arguments)
        assert (status, words in said) == (2, True), said
    assert servers[0].info()["role"] == "master"


def test_a_promotion_is_forced_only_by_those_who_say_so(
    servers: list[SealedServer], capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what is lost and where, and does nothing to a shard that has its primary."""
    first, second, third = servers
    status, said = roomful(capsys, "promote", "s1", third.address, "--force")
    assert (status, "nothing has to be forced" in said) == (2, True), said
    for lost in (first, second):
        lost.kill()
    status, said = roomful(capsys, "promote", "s1", third.address)
    assert status == 2
    assert f"LOST is what only these have: {first.address}, {second.address}" in said
    assert "--force" in said
    assert third.info()["role"] == "slave"
    # It comes back, and waits for a role that the shard's one quorum server cannot give.
    second.start()
    status, said = roomful(capsys, "promote", "s1", third.address, "--force")
    assert status == 0, said
    assert third.info()["role"] == "master"
    assert third.command("HGET", "roomful:shard", "term") == b"2"


def test_a_shard_begins_anew_only_for_those_who_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No server is missing, and yet all messages are lost: `topology` says what begins it."""
    monkeypatch.setenv("ROOMFUL_REDIS_USERNAME", CONTROLLER.username or "")
    monkeypatch.setenv("ROOMFUL_REDIS_PASSWORD", CONTROLLER.password or "")
    with running_fleet(tmp_path, shards=2, replicas=1, has_users=True) as fleet:
        asyncio.run(_bring_up(fleet, 1))
        (first, _), (other, _) = fleet.shards["s1"], fleet.shards["s2"]
        first.command("FLUSHALL")
        assert main(["topology", str(other.address)]) == 1
        shown = capsys.readouterr().out
        assert "s1  blocked (" in shown
        assert "begin it anew, with nothing: roomful promote --force s1)" in shown
        status, said = roomful(capsys, "promote", "s1", other.address)
        assert (status, "LOST is all that the shard had" in said) == (2, True), said
        assert first.command("EXISTS", "roomful:shard") == 0
        status, said = roomful(capsys, "promote", "s1", other.address, "--force")
        assert status == 0, said
        assert first.command("HGET", "roomful:shard", "term") == b"2"


def test_a_wrong_password_and_nobody_there_are_told_apart(
    servers: list[SealedServer],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each server has its line, and what to look at comes first."""
    where = servers[0].address
    assert main(["topology", str(where)]) == 0
    assert "s1  serving" in capsys.readouterr().out
    monkeypatch.setenv("ROOMFUL_REDIS_PASSWORD", "guessed")
    status, said = roomful(capsys, "topology", where)
    assert status == 2
    assert f"{where}: sign-in as controller failed: WRONGPASS" in said
    for server in servers:
        server.kill()
    status, said = roomful(capsys, "topology", where)
    assert (status, said) == (
        2,
        f"roomful: no server could be read\n  {where}: Connection refused\n",
    )
