"""The LightningModule that trains any task: a task is a network with losses, predictions and a score."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import torch
import torch.distributed
import torchvision
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dettoolkit.config import recipe_to_dict
from dettoolkit.datasets.data_report import BadImageError
from dettoolkit.finite import require_finite
from dettoolkit.network import name_outputs
from dettoolkit.run import Batch, Run, Score
from dettoolkit.training.optimizers import (
    build_optimizer,
    count_steps,
    rate_factor,
    restore_rates,
    scaled_rate,
)
from dettoolkit.weights.read import VERSION


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite; the message names the images and the saved batch."""


class TrainingModule(LightningModule):
    """Train and validate a run's task on `world_size` processes; `run_dir` gets a batch with a bad loss."""

    def __init__(self, run: Run, run_dir: Path, *, world_size: int) -> None:
        super().__init__()
        recipe = run.recipe  # the run itself is not kept: averaging the weights copies a module
        self.task, self.network = run.task, run.task.network
        self.auxiliary = run.task.auxiliary  # in checkpoints under this name: see weights.read.AUXILIARY
        self.recipe, self.images = recipe, len(run.train)
        self.images_per_step = recipe.data.batch_size * world_size * recipe.trainer.accumulate
        self.lr = scaled_rate(recipe.optim, self.images_per_step)
        channels_last = recipe.trainer.channels_last
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)
        self.auxiliary.to(memory_format=self.memory_format)
        self._with_features = self.network.with_features
        self.description, self.run_dir = describe(run), run_dir
        self.predictions: list[Any] = []
        self.score: Score | None = None
        self.numbers: dict[str, Any] = {}  # of the last batch; callbacks.LogSteps logs them
        self._untrained = False  # whether this epoch has trained on nothing so far

    def setup(self, stage: str) -> None:
        """Agree on the run's folder: only the first process made it."""
        self.run_dir = self.trainer.strategy.broadcast(self.run_dir)

    def compile_network(self) -> None:
        """Compile the network, in both ways in which it is called."""
        self.network.compile()
        self._with_features = torch.compile(self.network.with_features)
        if self.task.teacher is not None:
            self.task.teacher.compile()

    def forward(self, batch: Batch) -> Any:
        """Run the network on a batch's images."""
        return self._run(self.task.images(batch))

    def _run(self, images: Tensor) -> Any:
        return self.network(images.contiguous(memory_format=self.memory_format))

    def on_train_start(self) -> None:
        """Leave each process its own BN statistics in training; validation takes the first one's.

        Broadcasting them in every forward pass costs time, and would hang a validation in which one process
        has a batch more than another.
        """
        if isinstance(self.trainer.strategy.model, DistributedDataParallel):
            self.trainer.strategy.model.broadcast_buffers = False
        if self.task.teacher is not None:  # it is no part of the module, so Lightning has not moved it
            self.task.teacher.network.to(self.device).to(memory_format=self.memory_format)
        for config in self.trainer.lr_scheduler_configs:
            restore_rates(config.scheduler)  # type: ignore[arg-type]

    def on_train_epoch_start(self) -> None:
        """Watch whether the epoch trains on anything. One resumed in its middle is not watched."""
        self._untrained = True

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, or stop the run if it is not finite."""
        images, trainer = len(batch["images"]), self.recipe.trainer
        self.numbers = {"lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        if self._too_few(images):
            zero = self._nothing_learned()
            self._stop_if_not_finite(zero, {}, batch)  # so that every process takes part in the decision
            return zero
        inputs, targets = self.task.training_inputs(batch)
        parts, more = self._losses(inputs, targets)
        loss = torch.stack([part.float() for part in parts.values()]).sum()
        self._stop_if_not_finite(loss, parts, batch)
        self._untrained = False
        # A compiled graph may not be walked twice.
        if (self.global_step + 1) % trainer.log_every_steps == 0 and not trainer.compile:
            self.numbers |= self.task.step_numbers(parts)
        self.numbers |= {"loss": loss.detach()} | {f"loss/{name}": parts[name].detach() for name in more}
        self.log_dict(self.numbers, prog_bar=True, logger=False, batch_size=images)
        self.numbers |= {f"loss/{name}": part.detach() for name, part in parts.items()}
        return loss

    def _losses(self, images: Tensor, targets: Batch) -> tuple[dict[str, Tensor], list[str]]:
        """Return the parts of the loss, and the names of those that something beside the network adds."""
        total, more = dict[str, Tensor](), dict[str, Tensor]()
        for own_images, own_targets in self.task.passes(images, targets):
            if len(own_images) < 2:  # too few for batch normalization
                total["skipped"] = self._nothing_learned()
                continue
            if self.task.has_more_losses:
                own_images = own_images.contiguous(memory_format=self.memory_format)
                outputs, features = self._with_features(own_images)
                more = self.task.more_losses(own_images, outputs, features, own_targets)
            else:
                outputs = self._run(own_images)
            for name, part in (self.task.losses(outputs, own_targets) | more).items():
                total[name] = total[name] + part if name in total else part
        return total, list(more)

    def _nothing_learned(self) -> Tensor:
        """Return a loss of 0 that gives every parameter a gradient of 0: other processes wait for one."""
        return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Stop, by a BadImageError, before an epoch that trained on nothing is validated and saved."""
        ends = self.trainer.is_last_batch or self.trainer.should_stop
        if ends and self.trainer.strategy.reduce_boolean_decision(self._untrained, all=True):
            listing = "\n  ".join(batch["bad_images"])
            raise BadImageError(
                f"nothing was trained in epoch {self.current_epoch}: no batch had two images that could be "
                "read. Repair the images, or correct the paths; images of the last batch skipped by "
                f"data.on_bad_image=skip:\n  {listing}"
            )

    def _too_few(self, images: int) -> bool:
        """Return whether a batch is passed over: BN needs two images, and others were unreadable and skipped.

        Where BN's statistics are shared between processes, all of them pass or none.
        """
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.modules()):
            return self.trainer.strategy.reduce_boolean_decision(images < 2, all=False)
        return images < 2

    def _stop_if_not_finite(self, loss: Tensor, parts: dict[str, Tensor], batch: Batch) -> None:
        bad = not bool(torch.isfinite(loss))
        # All processes stop together, or the others would wait for ever.
        if not self.trainer.strategy.reduce_boolean_decision(bad, all=False):
            return
        named = zip(batch["files"], batch["image_ids"].tolist(), strict=True)
        images = "\n  ".join(f"{file} (id {id_})" for file, id_ in named)
        where = f"process {self.global_rank}, " if self.trainer.world_size > 1 else ""
        where += f"step {self.global_step}"
        if not bad:
            raise NonFiniteLoss(f"{where}: the loss is not finite in another process")
        path = self.run_dir / f"bad_batch_step{self.global_step}_rank{self.global_rank}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({key: _plain(value) for key, value in batch.items()}, path)
        values = ", ".join(f"{name} {part.item():g}" for name, part in parts.items())
        raise NonFiniteLoss(
            f"{where}: the loss is not finite ({values}). The batch is saved in "
            f"{path}; open it with torch.load. If the data are correct, lower optim.lr, lengthen the "
            f"warm-up or set trainer.gradient_clip. Images of this batch:\n  {images}"
        )

    def on_validation_epoch_start(self) -> None:
        """Start empty, with the first process's weights and BN statistics: those of the checkpoint."""
        self.predictions = []
        if self.trainer.world_size > 1:
            for tensor in (*self.parameters(), *self.buffers()):
                torch.distributed.broadcast(tensor.detach(), src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the predictions of a batch."""
        if len(batch["images"]):
            self.predictions.append(self.task.predict(self._answer, batch))

    def _answer(self, images: Tensor) -> Any:
        outputs = self._run(images)
        require_finite(
            name_outputs(self.task.raw_outputs, outputs),
            source="the network's output for validation images",
            remedy="the training diverged, or its weights are damaged: use an earlier checkpoint; lower "
            "optim.lr or set trainer.gradient_clip for a new run",
        )
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Score the whole set on the first process and log the numbers on all."""
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.predictions)
            self.predictions = [item for own in gathered for item in own]
        if not self.predictions:
            raise BadImageError("none of the validation images could be read, so there is no score")
        score = self.task.score(self.predictions) if self.global_rank == 0 else None
        self.score = agreed = self.trainer.strategy.broadcast(score)
        for name, value in agreed.numbers.items():  # type: ignore[union-attr]
            self.log(name, float(value), prog_bar=name == self.task.monitor)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """Build optimizer and schedule, whose steps are those of the optimizer."""
        optim = self.recipe.optim
        # Lightning's estimated_stepping_batches would set up the loader now, before a resumed run's position
        # is known, and begin the epoch anew.
        epoch, total = count_steps(self.recipe, self.images, self.trainer)
        optimizer = build_optimizer(self, optim, lr=self.lr)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: rate_factor(step, total_steps=total, epoch_steps=epoch, schedule=optim.schedule),
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint describe itself."""
        checkpoint["dettoolkit"] = {**self.description, "images_per_step": self.images_per_step}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume with steps of another size: rate, epochs and schedule would no longer fit."""
        require_finite(
            checkpoint["state_dict"].items(),
            source="the checkpoint to resume from",
            remedy="the training diverged, or the file is damaged: resume from an earlier checkpoint",
        )
        taught, teacher = (each.get("teacher", {}) for each in (checkpoint["dettoolkit"], self.description))
        if taught.get("sha256") != teacher.get("sha256"):
            raise ValueError(
                f"the run learned from the teacher {taught.get('teacher')}, but the weights of "
                f"{teacher.get('teacher')} are others: set distill.teacher to where the former one is now"
            )
        before = checkpoint["dettoolkit"].get("images_per_step", self.images_per_step)
        if before != self.images_per_step:
            raise ValueError(
                f"the run was trained with {before} images per step, but this would be "
                f"{self.images_per_step} (data.batch_size x devices x nodes x trainer.accumulate): change "
                "trainer.accumulate or data.batch_size so that the product is the same"
            )


def describe(run: Run) -> dict[str, Any]:
    """Describe a run in plain data: what its checkpoints carry besides weights."""
    teacher = {} if run.task.teacher is None else {"teacher": dict(run.task.teacher.description)}
    return {
        "version": VERSION,
        "name": run.name,
        "recipe": recipe_to_dict(run.recipe),
        "class_names": run.classes.names,
        "class_ids": run.classes.ids,
        "versions": {
            "dettoolkit": version("dettoolkit"),
            **{package.__name__: str(package.__version__) for package in (torch, torchvision, lightning)},
            "python": platform.python_version(),
        },
        **teacher,
    }


def _plain(value: Any) -> Any:
    """Turn a batch's entry into tensors, lists, dictionaries and scalars: what torch.load takes as safe."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if hasattr(value, "_asdict"):
        return value._asdict()
    return [_plain(item) for item in value] if isinstance(value, list) else value
