"""Patterns of names: only the star is special, and none takes long."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from roomful.cluster.glob import Glob


def reference(pattern: str, name: str) -> bool:
    """Match as fnmatch does, by a regular expression, with nothing special but the star."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) is not None


FEW_LETTERS = st.text(alphabet="ab*", max_size=8)
NAMES = st.text(alphabet="ab", max_size=12) | st.text(max_size=12)


@given(patterns=st.frozensets(FEW_LETTERS | st.text(max_size=6), max_size=4), name=NAMES)
@example(patterns=frozenset({"ab*ba"}), name="aba")
@example(patterns=frozenset({"*ab*ab*"}), name="aab")
@example(patterns=frozenset({"*ab*b"}), name="ab")
@example(patterns=frozenset({"**"}), name="")
@example(patterns=frozenset({"a?[b]"}), name="aab")
@example(patterns=frozenset({"a*"}), name="a\nb")
def test_glob_agrees_with_a_regular_expression(patterns: frozenset[str], name: str) -> None:
    """A name fits when one of the patterns fits all of it; only the star is special."""
    assert Glob(patterns).matches(name) is any(reference(p, name) for p in patterns)


def test_a_hostile_pattern_takes_no_time() -> None:
    """What makes a backtracking matcher run for years is answered: each star is looked at once."""
    pattern = "*".join(["a"] * 60) + "*b"
    assert not Glob(frozenset({pattern})).matches("a" * 255)
    assert Glob(frozenset({pattern})).matches("a" * 254 + "b")
