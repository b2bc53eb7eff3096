"""
The protocol holds in every state that it can come to, and each of its guards is needed.

Source: docs/adr/0020-moving-a-bucket.md
"""

from __future__ import annotations

import dataclasses
import os

import pytest

from model.protocol import Broken, Model, explore

IS_FULL = os.environ.get("ROOMFUL_TEST_SCALE") == "full"
"""With the models that take minutes."""


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(Model(fails=0, messages=((10, 11),)), id="one sender, two messages"),
        pytest.param(Model(fails=0, messages=((10, 11),), rooms=2), id="one sender, two rooms"),
        pytest.param(Model(fails=0, messages=((10,), (21,)), rooms=2), id="two senders and rooms"),
        pytest.param(Model(fails=0, messages=((10,),), has_late=True), id="late batches"),
        pytest.param(Model(fails=2, messages=((10,),)), id="the target fails over"),
        pytest.param(Model(fails=1, messages=((10,),)), id="the source fails over"),
        pytest.param(
            Model(fails=2, messages=((10,), (21,)), rooms=2, has_zombies=False),
            id="two senders and rooms, the target fails over",
            marks=pytest.mark.skipif(not IS_FULL, reason="takes a minute"),
        ),
        pytest.param(
            Model(fails=2, messages=((10,), (20,))),
            id="two senders, the target fails over",
            marks=pytest.mark.skipif(not IS_FULL, reason="takes minutes"),
        ),
    ],
)
def test_a_move_loses_nothing(model: Model) -> None:
    """Nothing acknowledged is lost, doubled or turned round, never two owners, never none."""
    states, is_done = explore(model)
    assert is_done
    assert states > 5_000


def test_a_failover_of_two_replicas_loses_nothing() -> None:
    """With both of them fenced, since one is enough for an ack."""
    states, _ = explore(Model(fails=1, replicas=2, migrations=0, messages=((10, 11),)))
    assert states > 100


STILL = Model(fails=1, replicas=2, migrations=0, messages=((10, 11),))
MOVES = Model(fails=0, messages=((10, 11),))
ROOMS = Model(fails=0, messages=((10, 11),), rooms=2)
SOURCE = Model(fails=1, messages=((10,),))
TARGET = Model(fails=2, messages=((10,),))


@pytest.mark.parametrize(
    ("guard", "model", "words"),
    [
        pytest.param("fence", STILL, "lost", id="one of two replicas fenced"),
        pytest.param("best", STILL, "lost", id="any fenced replica promoted"),
        pytest.param("activate", SOURCE, "two owners", id="activated before released"),
        pytest.param("wait copy", TARGET, "without a copy", id="no WAIT for the copy"),
        pytest.param("wait release", SOURCE, "two owners", id="no WAIT for the release"),
        pytest.param("restart", SOURCE, "copy|lost|twice", id="copy goes on after a failover"),
        pytest.param("digest", MOVES, "lost", id="released before all was copied"),
        pytest.param("digest", ROOMS, "lost", id="released before all rooms were copied"),
        pytest.param("ids", MOVES, "twice", id="no ids"),
        pytest.param("one batch", MOVES, "order", id="more than one batch under way"),
        pytest.param("replay", Model(fails=0, messages=((10,),)), "lost", id="old orders obeyed"),
    ],
)
def test_without_a_guard_the_check_finds_how_it_breaks(
    guard: str, model: Model, words: str
) -> None:
    """A check that cannot fail would prove nothing."""
    broken = dataclasses.replace(model, without=frozenset({guard}))
    with pytest.raises(Broken, match=words):
        explore(broken)


def test_versions_only_save_a_round_trip() -> None:
    """
    With ids and one batch of an edge under way per bucket nothing depends on them.

    They refuse an edge early that has missed a change. No sequence per session is needed either.
    """
    explore(Model(fails=0, messages=((10, 11),), without=frozenset({"version"})))
