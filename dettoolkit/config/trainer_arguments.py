"""The arguments of Lightning's Trainer, read from its source: importing Lightning would import torch."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path

# What the recipe sets by a field of its own, or dettoolkit sets itself, and how to say it instead.
OWNED = {
    "accelerator": "set trainer.accelerator",
    "accumulate_grad_batches": "set trainer.accumulate",
    "callbacks": "dettoolkit adds its own; set trainer.ema or trainer.early_stopping",
    "check_val_every_n_epoch": "set trainer.val_every_epochs",
    "default_root_dir": "set trainer.out",
    "devices": "set trainer.devices",
    "fast_dev_run": "use --check, or set trainer.max_steps to a few",
    "limit_val_batches": "a score of some images would not be COCO's; name a smaller json in data.val",
    "enable_model_summary": "dettoolkit prints its own; leave it out",
    "enable_checkpointing": "dettoolkit always saves; set trainer.checkpoint_every_steps",
    "gradient_clip_val": "set trainer.gradient_clip",
    "log_every_n_steps": "set trainer.log_every_steps",
    "logger": "set trainer.loggers",
    "max_epochs": "set trainer.max_epochs",
    "max_steps": "set trainer.max_steps",
    "num_sanity_val_steps": "a score of a few images would count as the best; use --check instead",
    "overfit_batches": "lay the overlay overfit.yaml over the recipe",
    "num_nodes": "set trainer.num_nodes",
    "plugins": "dettoolkit brings its own; leave it out",
    "precision": "set trainer.precision",
    "strategy": "set trainer.strategy",
    "sync_batchnorm": "set trainer.sync_batchnorm",
    "use_distributed_sampler": "dettoolkit brings its own samplers; leave it out",
}


@cache
def trainer_arguments() -> frozenset[str]:
    """List the arguments of the installed Lightning's `Trainer`; empty when its source is not found."""
    # find_spec of a top-level package looks for it without running it
    spec = importlib.util.find_spec("lightning")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        source = Path(folder, "pytorch", "trainer", "trainer.py")
        try:
            module = ast.parse(source.read_bytes())
        except (OSError, SyntaxError, ValueError):
            continue
        for node in module.body:
            if isinstance(node, ast.ClassDef) and node.name == "Trainer":
                return _init_arguments(node)
    return frozenset()


def _init_arguments(node: ast.ClassDef) -> frozenset[str]:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return frozenset(a.arg for a in (*item.args.args, *item.args.kwonlyargs)) - {"self"}
    return frozenset()
