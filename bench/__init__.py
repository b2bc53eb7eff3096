"""Roomful's benchmark: one core against one core, the same events, side by side in one run."""
