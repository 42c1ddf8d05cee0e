"""`dettoolkit models`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from dettoolkit.cli.arguments import adder, command_parser, run

DESCRIPTION = """List the models that are ready to be used by name, as in 'dettoolkit predict NAME photo.jpg'.

Their weights are torchvision's. They are fetched when they are first used, kept in PyTorch's cache, and
checked. The scores are those that torchvision published."""
EXAMPLES = """examples:
  dettoolkit models
  dettoolkit models --json"""


def models(argv: Sequence[str] | None = None) -> int:
    """List the models that have a name."""
    parser = command_parser("models", description=DESCRIPTION, epilog=EXAMPLES)
    adder(parser)("--json", None, "write a JSON list, with licenses and files")
    return run(parser, argv, _models)


def _models(options: argparse.Namespace) -> int:
    from dettoolkit.named_models import published_of, ready_models
    from dettoolkit.tasks import spec_of
    from dettoolkit.weights.published import CODE_LICENSE

    entries: list[dict[str, Any]] = []
    for name, recipe in ready_models().items():
        spec, facts = spec_of(recipe), published_of(recipe)
        entries.append(
            {
                "name": name,
                "task": spec.name,
                "classes": len(spec.published_classes(recipe, facts.categories).names),
                "input": spec.input_hw(recipe),
                "parameters": facts.parameters,
                "multiply_adds": facts.madds * 1e9,
                "published": f"{facts.score}, by torchvision",
                "license": CODE_LICENSE,
                "data_license": facts.data_license,
                "weights": facts.source,
                "url": facts.url,
                "file": str(facts.cached),
                "megabytes": facts.size,
                "here": facts.cached.is_file(),
            }
        )
    if options.json:
        print(json.dumps(entries, indent=1))
        return 0
    print(*_table(entries), sep="\n")
    for data in dict.fromkeys(entry["data_license"] for entry in entries):
        print(f"weights: {CODE_LICENSE}; data they were trained on: {data}")
    return 0


def _table(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Write a line for each model, aligned."""
    rows = [("name", "task", "classes", "input", "parameters", "MAdds", "published", "weights")]
    for entry in entries:
        size = "any size" if entry["input"] is None else "{}x{}".format(*entry["input"])
        place = "here" if entry["here"] else f"{entry['megabytes']:.0f} MB to fetch"
        rows.append(
            (
                entry["name"],
                entry["task"],
                str(entry["classes"]),
                size,
                f"{entry['parameters'] / 1e6:.2f}M",
                f"{entry['multiply_adds'] / 1e9:.2f}B",
                entry["published"],
                place,
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
