#!/usr/bin/env python3
"""Run `dettoolkit latency` from a checkout."""

import sys

from dettoolkit.cli.measuring import latency

if __name__ == "__main__":
    sys.exit(latency())
