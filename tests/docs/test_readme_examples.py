"""What README.md shows is run here as it stands, against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets

from support.deadline import DEADLINE_S
from support.server import Server, serving
from support.tokens import SECRET

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NODE_MODULES = ROOT / "tests" / "clients_js" / "node_modules"


def read_block(kind: str, first_line: str) -> str:
    """Return the one block of README.md of that kind which begins with *first_line*."""
    blocks = [
        block["text"]
        for block in BLOCK.finditer(README)
        if block["kind"] == kind and block["text"].startswith(first_line)
    ]
    (text,) = blocks
    return text


def make_token(user: str) -> str:
    """Return what the README's command prints for *user*."""
    shown = re.search(r"^ +TOKEN=\$\(\.venv/bin/roomful (.+)\)$", README, re.MULTILINE)
    assert shown, "README.md no longer shows how to get a token"
    program = str(Path(sys.executable).parent / "roomful")
    arguments = [user if word == "alice" else word for word in shlex.split(shown[1])]
    environment = {"PATH": os.environ["PATH"], "ROOMFUL_AUTH_SECRET": SECRET}
    return subprocess.check_output([program, *arguments], env=environment, text=True).strip()


class Example:
    """A running example; what it prints is read as it comes."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.printed: list[str] = []

    async def expect(self, *beginnings: str) -> None:
        """Read until a line for each of *beginnings* has come, in any order."""
        missing = list(beginnings)
        try:
            async with asyncio.timeout(DEADLINE_S):
                while missing:
                    line = await self._read_line()
                    missing = [start for start in missing if not line.startswith(start)]
        except TimeoutError:
            pytest.fail(f"did not print {missing} but:\n{''.join(self.printed)}")

    async def _read_line(self) -> str:
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        assert line, f"ended after:\n{''.join(self.printed)}"
        self.printed.append(line)
        return line


@asynccontextmanager
async def run_example(
    program: str, file: Path, *, server: Server, user: str
) -> AsyncIterator[Example]:
    """Run *file* as *user* until the block ends."""
    environment = {
        "PATH": os.environ["PATH"],
        "ROOMFUL_URL": server.url,
        "TOKEN": make_token(user),
    }
    process = await asyncio.create_subprocess_exec(
        program, str(file), env=environment, stdout=PIPE, stderr=STDOUT
    )
    try:
        yield Example(process)
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of its own for each test: the README counts who is in the lobby."""
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def javascript(tmp_path: Path) -> Path:
    """The JavaScript example as a file that finds the stock client."""
    assert NODE_MODULES.is_dir(), "run `npm ci` in tests/clients_js"
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    file = tmp_path / "chat.mjs"
    file.write_text(read_block("js", "// chat.mjs\n"))
    return file


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python example as a file."""
    file = tmp_path / "chat.py"
    file.write_text(read_block("python", "# chat.py\n"))
    return file


async def test_javascript_and_python_examples_meet_in_the_lobby(
    server: Server, javascript: Path, python: Path
) -> None:
    """Each example hears its own message and the other's, and prints where it was stored."""
    async with run_example("node", javascript, server=server, user="alice") as alice:
        await alice.expect("in the lobby with 1 users\n", "stored at ", "alice: hello\n")
        async with run_example(sys.executable, python, server=server, user="bob") as bob:
            await bob.expect("stored at ", "bob: hello\n")
        await alice.expect("bob: hello\n")


async def test_plain_json_example_gets_the_answers_it_shows(server: Server) -> None:
    """What is sent is answered with all that is shown before the next line that is sent."""
    token = make_token("carol")
    async with websockets.connect(f"{server.ws_url}/ws") as connection:
        for sent, *shown in read_exchanges():
            await connection.send(sent.replace("$TOKEN", token))
            await receive(connection, [json.loads(line) for line in shown])


def read_exchanges() -> list[list[str]]:
    """Return each line that is sent, with the lines that are received before the next one."""
    exchanges: list[list[str]] = []
    for line in read_block("text", "> ").splitlines():
        direction, text = line.split(" ", 1)
        if direction == ">":
            exchanges.append([text])
        else:
            exchanges[-1].append(text)
    return exchanges


async def receive(connection: websockets.ClientConnection, shown: list[dict[str, Any]]) -> None:
    """Receive until there was an object with at least the fields of each in *shown*."""
    received: list[dict[str, Any]] = []
    missing = list(shown)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while missing:
                answer = json.loads(await connection.recv())
                received.append(answer)
                missing = [fields for fields in missing if not fields.items() <= answer.items()]
    except TimeoutError:
        pytest.fail(f"did not receive {missing} but {received}")
