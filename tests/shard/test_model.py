"""Room logs and the embedded shard against models too simple to be wrong."""

from __future__ import annotations

from hypothesis import settings

from shard.models import LogModel, ShardModel

TestLogModel = LogModel.TestCase
TestLogModel.settings = settings(max_examples=80, stateful_step_count=40)
TestShardModel = ShardModel.TestCase
TestShardModel.settings = settings(max_examples=60, stateful_step_count=20)
