#!/usr/bin/env python3
"""Run `dettoolkit models` from a checkout."""

import sys

from dettoolkit.cli.models import models

if __name__ == "__main__":
    sys.exit(models())
