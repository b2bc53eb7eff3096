"""The cursor: read back as it was written, never going back, and short."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from roomful.cluster.cursor import (
    MAX_CURSOR_LENGTH,
    BadCursor,
    CursorVector,
    ShardName,
    decode_cursor,
    encode_cursor,
)

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,15}", fullmatch=True).map(ShardName)
OFFSETS = st.integers(0, 2**63)
POSITIONS = st.dictionaries(NAMES, OFFSETS, max_size=8)


@given(POSITIONS)
def test_a_cursor_reads_back(positions: dict[ShardName, int]) -> None:
    """Whatever the shards and offsets."""
    assert decode_cursor(encode_cursor(positions)) == positions


@given(st.lists(st.tuples(NAMES, OFFSETS), max_size=6, unique_by=lambda pair: pair[0]))
def test_the_same_positions_are_the_same_cursor(pairs: list[tuple[ShardName, int]]) -> None:
    """In whatever order the shards were met."""
    assert encode_cursor(dict(pairs)) == encode_cursor(dict(reversed(pairs)))


@given(POSITIONS)
def test_a_cursor_needs_no_escaping(positions: dict[ShardName, int]) -> None:
    """Neither in JSON nor in a URL: it is written into both as it is."""
    cursor = encode_cursor(positions)
    assert all(
        character.isascii() and (character.isalnum() or character in ".-") for character in cursor
    )


def test_the_form() -> None:
    """Sorted shards, hexadecimal offsets."""
    assert encode_cursor({ShardName("s2"): 255, ShardName("s1"): 0}) == "s1.0-s2.ff"
    assert encode_cursor({}) == ""
    assert decode_cursor("") == {}


@pytest.mark.parametrize(
    "cursor",
    [
        pytest.param("a", id="no offset"),
        pytest.param("a.", id="empty offset"),
        pytest.param(".1", id="no shard"),
        pytest.param("a.1-", id="separator at the end"),
        pytest.param("-a.1", id="separator at the start"),
        pytest.param("a.1-a.1", id="a shard twice"),
        pytest.param("A.1", id="capital"),
        pytest.param("1a.1", id="digit first"),
        pytest.param("a.1F", id="capital hex"),
        pytest.param("a.-1", id="negative"),
        pytest.param("a.1 ", id="space"),
        pytest.param("a.1\n", id="line break"),
        pytest.param("a." + "f" * 17, id="offset too long"),
        pytest.param("a" * 17 + ".1", id="name too long"),
        pytest.param("a.\u0661", id="digit of another script"),
        pytest.param("a.1,b.2", id="comma"),
        pytest.param("-".join(f"s{n}.{n:x}" for n in range(1000)), id="too long"),
    ],
)
def test_bad_cursors(cursor: str) -> None:
    """What no edge gave out is refused."""
    with pytest.raises(BadCursor):
        decode_cursor(cursor)


@settings(max_examples=300)
@given(
    st.text(max_size=40)
    | st.text("ab0f.-", max_size=20)
    | st.integers(480, 510).map(lambda count: "-".join(f"s{n}.{n:x}" for n in range(count)))
)
def test_any_string_decodes_or_is_a_bad_cursor(cursor: str) -> None:
    """Nothing else is raised, and what decodes is bounded."""
    try:
        positions = decode_cursor(cursor)
    except BadCursor:
        return
    assert len(cursor) <= MAX_CURSOR_LENGTH
    assert decode_cursor(encode_cursor(positions)) == positions


# The vector ------------------------------------------------------------------------------------


class VectorModel(RuleBasedStateMachine):
    """CursorVector against a dictionary of the largest offset that each shard was moved to."""

    # Mutable state: the vector and its model.
    def __init__(self) -> None:
        super().__init__()
        self.vector = CursorVector({ShardName("b"): 7})
        self.model = {ShardName("b"): 7}

    @rule(name=st.sampled_from("abcd").map(ShardName) | NAMES, offset=st.integers(0, 40) | OFFSETS)
    def advance(self, name: ShardName, offset: int) -> None:
        """A shard is heard; what is older than what was heard changes nothing."""
        before = self.model.get(name, -1)
        self.model[name] = max(before, offset)
        told = self.vector.advance(name, offset)
        assert told == encode_cursor(self.model).encode()
        assert decode_cursor(told.decode())[name] >= before

    @rule()
    def copy(self) -> None:
        """A vector that begins with the same positions goes its own way."""
        other = CursorVector(self.vector.positions)
        other.advance(ShardName("zz"), 1)
        assert ShardName("zz") in other.positions

    @invariant()
    def says_where_it_is(self) -> None:
        """All at once, as step by step."""
        assert self.vector.positions == self.model
        assert self.vector.encode() == encode_cursor(self.model).encode()
        assert encode_cursor(self.model) in repr(self.vector)


TestVectorModel = VectorModel.TestCase
TestVectorModel.settings = settings(max_examples=80)
