"""An event as a client's handler gets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Event"]


@dataclass(frozen=True, slots=True)
class Event:
    """One event as it came: all arguments, a cursor too."""

    name: str
    args: list[Any]

    @property
    def body(self) -> Any:
        """The first argument."""
        return self.args[0]

    @property
    def cursor(self) -> str | None:
        """The argument behind the first, if that is all there is and it is a string."""
        last = self.args[1] if len(self.args) == 2 else None
        return last if isinstance(last, str) else None
