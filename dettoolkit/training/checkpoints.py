"""Checkpoints of a run: which are written when, and how, so that a kill or a full disk destroys none."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from dettoolkit.training.callbacks import has_stepped
from dettoolkit.training.run_folder import LAST, PREVIOUS, write_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint beside its place and move it there; keep the one before last.ckpt.

    Lightning's own writes to the system's temporary folder. On another file system the move is a copy: killed
    in the middle of it, or on a full disk, it destroys the only good checkpoint.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write `checkpoint` to `path`."""
        buffer = io.BytesIO()  # torch.save itself hides what stopped it, such as a full disk
        torch.save(checkpoint, buffer)
        path = Path(path)
        keep = path.with_stem(PREVIOUS) if path.stem == LAST else None
        write_whole(path, buffer.getbuffer(), keep=keep)


class Checkpoint(ModelCheckpoint):
    """Keep the newest file of a name, or the best. Lightning's own forgets the best score of a moved run."""

    def __init__(self, run_dir: Path, name: str, **when: Any) -> None:
        super().__init__(
            run_dir / "checkpoints",
            filename=name,
            mode="max",
            save_top_k=1,
            enable_version_counter=False,
            **when,
        )

    @property
    def state_key(self) -> str:
        """Return what tells a run's Checkpoints apart: what they write, and how often."""
        return self._generate_state_key(name=self.filename, every_n_train_steps=self._every_n_train_steps)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after a step of the optimizer, and not in front of a validation.

        A checkpoint holds neither the gradients of a step that is half accumulated nor that an epoch's
        validation is due: resumed from there, the run would leave it out.
        """
        if has_stepped(trainer, batch_idx) and not trainer.is_last_batch and not trainer.should_stop:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of the run's former folder as one of this folder."""
        folder = Path(self.dirpath or "")
        moved = {
            key: str(folder / Path(value).name) if key.endswith("_path") and value else value
            for key, value in state_dict.items()
        }
        best = {str(folder / Path(path).name): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**moved, "dirpath": self.dirpath, "best_k_models": best})
