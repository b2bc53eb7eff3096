"""Names that nobody can guess and nobody has twice."""

from __future__ import annotations

import os
import re

from roomful.edge.secret_names import BLOCK_BYTES, secret_name


def test_names_fit_into_a_url_and_never_come_twice() -> None:
    """Over more than one block, whatever lengths are asked for."""
    names = [secret_name(length) for _ in range(BLOCK_BYTES // 16) for length in (12, 16, 24)]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)
    assert {len(name) for name in names} == {12, 16, 24}


def test_a_fork_has_names_of_its_own() -> None:
    """The child does not give what its parent will give."""
    secret_name(12)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, secret_name(24).encode())
        os._exit(0)
    os.waitpid(child, 0)
    of_child = os.read(reader, 24).decode()
    os.close(reader)
    os.close(writer)

    assert of_child != secret_name(24)
