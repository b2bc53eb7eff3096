"""A batch of messages as the one call that stores it: `roomful_v1_publish`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roomful.shard.post import Post
from roomful.shard.resp import pack

__all__ = ["PublishRules", "pack_batch"]


@dataclass(frozen=True, slots=True)
class PublishRules:
    """What a shard is told about keeping what is published."""

    keep: int = 5000
    """Messages per room."""
    age_ms: int = 3_600_000
    window_ms: int = 300_000
    """In which a second message with the same id is not stored again."""
    outbox: str = "0"
    """What the outbox for the archive may hold: `entries`, or `entries bytes`; 0: no archive."""
    classes: str | Callable[[bytes], str] = "-"
    """How rooms are archived: 1 required, 0 best effort, - not at all; by the keys of logs."""


def pack_batch(batch: Sequence[Post], term: int, rules: PublishRules) -> tuple[bytes, list[Post]]:
    """
    Give the call that stores *batch*, and its posts in the order of the replies.

    Posts of one room are together, in their order: offsets are given in the order of the call, so
    that a room's entries leave in one piece (design.md section 7, rule a).
    """
    by_key: dict[bytes, list[Post]] = {}
    for post in batch:
        posts = by_key.get(post.key)
        if posts is None:
            by_key[post.key] = [post]
        else:
            posts.append(post)
    words: list[bytes | str | int] = ["FCALL", "roomful_v1_publish", len(by_key), *by_key]
    words += [term, rules.keep, rules.age_ms, rules.window_ms, rules.outbox]
    classes = rules.classes
    words.append(classes if isinstance(classes, str) else "".join(map(classes, by_key)))
    add = words.append
    order: list[Post] = []
    for posts in by_key.values():
        add(posts[0].route.version)
        add(len(posts))
        order += posts
        for post in posts:
            add(post.identity)
            add(post.time)
            add(post.packed)
    return pack(*words), order
