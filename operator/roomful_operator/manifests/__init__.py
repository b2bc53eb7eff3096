"""Builders of what a RoomfulCluster consists of: pure, from its specification."""
