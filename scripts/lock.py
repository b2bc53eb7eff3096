"""
Writes requirements/, or checks (--check) that it still fits pyproject.toml.

Each file holds every package with its version and hashes, for all platforms and every Python
that pyproject.toml allows, and no download address: whoever installs uses their own index.

    run.txt       what the server needs on one machine
    server.txt    that and the extras of the server's image
    operator.txt  that and the extra of the operator's image
    dev.txt       all extras, and the groups for tests and checks
    build.txt     the build backend, so that an install without isolation fetches nothing unpinned

Versions that are there stay as long as they fit; --upgrade takes newer ones. None is younger
than a week: a bad release is mostly found by then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "requirements"
IMAGES = {"server": ("postgres", "tracing"), "operator": ("operator",)}
COMPILE = (
    *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"),
    *("--generate-hashes", "--no-annotate", "--exclude-newer", "7 days"),
    *("--custom-compile-command", "make lock"),
)


def read_wanted(project: dict[str, Any]) -> dict[str, list[str]]:
    """Return what each lock file has to hold, as pyproject.toml says it."""
    run = project["project"]["dependencies"]
    groups = project["dependency-groups"].values()
    # A line that is not text includes another group, and all groups are here anyway.
    extra = [line for group in groups for line in group if isinstance(line, str)]
    extras = project["project"]["optional-dependencies"]
    extra += [line for lines in extras.values() for line in lines]
    # hatchling asks for editables only when it makes an editable install.
    build = [*project["build-system"]["requires"], "editables"]
    images = {
        image: [*run, *(line for name in names for line in extras[name])]
        for image, names in IMAGES.items()
    }
    # The widest first: the others take its versions.
    return {"dev": [*run, *extra], "run": run, **images, "build": build}


def write(wanted: dict[str, list[str]], *, is_upgrade: bool) -> None:
    """Compile all lock files; one package has one version in all of them."""
    constraints: list[str] = []
    for name, lines in wanted.items():
        output = LOCKS / f"{name}.txt"
        with tempfile.NamedTemporaryFile("w", suffix=".in") as source:
            source.write("\n".join(lines))
            source.flush()
            upgrade = ["--upgrade"] if is_upgrade else []
            command = [*COMPILE, *upgrade, *constraints, "--output-file", str(output), source.name]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        constraints = [*constraints, "--constraints", str(output)]
        sys.stdout.write(f"wrote {output.relative_to(ROOT)}\n")


def parse_lock(text: str) -> dict[NormalizedName, tuple[str, bool]]:
    """Return each package of a lock file with its version and whether it has a hash."""
    joined = text.replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    locked = {}
    for line in lines:
        specifier, *hashes = line.split(" --hash=")
        requirement = Requirement(specifier.strip())
        version = str(requirement.specifier).removeprefix("==")
        locked[canonicalize_name(requirement.name)] = (version, bool(hashes))
    return locked


def find_faults(name: str, lines: list[str]) -> list[str]:
    """Return a sentence for each requirement that the lock file *name* does not meet."""
    path = LOCKS / f"{name}.txt"
    locked = parse_lock(path.read_text())
    where = path.relative_to(ROOT)
    faults = [f"{where}: {package} has no hash" for package, (_, ok) in locked.items() if not ok]
    for requirement in map(Requirement, lines):
        version, _ = locked.get(canonicalize_name(requirement.name), ("", False))
        if not version:
            faults.append(f"{where}: {requirement.name} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{where}: {version} does not fit {requirement}")
    return faults


def main() -> int:
    """Do what the command line asks for; the exit status says whether all is well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="only compare, offline")
    parser.add_argument("--upgrade", action="store_true", help="take newer versions")
    arguments = parser.parse_args()
    wanted = read_wanted(tomllib.loads((ROOT / "pyproject.toml").read_text()))
    if not arguments.check:
        os.environ.setdefault("UV_NO_CONFIG", "1")
        write(wanted, is_upgrade=arguments.upgrade)
        return 0
    faults = [fault for name, lines in wanted.items() for fault in find_faults(name, lines)]
    for fault in faults:
        sys.stderr.write(f"{fault} (make lock)\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
