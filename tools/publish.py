#!/usr/bin/env python3
"""Run `dettoolkit publish` from a checkout."""

import sys

from dettoolkit.cli.publishing import publish

if __name__ == "__main__":
    sys.exit(publish())
