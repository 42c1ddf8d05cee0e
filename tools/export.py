#!/usr/bin/env python3
"""Run `dettoolkit export` from a checkout."""

import sys

from dettoolkit.cli.exporting import export

if __name__ == "__main__":
    sys.exit(export())
