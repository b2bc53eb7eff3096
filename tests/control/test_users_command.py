"""`roomful users`: the users of servers that people run themselves."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import redis

from functions.server import PRODUCTS, serving
from roomful.cli import main
from roomful.shard.library import library_source
from support.deadline import DEADLINE_S

PASSWORDS = """\
# the new one first
edge=new
edge=old

controller=c
archiver=a
replica=r
"""


@pytest.mark.parametrize("product", PRODUCTS)
def test_what_it_prints_is_a_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], product: str
) -> None:
    """A server takes it as it is, and lets in who is in the file, with either password."""
    passwords, config = tmp_path / "passwords", tmp_path / "users.conf"
    passwords.write_text(PASSWORDS)
    assert main(["users", str(passwords)]) == 0
    config.write_text(capsys.readouterr().out)
    with serving(product, tmp_path / "data", "--include", str(config), has_real_time=True) as one:
        for name, password in (("edge", "new"), ("edge", "old"), ("controller", "c")):
            with redis.Redis(
                port=one.port, username=name, password=password, socket_timeout=DEADLINE_S
            ) as client:
                assert client.ping()
                if name == "controller":
                    client.function_load(library_source())


def test_all_that_is_wrong_is_said_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that are none, roles without a password; and no password is repeated."""
    monkeypatch.setattr("sys.stdin", io.StringIO("edge=ok\nadmin=secret\nreplica=two words\n"))
    assert main(["users", "-"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("roomful: line 2 is not role=password")
    for part in ("line 3 is", "controller has no", "archiver has no", "replica has no"):
        assert part in said
    assert "secret" not in said


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, with its path."""
    assert main(["users", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == (
        f"roomful: {tmp_path / 'none'} cannot be read: No such file or directory\n"
    )
