#!/usr/bin/env python3
"""Run `dettoolkit doctor` from a checkout."""

import sys

from dettoolkit.cli import doctor

if __name__ == "__main__":
    sys.exit(doctor())
