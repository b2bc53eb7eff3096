"""docs/kubernetes-checks.md says what shows each statement: what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/kubernetes-checks.md").read_text()
WHERE = {
    "chart": "tests/chart",
    "kube": "tests/kube",
    "e2e": "e2e",
    "cluster": "tests/cluster",
    "control": "tests/control",
}
NAMED = re.compile(r"\b(" + "|".join(WHERE) + r") (?=`)|`(test_\w+)(?:\.py)?`")


def test_all_fifty_are_there() -> None:
    """In their order, each with what shows it or why nothing does."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(1, 51))
    for number, statement, shown in rows:
        assert statement, number
        assert shown, number


def test_every_test_that_is_named_exists() -> None:
    """Under that very name, where the row says that it is."""
    for row in PAGE.splitlines():
        place = ""
        for kind, name in NAMED.findall(row):
            if kind:
                place = WHERE[kind]
                continue
            folders = [ROOT / place] if place else [ROOT / "tests", ROOT / "e2e"]
            sources = [path for folder in folders for path in folder.rglob("*.py")]
            is_there = any(
                path.stem == name or f"def {name}(" in path.read_text() for path in sources
            )
            assert is_there, f"{name} is not in {place or 'tests'}"
    for path in re.findall(r"`?((?:tests|scripts|e2e)/[\w/]+\.py)`?", PAGE):
        assert (ROOT / path).exists(), path
