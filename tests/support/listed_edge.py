"""
`roomful serve` that finds the other edges in a folder: argv is the folder, then as for `roomful`.

Each edge puts a file there, under its name. Run as a program by support/edges.py: it stands in for
the leases on a shard, so that what edges do for each other is tested without one.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec
import uvloop

from roomful.edge.app import EdgeServer, build_edge
from roomful.edge.peers import About
from roomful.edge.settings import load_settings
from roomful.telemetry.logging import configure_logging


class Folder:
    """One file per edge. Implements Directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, about: About) -> None:
        """Add an edge, at once for whoever reads."""
        new = self._path / f".{about.name}"
        new.write_bytes(msgspec.json.encode(about))
        new.rename(self._path / about.name)

    async def edges(self) -> Iterable[About]:
        """Give all that were put."""
        return [
            msgspec.json.decode(file.read_bytes(), type=About)
            for file in self._path.iterdir()
            if not file.name.startswith(".")
        ]


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--dev", action="store_true")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    settings = load_settings(
        os.environ, overrides={"dev": options.dev, "port": options.port, "drain_window_s": 0.5}
    )
    configure_logging(settings.log_level, settings.log_format)
    edge = build_edge(settings)
    folder = Folder(options.folder)
    folder.put(About(edge.peers.name, f"127.0.0.1:{options.port}"))
    edge.peers.directory = folder
    uvloop.run(EdgeServer(edge).serve([socket.create_server((settings.host, settings.port))]))


if __name__ == "__main__":
    main()
