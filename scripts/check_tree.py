"""
Refuses files that would only work on the machine they were written on.

What is committed must not say where packages come from (each machine has an index of its own,
and a lock file with addresses overrides it), nor hold a path of somebody's home or workplace.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Spelled in parts, so that this file passes its own check.
REGISTRY_HOSTS = [
    r"pypi\." + "org",
    r"python" + "hosted" + r"\.org",
    r"registry\." + r"(?:npmjs|yarnpkg)\.(?:org|com)",
    r"deb\." + r"debian\.org",
    r"proxy\." + r"golang\.org",
]
# A path is one only at the start of a word: `src/home/page` is none.
MACHINE_PATHS = [rf"(?<![\w.~/-])/{place}/[\w.-]" for place in ("work", "root", "home", "Users")]
FORBIDDEN = re.compile("|".join([*REGISTRY_HOSTS, *MACHINE_PATHS]).encode())


def list_files(root: Path) -> list[Path]:
    """Return all files that are committed in *root*, or would be with `git add`."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"]
    found = subprocess.run(  # noqa: S603
        [*command, "--exclude-standard"], cwd=root, check=True, capture_output=True
    )
    paths = {root / name.decode() for name in found.stdout.split(b"\0") if name}
    return sorted(path for path in paths if path.is_file())


def find_faults(root: Path, path: Path) -> Iterator[str]:
    """Yield a sentence for each line of *path* that may not be committed."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if match := FORBIDDEN.search(line):
            where = f"{path.relative_to(root)}:{number}"
            yield f"{where}: names a registry or a machine's path: {match[0].decode()}"


def main() -> int:
    """Check a directory (this project, or an argument); the status says if all may be committed."""
    default = Path(__file__).resolve().parent.parent
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    faults = [fault for path in list_files(root) for fault in find_faults(root, path)]
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
