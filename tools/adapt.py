#!/usr/bin/env python3
"""Run `dettoolkit adapt` from a checkout."""

import sys

from dettoolkit.cli import adapt

if __name__ == "__main__":
    sys.exit(adapt())
