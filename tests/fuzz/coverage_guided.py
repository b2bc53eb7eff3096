"""
Fuzz one target for as long as it is let, guided by coverage: see README.md.

    python tests/fuzz/coverage_guided.py TARGET [options of libFuzzer, corpus directories]
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "services")]


def main() -> None:
    """Fuzz the target that the command line names."""
    # Not a package of this project's: installed by whoever fuzzes.
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["roomful", "fuzz"]):
        targets = importlib.import_module("fuzz.targets").TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"usage: coverage_guided.py {{{','.join(targets)}}} [libFuzzer options]")
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, targets[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
