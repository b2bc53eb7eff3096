"""What `roomful cluster` and `roomful topology` say when they cannot do what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.cli import main
from roomful.cluster.cursor import ShardName
from roomful.cluster.topology import Address
from roomful.control.view import Phase, ShardStatus
from roomful.local.layout import BadCluster, Layout, Shape, hold_directory
from support.ports import claim_port, claim_ports

REFUSED = 2


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run `roomful`, which must refuse; gives its words."""
    assert main([str(one) for one in arguments]) == REFUSED
    said = capsys.readouterr().err
    assert said.startswith("roomful: ")
    return said


def test_server_program_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its path, and how to get one."""
    said = refusal(
        capsys, "cluster", "--dev", "--redis-server", "/nonexistent", "--state-dir", tmp_path
    )
    assert "/nonexistent" in said
    assert "apt install redis-server" in said


def test_program_that_is_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not started as one."""
    said = refusal(capsys, "cluster", "--dev", "--redis-server", "true", "--state-dir", tmp_path)
    assert "neither redis-server nor valkey-server" in said


def test_an_address_of_another_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the system says of it: that no program has the port is not for its user to find out."""
    said = refusal(
        capsys, "cluster", "--dev", "--state-dir", tmp_path, "--host", "203.0.113.9", "--port", "1"
    )
    assert said == "roomful: cannot listen on 203.0.113.9:1: Cannot assign requested address\n"


def test_directory_of_a_cluster_of_another_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that differs is said as it is there; nothing there is changed."""
    Layout.take_up(tmp_path, Shape(shards=2, replicas=1), claim_ports(4))
    before = (tmp_path / "cluster.json").read_bytes()
    said = refusal(
        capsys, "cluster", "--dev", "--state-dir", tmp_path, "--shards", "3", "--replicas", "2"
    )
    assert "--shards 2 --replicas 1" in said
    assert (tmp_path / "cluster.json").read_bytes() == before


def test_directory_that_it_makes_is_its_users_own(tmp_path: Path) -> None:
    """What the servers write there is all that was ever said."""
    with hold_directory(tmp_path / "held"):
        Layout.take_up(tmp_path / "begun", Shape(), 31_000)
    for name in ("held", "begun"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700, name


def test_shape_that_is_not_asked_for_is_the_one_there(tmp_path: Path) -> None:
    """A second start needs no options."""
    made = Layout.take_up(tmp_path, Shape(shards=3, replicas=2, durability="fsynced"), 31_000)
    assert Layout.take_up(tmp_path, Shape(), 32_000) == made
    assert (len(made.shards), made.durability) == (3, "fsynced")


def test_the_same_command_starts_a_cluster_that_has_grown(tmp_path: Path) -> None:
    """Shards that came and went since it was begun are no other shape."""
    shape = Shape(shards=2, replicas=1)
    begun = Layout.take_up(tmp_path, shape, claim_ports(4))
    grown = begun.with_shard(*begun.next_shard(begun.shards))
    assert Layout.take_up(tmp_path, shape, 32_000) == grown
    assert Layout.take_up(tmp_path, Shape(shards=3), 32_000) == grown
    shrunk = grown.without_shards([ShardName("s1"), ShardName("s2")])
    assert Layout.take_up(tmp_path, shape, 32_000) == shrunk
    with pytest.raises(BadCluster, match="a cluster with --shards 1: start it so"):
        Layout.take_up(tmp_path, Shape(shards=3), 32_000)


def test_cluster_file_that_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which file it is, and that it cannot be read."""
    (tmp_path / "cluster.json").write_text("{")
    assert "cluster.json cannot be read" in refusal(
        capsys, "cluster", "--dev", "--state-dir", tmp_path
    )
    assert "cluster.json cannot be read" in refusal(capsys, "topology", "--state-dir", tmp_path)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param(("--edges", "65"), "--edges 65: 0 to 64", id="edges"),
        pytest.param(("--shards", "0"), "--shards 0: 1 to", id="shards"),
        pytest.param(("--replicas", "-1"), "--replicas -1: 0 to", id="replicas"),
        pytest.param(("--port", "65535"), "--port 65535 with --edges 2", id="last port"),
        pytest.param(("--shard-port", "0"), "--shard-port 0: 1024 to 65535", id="shard port"),
        pytest.param(
            ("--replicas", "0", "--durability", "replicated"),
            "replicated needs --replicas 1",
            id="durability",
        ),
    ],
)
def test_options_that_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], sentence: str
) -> None:
    """Which one, and what it may be; no cluster is begun."""
    assert sentence in refusal(capsys, "cluster", "--dev", "--state-dir", tmp_path, *options)
    assert not (tmp_path / "cluster.json").exists()


def test_topology_of_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The directory that has none, and what else could be named."""
    said = refusal(capsys, "topology", "--state-dir", tmp_path)
    assert f"no cluster in {tmp_path}" in said
    assert "HOST:PORT" in said


def test_topology_of_servers_that_do_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its reason."""
    address = f"127.0.0.1:{claim_port()}"
    assert f"no server could be read\n  {address}: " in refusal(capsys, "topology", address)


@pytest.mark.parametrize(("online", "is_whole"), [(2, True), (1, False), (0, False)])
def test_shard_that_lacks_a_replica_is_not_whole(online: int, is_whole: bool) -> None:
    """Not even when there are enough for an ack: the next failure may then be one too many."""
    primary, *replicas = (Address("127.0.0.1", port) for port in (7000, 7001, 7002))
    status = ShardStatus(
        ShardName("s1"),
        Phase.SERVING,
        primary=primary,
        replicas=tuple(replicas),
        online=tuple(replicas[:online]),
    )
    assert status.is_whole is is_whole


@pytest.mark.parametrize(
    "shards",
    [
        pytest.param(("s1=127.0.0.1:7001", "s1=127.0.0.1:7002"), id="a shard twice"),
        pytest.param(("s1=127.0.0.1:7001", "s2=127.0.0.1:7001"), id="a server of two shards"),
        pytest.param(("s1=127.0.0.1:7001,127.0.0.1:7001",), id="a server twice"),
    ],
)
def test_shards_that_are_named_twice(
    shards: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """The controller does not begin with one of them left out, nor waits for what cannot come."""
    options = [word for shard in shards for word in ("--shard", shard)]
    assert "twice" in refusal(capsys, "controller", *options)


@pytest.mark.parametrize("option", ["--rate", "--duration", "--fault-every", "--outage"])
def test_a_verification_without_an_end(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Infinite is no rate and no time; nothing is started."""
    said = refusal(capsys, "verify", "--local", option, "inf")
    assert f"{option} must be above 0, and finite" in said
