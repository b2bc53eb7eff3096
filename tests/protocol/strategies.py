"""JSON and bytes as clients may send them."""

from __future__ import annotations

from typing import TypeAlias

from hypothesis import strategies as st

__all__ = ["ANY_TEXT", "JSON_VALUES", "NOT_QUITE", "JsonValue", "json_objects"]

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
)

JSON_VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def json_objects() -> st.SearchStrategy[dict[str, JsonValue]]:
    """Give JSON objects."""
    return st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4)


ANY_TEXT = st.text(max_size=60).map(str.encode)
"""Any valid UTF-8."""

_PIECES = st.sampled_from(
    [
        *("0", "1", "2", "3", "4", "5", "6", "7", "2[", "51-", "50-", "99999999-", "2/a,", "2/"),
        *(",", "[", "]", "{", "}", '"', ":", "-", "12", "/admin", "?x=1", "message", "roomId"),
        *('"message"', '{"roomId":"r","content":1}', '["join-room","r"]', "\\ud800", "NaN"),
        *("1e999", "null", "true", '"ref"', '"type"', "é", "\x00", "\x1e", "\x7f", "\u2028"),
        '["message",{"roomId":"r","content":{}}]',
    ]
)

NOT_QUITE = st.lists(_PIECES, max_size=12).map(lambda pieces: "".join(pieces).encode())
"""Text made of what the protocol is made of, in any order."""
