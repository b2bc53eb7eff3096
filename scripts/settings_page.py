"""
Write docs/settings.md from the settings' own comments, or with --check say that it is stale.

A setting's text is the comment above its field or the docstring below it; its default is what a
production edge starts with.
"""

from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, get_type_hints

import msgspec

from roomful.edge.settings import Settings, variable_of

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"

HEAD = """\
# Settings

*Generated from the code by `scripts/settings_page.py`; do not edit.*

`roomful serve` reads its settings once, at start: defaults, then the file given with `--config`
(TOML), then `ROOMFUL_*` from the environment, then its options. It says everything that is wrong
in one message, and `roomful serve --check-config` does only that and shows what is in force.

In the file `limits.payload_bytes` is `payload_bytes` in the table `[limits]`; a list is a list.
In the environment it is `ROOMFUL_LIMITS_PAYLOAD_BYTES`, and a list is comma separated.

```toml
port = 9000
origins = ["https://app.example.com"]

[auth]
jwks_url = "https://login.example.com/.well-known/jwks.json"
audience = "rooms"

[limits]
messages_per_second = 50
message_burst = 100
```
"""


def texts(cls: type[Any]) -> dict[str, str]:
    """Give each field's text: the comment above it, or the docstring below it."""
    source = dedent(inspect.getsource(cls))
    lines = source.splitlines()
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for index, node in enumerate(body.body):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        after = body.body[index + 1] if index + 1 < len(body.body) else None
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[node.target.id] = " ".join(str(after.value.value).split())
            continue
        comment: list[str] = []
        for line in reversed(lines[: node.lineno - 1]):
            if not line.strip().startswith("#"):
                break
            comment.insert(0, line.strip().removeprefix("#").strip())
        found[node.target.id] = " ".join(comment)
    return found


def default_of(one: Field[Any]) -> str:
    """Give the default as it is written in TOML or JSON; a dash for none."""
    value = one.default if one.default is not MISSING else None
    return "–" if value is None or value in ((), "") else f"`{msgspec.json.encode(value).decode()}`"


def rows(cls: type[Any], prefix: str) -> list[str]:
    """Give the table rows of the plain settings of *cls*."""
    hints, text = get_type_hints(cls), texts(cls)
    return [
        f"| `{prefix}{one.name}` | `{variable_of(prefix + one.name)}` | {default_of(one)} "
        f"| {text[one.name].replace('|', '/')} |"
        for one in fields(cls)
        if not is_dataclass(hints[one.name])
    ]


def page() -> str:
    """Give the whole page."""
    head = ["| setting | variable | default | what it does |", "|---|---|---|---|"]
    parts = [HEAD, "## General\n", *head, *rows(Settings, "")]
    hints, text = get_type_hints(Settings), texts(Settings)
    for one in fields(Settings):
        hint = hints[one.name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            parts += [f"\n## {one.name}\n\n{text[one.name]}\n", *head]
            parts += rows(hint, f"{one.name}.")
    return "\n".join(parts) + "\n"


def main() -> int:
    """Run; gives the exit status."""
    wanted = page()
    if "--check" not in sys.argv:
        PAGE.write_text(wanted)
        return 0
    if not PAGE.exists() or PAGE.read_text() != wanted:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
