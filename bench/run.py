"""Run the benchmark: `.venv/bin/python bench/run.py --help`."""

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
runpy.run_module("bench.cli", run_name="__main__", alter_sys=True)
