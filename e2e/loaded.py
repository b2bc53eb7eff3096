"""What has to hold for a load, whatever was done to the cluster meanwhile."""

from __future__ import annotations

from typing import Any

__all__ = ["assert_kept"]


def assert_kept(report: dict[str, Any]) -> None:
    """Nothing acknowledged was lost, nothing came twice or out of order, everyone came back."""
    assert report["ok"], report
    assert report["acked"] > 0
    kept = ("sent", "acked", "lost", "duplicated", "reordered", "resumed", "beganAnew")
    print({name: report[name] for name in kept}, report["reconnectMs"])
