"""Runs the operator: `python -m roomful_operator`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from roomful.protocol.errors import RoomfulError
from roomful.telemetry.logging import configure_logging
from roomful_operator.run import run
from roomful_operator.settings import load_operator_settings


def main() -> int:
    """Run until a signal; gives the exit status."""
    try:
        settings = load_operator_settings(os.environ)
    except RoomfulError as exc:
        print(f"roomful-operator: {exc}", file=sys.stderr)  # noqa: T201 - before there is a log
        return 2
    configure_logging(settings.log_level, settings.log_format)
    # What it says about each event are its own settings.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    asyncio.run(run(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
