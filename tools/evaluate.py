#!/usr/bin/env python3
"""Run `dettoolkit evaluate` from a checkout."""

import sys

from dettoolkit.cli import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
