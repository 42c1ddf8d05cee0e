#!/usr/bin/env python3
"""Run `dettoolkit benchmark` from a checkout."""

import sys

from dettoolkit.cli.benchmarking import benchmark

if __name__ == "__main__":
    sys.exit(benchmark())
