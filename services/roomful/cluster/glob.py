"""Patterns of room names: in tokens, in the settings of access, archive and retention."""

from __future__ import annotations

__all__ = ["Glob"]


class Glob:
    """
    Patterns of room names in which only ``*`` is special: any run of characters, also none.

    A match takes time proportional to the patterns times the name at most: pieces between stars
    are looked for from left to right, the leftmost fit is always right, nothing is tried twice.
    """

    # Each pattern is in exactly one of them; cheapest to test first.
    __slots__ = ("_exact", "_prefixes", "_split")

    def __init__(self, patterns: frozenset[str]) -> None:
        exact, prefixes, split = [], [], []
        for pattern in patterns:
            first, *others = pattern.split("*")
            if not others:
                exact.append(pattern)
            elif not any(others):
                prefixes.append(first)
            else:
                split.append((first, tuple(filter(None, others[:-1])), others[-1]))
        self._exact = frozenset(exact)
        self._prefixes = tuple(prefixes)
        self._split = tuple(split)

    def matches(self, name: str) -> bool:
        """Whether at least one pattern fits the whole *name*."""
        if name in self._exact or name.startswith(self._prefixes):
            return True
        for pieces in self._split:
            if _fits(name, *pieces):
                return True
        return False


def _fits(name: str, first: str, middle: tuple[str, ...], last: str) -> bool:
    end = len(name) - len(last)
    at = len(first)
    if at > end or not (name.startswith(first) and name.endswith(last)):
        return False
    for piece in middle:
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
