#!/usr/bin/env python3
"""Run `dettoolkit report` from a checkout."""

import sys

from dettoolkit.cli import report

if __name__ == "__main__":
    sys.exit(report())
