#!/usr/bin/env python3
"""Run `dettoolkit search` from a checkout."""

import sys

from dettoolkit.cli.searching import search

if __name__ == "__main__":
    sys.exit(search())
