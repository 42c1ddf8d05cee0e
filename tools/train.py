#!/usr/bin/env python3
"""Run `dettoolkit train` from a checkout."""

import sys

from dettoolkit.cli import train

if __name__ == "__main__":
    sys.exit(train())
