#!/usr/bin/env python3
"""Download COCO 2017 and unpack it as the recipes expect it: `tools/download_coco.py DIR`."""

from dettoolkit.download import main

if __name__ == "__main__":
    raise SystemExit(main())
