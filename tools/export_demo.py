#!/usr/bin/env python3
"""Run `dettoolkit export-demo` from a checkout."""

import sys

from dettoolkit.cli.demo import export_demo

if __name__ == "__main__":
    sys.exit(export_demo())
