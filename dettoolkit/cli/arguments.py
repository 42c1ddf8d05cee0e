"""What the subcommands share: their parsers, and how a recipe is found."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dettoolkit.cli.failures import guarded, quiet

if TYPE_CHECKING:
    from dettoolkit.config import Recipe

OVERRIDES = (
    "overlay files and key=value overrides; later ones win. Values are YAML (optim.lr=1e-2);\n"
    "quote brackets for the shell ('model.input_hw=[256, 512]')"
)
# A checkpoint is used on the machine at hand, not on the one it was trained on.
HERE = {"accelerator": "auto", "devices": "auto", "num_nodes": 1, "strategy": "auto"}


def command_parser(name: str, **settings: Any) -> argparse.ArgumentParser:
    """Build the parser of `dettoolkit NAME`; its texts keep their line breaks."""
    formatter = argparse.RawTextHelpFormatter
    return argparse.ArgumentParser(prog=f"dettoolkit {name}", formatter_class=formatter, **settings)


def adder(group: argparse._ActionsContainer) -> Callable[..., None]:
    """Return a function that adds an argument by its name, metavar (None: it is a flag) and help."""

    def add(name: str, metavar: str | tuple[str, ...] | None, text: str, **settings: Any) -> None:
        kind = {"action": "store_true"} if metavar is None else {"metavar": metavar}
        group.add_argument(name, help=text, **kind | settings)

    return add


def add_runtime(add: Callable[..., None]) -> None:
    """Add in which runtime, and with how many threads, networks are measured."""
    names = "onnx, openvino, litert, executorch or pytorch (default: onnx)"
    add("--runtime", "RUNTIME", names, default="onnx")
    add("--threads", "N", "threads of the runtime (default: 1)", type=int, default=1)


def run(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, command: Callable[[argparse.Namespace], int]
) -> int:
    """Parse a command line and run the command; return its exit status."""
    parser.add_argument("--traceback", action="store_true", default=False, help="show an error's traceback")
    options = parser.parse_intermixed_args(argv)
    return guarded(lambda: command(options), options.traceback)


def check_device(name: str) -> None:
    """Raise ValueError unless `--device` names a device that PyTorch has here."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device {name}: expected cpu, cuda, cuda:1 or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"--device {name}: PyTorch finds {count} GPUs here; omit it")


def origins_of(source: Path, extras: Sequence[str]) -> Mapping[str, str]:
    """Return where the values of the recipe come from that `chosen_recipe` loads, by dotted key."""
    from dettoolkit import loading
    from dettoolkit.config import load_recipe

    if source.suffix in (".yaml", ".yml"):
        return load_recipe(str(source), extras).provenance
    return loading.origins_of(source, extras)


def chosen_recipe(source: Path, extras: Sequence[str]) -> Recipe:
    """Load a recipe's file, or the recipe of a model as it is on this machine."""
    from dettoolkit.config import load_recipe

    if source.suffix in (".yaml", ".yml"):
        return load_recipe(str(source), extras).recipe
    quiet()
    from dettoolkit.loading import recipe_of

    return recipe_of(source, extras, trainer=HERE)
