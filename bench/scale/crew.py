"""The leader's side of the load processes: starts them, leads them through steps, ends them."""

from __future__ import annotations

import contextlib
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.scale.orders import Form, Order, Result, Step
from bench.scale.plan import Crowd

__all__ = ["Crew", "CrewFailed", "Outcome"]

_ROOT: Final = Path(__file__).resolve().parent.parent.parent
PROGRESS_S: Final = 5.0
STOP_S: Final = 10.0


class CrewFailed(Exception):
    """A load process ended, or a step took too long; the sentence says which."""


class Outcome(msgspec.Struct):
    """What all load processes together counted; times sorted, in nanoseconds."""

    counts: dict[str, int]
    errors: dict[str, int]
    times: dict[str, array[int]]
    cpu_s: float


class _Hand:
    """One load process."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket, log: Path) -> None:
        self.process = process
        self.line = line
        self.log = log
        self.input = b""
        self.progress: dict[str, int] = {}
        self.errors: dict[str, int] = {}

    def tell(self, order: Form | Order) -> None:
        self.line.sendall(msgspec.json.encode(order) + b"\n")

    def read(self) -> list[Step]:
        data = self.line.recv(1 << 20)
        if not data:
            raise CrewFailed(f"a load process ended:\n{self.log.read_text()[-2000:]}")
        *lines, self.input = (self.input + data).split(b"\n")
        return [msgspec.json.decode(line, type=Step) for line in lines]


class Crew:
    """All load processes of one load."""

    # Mutable state: the processes, and what each said that nobody has waited for yet.
    def __init__(self, hands: Sequence[_Hand], directory: Path, say: Callable[[str], None]) -> None:
        self._hands = hands
        self._directory = directory
        self._say = say
        self._selector = selectors.DefaultSelector()
        for hand in hands:
            self._selector.register(hand.line, selectors.EVENT_READ, hand)

    @classmethod
    @contextlib.contextmanager
    def form(
        cls,
        crowd: Crowd,
        ports: Sequence[int],
        *,
        secret: str,
        prefix: str,
        say: Callable[[str], None],
    ) -> Iterator[Crew]:
        """
        Start the load processes of *crowd* for the length of a `with` block.

        Raises:
            CrewFailed: one does not start.
        """
        hands: list[_Hand] = []
        with tempfile.TemporaryDirectory(prefix="roomful-crowd-") as name:
            try:
                for process in range(crowd.edges):
                    hands.append(_start(process, Path(name)))
                    hands[-1].tell(Form(crowd, process, list(ports), secret, prefix))
                crew = cls(hands, Path(name), say)
                crew.wait("formed", 60.0)
                yield crew
            finally:
                for hand in hands:
                    hand.process.terminate()
                    hand.line.close()
                for hand in hands:
                    _end(hand.process)

    def tell(self, *orders: Order) -> None:
        """Tell all the same, or each process its own."""
        for hand, order in zip(
            self._hands, orders * (len(self._hands) // len(orders)), strict=True
        ):
            hand.tell(order)

    def tell_first(self, order: Order) -> None:
        """Tell only the first process, which has the announcer."""
        self._hands[0].tell(order)

    def wait(
        self,
        name: str,
        timeout_s: float,
        *,
        hands: int = 0,
        until: Callable[[], bool] | None = None,
    ) -> list[Step]:
        """
        Wait until all processes (or the first *hands*) have said that they are at step *name*.

        With *until*, wait for that instead.

        Raises:
            CrewFailed: a process ended, or it takes longer than *timeout_s*.
        """
        waited = hands or len(self._hands)
        found: dict[int, Step] = {}
        end, told = time.monotonic() + timeout_s, time.monotonic()
        while len(found) < waited if until is None else not until():
            now = time.monotonic()
            if now > end:
                raise CrewFailed(f"not in {timeout_s:g} s: {name}; {self.progress()}")
            if now - told > PROGRESS_S:
                told = now
                self._say(f"{name}: {self.progress()}")
            for key, _ in self._selector.select(0.2):
                hand: _Hand = key.data
                for step in hand.read():
                    hand.progress = step.detail or hand.progress
                    for error in step.errors.keys() - hand.errors.keys():
                        self._say(f"error: {error}")
                    hand.errors = step.errors or hand.errors
                    if step.name == name:
                        found[hand.process.pid] = step
        return list(found.values())

    def progress(self) -> str:
        """Say how far they are."""
        total: Counter[str] = Counter()
        for hand in self._hands:
            total.update(hand.progress)
        return ", ".join(f"{name} {number:,}" for name, number in total.items() if number)

    def finish(self, rooms: dict[str, int]) -> Outcome:
        """
        Take what they counted and measured, of which every member should have heard *rooms*.

        Raises:
            CrewFailed: a process does not say it.
        """
        self.tell(Result(rooms, str(self._directory)))
        steps = self.wait("result", 60.0)
        counts: Counter[str] = Counter()
        errors: Counter[str] = Counter()
        for step in steps:
            counts.update(step.detail)
            errors.update(step.errors)
        names = ("live_ns", "replayed_ns", "reconnect_ns", "away_ns")
        times = {name: self._read_times(name) for name in names}
        return Outcome(dict(counts), dict(errors), times, sum(step.cpu_s for step in steps))

    def _read_times(self, name: str) -> array[int]:
        found = array("q")
        for path in self._directory.glob(f"{name}.*"):
            with path.open("rb") as file:
                found.fromfile(file, path.stat().st_size // found.itemsize)
        return array("q", sorted(found))


def _start(process: int, directory: Path) -> _Hand:
    ours, theirs = socket.socketpair()
    log = directory / f"worker-{process}.log"
    # In a group of its own Ctrl-C does not reach it; with the signal it never outlives the leader.
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "bench.scale.worker"]
    with log.open("wb") as output, theirs:
        child = subprocess.Popen(
            [*command, str(theirs.fileno())],
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
    return _Hand(child, ours, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
