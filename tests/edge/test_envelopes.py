"""What an app's content may be, whatever wire it comes over."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roomful.edge.envelopes import check_content
from roomful.protocol.errors import RefusalCode, Refused
from roomful.protocol.socketio import MAX_DEPTH


def depth_of(value: Any) -> int:
    """Give how many arrays and objects are around the innermost value."""
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def is_refused(content: str) -> bool:
    """Whether *content* is refused as a bad request."""
    try:
        check_content(msgspec.Raw(content.encode()))
    except Refused as refused:
        return refused.code is RefusalCode.BAD_REQUEST
    return False


@given(
    kinds=st.lists(st.sampled_from(["[]", "{}"]), min_size=MAX_DEPTH - 3, max_size=MAX_DEPTH + 3),
    inner=st.recursive(
        st.none() | st.text('[]{}\\"a', max_size=300),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[{"\\'), inner),
        max_leaves=5,
    ),
    beside=st.text('[]{}\\"a', max_size=300),
)
def test_content_is_nested_at_most_so_deep(kinds: list[str], inner: Any, beside: str) -> None:
    """Brackets in strings and beside each other do not count, those around each other do."""
    value = inner
    for kind in kinds:
        value = [beside, value, {}] if kind == "[]" else {beside: value, "x": []}
    assert is_refused(json.dumps(value)) == (depth_of(value) > MAX_DEPTH)


@pytest.mark.parametrize(
    "content",
    ["[[]" + ",[]" * 200_000 + "]", '"' + "[" * 500_000 + '"', '"' + '[\\"' * 300 + '"', " " * 300],
    ids=["empty arrays", "brackets in a string", "escapes in a string", "nothing"],
)
def test_large_flat_content_is_not_deep(content: str) -> None:
    """However many brackets there are, beside each other or in strings."""
    assert not is_refused(content)
