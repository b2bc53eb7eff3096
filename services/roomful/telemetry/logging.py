"""
Structured logs: constant text, fields apart, as text for people or JSON for machines.

    logger.info("session closed", extra={"code": "SLOW_CLIENT"})

No payloads and no tokens are ever logged.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

import msgspec

__all__ = ["configure_logging"]

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class TextFormatter(logging.Formatter):
    """`12:00:00.123 info roomful.edge: session closed code=SLOW_CLIENT`."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line, and below it the traceback if there is one."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = (
            f"{clock}.{int(record.msecs):03d} {record.levelname.lower()} "
            f"{record.name}: {record.getMessage()}"
        )
        for key, value in _fields(record).items():
            line += f" {key}={value}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (seconds since the epoch), level, logger, event, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        body: dict[str, object] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(body, enc_hook=str).decode()


def configure_logging(level: str, log_format: str) -> None:
    """Send all logs from *level* on to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # uvicorn's own start and stop lines say nothing that ours do not.
    logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("httpx").setLevel(max(logging.WARNING, root.level))
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))
