"""Run the loads of many connections: `.venv/bin/python bench/crowd.py --help`."""

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
runpy.run_module("bench.scale.cli", run_name="__main__", alter_sys=True)
