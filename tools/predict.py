#!/usr/bin/env python3
"""Run `dettoolkit predict` from a checkout."""

import sys

from dettoolkit.cli.predicting import predict

if __name__ == "__main__":
    sys.exit(predict())
