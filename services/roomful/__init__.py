"""Roomful: the cluster for realtime rooms."""
