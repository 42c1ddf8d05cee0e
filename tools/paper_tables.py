#!/usr/bin/env python3
"""Run `dettoolkit paper-tables` from a checkout."""

import sys

from dettoolkit.cli import paper_tables

if __name__ == "__main__":
    sys.exit(paper_tables())
