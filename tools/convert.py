#!/usr/bin/env python3
"""Run `dettoolkit convert` from a checkout."""

import sys

from dettoolkit.cli.converting import convert

if __name__ == "__main__":
    sys.exit(convert())
