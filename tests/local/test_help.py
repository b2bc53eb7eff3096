"""What `--help` says: every argument is explained, and every default is there."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import pytest

from roomful.cli import build_parser, main
from roomful_operator import plugin

MOST_COLUMNS = 100


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Give *parser* and all below it."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from commands(one)


ALL = [
    pytest.param(one, id=one.prog)
    for parser in (build_parser(), plugin.build_parser())
    for one in commands(parser)
]


@pytest.mark.parametrize("parser", ALL)
def test_every_argument_is_explained(parser: argparse.ArgumentParser) -> None:
    """With what it is when it is left out."""
    for action in parser._actions:
        name = f"{parser.prog} {action.dest}"
        if isinstance(action, argparse._SubParsersAction):
            continue
        assert action.help, name
        shown = action.help % {**vars(action), "prog": parser.prog} if "%(" in action.help else ""
        if takes_a_value(action) and action.default not in (None, []):
            assert "(default: " in (shown or action.help), name


def takes_a_value(action: Any) -> bool:
    """Whether it is an option with a value that may be left out."""
    return bool(action.option_strings) and action.nargs != 0 and not action.required


@pytest.mark.parametrize("parser", ALL)
def test_help_fits(parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into a terminal that is not narrow."""
    monkeypatch.setenv("COLUMNS", str(MOST_COLUMNS))
    assert max(map(len, parser.format_help().splitlines())) <= MOST_COLUMNS


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """`roomful --version` is the first that a report of a bug needs."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("roomful 0.")
