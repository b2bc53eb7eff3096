"""What a shard's stream becomes, whatever the connection does."""

from __future__ import annotations

from hypothesis import settings

from shard.stream_model import StreamModel

TestStream = StreamModel.TestCase
TestStream.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
