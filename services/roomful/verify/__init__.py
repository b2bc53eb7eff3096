"""Puts load on a real cluster, breaks it, and counts what was lost, doubled or reordered."""
