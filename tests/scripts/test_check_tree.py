"""scripts/check_tree.py: what may not be committed is found, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_tree.py"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An empty repository."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


def check(tree: Path) -> subprocess.CompletedProcess[str]:
    """Run the script on *tree*."""
    command = [sys.executable, str(SCRIPT), str(tree)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("https://files.python" + "hosted.org/a.whl", id="download address"),
        pytest.param('"resolved": "https://registry.' + 'npmjs.org/ws"', id="npm lock file"),
        pytest.param("cd /ro" + "ot/project", id="somebody's home"),
        pytest.param('open("/ho' + 'me/user/notes")', id="quoted path"),
    ],
)
def test_address_or_machine_path_is_refused_with_its_line(tree: Path, text: str) -> None:
    """The status is 1, and the line is named so that it can be found."""
    (tree / "page.md").write_text(f"first line\n{text}\n")
    result = check(tree)
    assert result.returncode == 1
    assert result.stderr.startswith("page.md:2: ")


@pytest.mark.parametrize(
    "text", ["src/work/page.ts", "https://example.org/home/page", "the /rooms path", "/root"]
)
def test_relative_paths_and_urls_pass(tree: Path, text: str) -> None:
    """A word that only looks like a machine's path is none."""
    (tree / "page.md").write_text(text)
    assert check(tree).returncode == 0


def test_ignored_files_are_not_read(tree: Path) -> None:
    """What git ignores is never committed, so it may say anything."""
    (tree / ".gitignore").write_text("*.log\n")
    (tree / "build.log").write_text("cd /ro" + "ot/project")
    assert check(tree).returncode == 0
