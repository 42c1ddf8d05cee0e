from __future__ import annotations

import multiprocessing
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, Dataset

from dettoolkit.datasets.samplers import EpochSampler, ExactSampler, ResumableLoader, SampleKey, worker_init

SIZE, BATCH = 23, 4  # 5 batches an epoch, a remainder of 3
BATCHES = SIZE // BATCH


class Keys(Dataset[torch.Tensor]):
    """Gives back what it was asked for."""

    def __getitem__(self, key: SampleKey) -> torch.Tensor:
        return torch.tensor([key.index, key.epoch])

    def __len__(self) -> int:
        return SIZE


def epoch_sampler(**changes: int) -> EpochSampler:
    return EpochSampler(
        **{"size": SIZE, "seed": 3, "rank": 0, "world_size": 1, "batch_size": BATCH} | changes
    )


def loader(workers: int = 0, **changes: int) -> ResumableLoader:
    sampler = epoch_sampler(**changes)
    return ResumableLoader(
        Keys(),
        batch_size=sampler.batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=worker_init,
        multiprocessing_context="fork" if workers else None,
    )


def set_epoch(source: ResumableLoader, epoch: int) -> None:
    assert isinstance(source.sampler, EpochSampler)
    source.sampler.set_epoch(epoch)


# EpochSampler and ExactSampler


@pytest.mark.parametrize(
    ("size", "world_size", "batch_size"), [(23, 1, 4), (23, 3, 2), (24, 2, 4), (7, 2, 2)]
)
def test_ranks_share_one_permutation(size: int, world_size: int, batch_size: int) -> None:
    ranks = [
        epoch_sampler(size=size, rank=rank, world_size=world_size, batch_size=batch_size)
        for rank in range(world_size)
    ]
    for epoch in range(3):
        for sampler in ranks:
            sampler.set_epoch(epoch)
        fractions = [list(sampler) for sampler in ranks]
        lengths = {len(share) for share in fractions} | {len(sampler) for sampler in ranks}
        assert lengths == {-(-size // world_size) // batch_size * batch_size}
        assert {key.epoch for share in fractions for key in share} == {epoch}
        seen = Counter(key.index for share in fractions for key in share)
        assert set(seen) <= set(range(size))
        padding = max(0, len(fractions[0]) * world_size - size)
        assert sum(seen.values()) - len(seen) == padding


def test_order_depends_on_seed_and_epoch_only() -> None:
    first, same, other = epoch_sampler(), epoch_sampler(), epoch_sampler(seed=4)
    assert list(first) == list(same)
    assert [k.index for k in first] != [k.index for k in other]
    order = list(first)
    assert order == list(first)  # a second iteration of the same epoch
    first.set_epoch(1)
    assert [k.index for k in first] != [k.index for k in order]
    first.set_epoch(0)
    assert list(first) == order
    torch.manual_seed(1)
    assert list(epoch_sampler()) == order


@pytest.mark.parametrize(("size", "world_size"), [(1, 1), (1, 4), (3, 2), (5, 8), (7, 2)])
def test_fewer_samples_than_a_batch_still_make_one(size: int, world_size: int) -> None:
    ranks = [epoch_sampler(size=size, rank=r, world_size=world_size, batch_size=8) for r in range(world_size)]
    fractions = [list(sampler) for sampler in ranks]
    assert {len(share) for share in fractions} == {-(-size // world_size)}
    assert {key.index for share in fractions for key in share} == set(range(size))
    batches = list(ResumableLoader(Keys(), batch_size=8, sampler=ranks[0]))
    assert [len(batch) for batch in batches] == [len(fractions[0])]


def test_start_counts_for_one_iteration_of_its_epoch() -> None:
    sampler = epoch_sampler()
    whole = list(sampler)
    sampler.set_start(8)
    assert len(sampler) == len(whole) == 20
    assert list(sampler) == whole[8:]
    assert list(sampler) == whole
    sampler.set_start(8)
    sampler.set_epoch(0)  # the same: Lightning says it again after the resume
    assert list(sampler) == whole[8:]
    sampler.set_start(20)
    assert list(sampler) == []
    sampler.set_start(8)
    sampler.set_epoch(1)
    assert len(list(sampler)) == 20


@pytest.mark.parametrize(("size", "world_size"), [(5, 1), (5, 2), (5, 4), (3, 4), (1, 2)])
def test_exact_sampler_gives_every_sample_once(size: int, world_size: int) -> None:
    samplers = [ExactSampler(size=size, rank=rank, world_size=world_size) for rank in range(world_size)]
    fractions = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(share) for share in fractions]
    assert sorted(key.index for share in fractions for key in share) == list(range(size))
    assert {key.epoch for share in fractions for key in share} == {0}
    assert fractions[0] == list(samplers[0])
    assert [key.index for key in fractions[-1]] == list(range(world_size - 1, size, world_size))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 sample, got 0: is the data set empty"):
        epoch_sampler(size=0)
    with pytest.raises(ValueError, match="got rank 2 of 2"):
        epoch_sampler(rank=2, world_size=2)
    with pytest.raises(ValueError, match="got rank -1 of 1"):
        ExactSampler(size=3, rank=-1, world_size=1)
    with pytest.raises(ValueError, match="start must be 0 to 20 samples of an epoch, got 21"):
        epoch_sampler().set_start(21)


# ResumableLoader by itself


@pytest.mark.parametrize("workers", [0, 2])
def test_state_counts_batches_handed_out(workers: int) -> None:
    whole = [batch.tolist() for batch in loader()]
    source = loader(workers)
    iterator = iter(source)
    for done in range(BATCHES):
        assert source.state_dict()["batches"] == done
        resumed = loader(workers)
        resumed.load_state_dict(source.state_dict())
        assert resumed.state_dict() == source.state_dict()
        assert len(resumed) == BATCHES
        if done in (0, 3):
            assert [batch.tolist() for batch in resumed] == whole[done:]
            set_epoch(resumed, 1)
            assert len(list(resumed)) == BATCHES
        next(iterator)
    assert source.state_dict()["batches"] == BATCHES


def test_state_of_another_order_is_refused() -> None:
    source = loader()
    next(iter(source))
    with pytest.raises(
        ValueError,
        match=r"with seed 3, batch_size 4, but this run has size 23, seed 9, batch_size 2",
    ):
        loader(seed=9, batch_size=2).load_state_dict(source.state_dict())
    for _ in source:
        pass
    other = loader(seed=9, batch_size=2)
    other.load_state_dict(source.state_dict())  # at an epoch's end nothing remains that could differ
    assert list(other) == []
    other.load_state_dict(source.state_dict())
    set_epoch(other, 1)
    assert len(list(other)) == 11


def test_state_of_rank_0_serves_every_rank() -> None:
    sources = [loader(rank=rank, world_size=2, batch_size=3) for rank in range(2)]
    whole = [[batch.tolist() for batch in source] for source in sources]
    iterator = iter(sources[0])
    next(iterator)
    for rank in range(2):
        resumed = loader(rank=rank, world_size=2, batch_size=3)
        resumed.load_state_dict(sources[0].state_dict())
        assert [batch.tolist() for batch in resumed] == whole[rank][1:]


def test_replaced_sampler_is_named() -> None:
    with pytest.raises(ValueError, match="got SequentialSampler and batch_size 2: was it replaced"):
        next(iter(ResumableLoader(Keys(), batch_size=2)))
    with pytest.raises(ValueError, match="got EpochSampler and batch_size 3"):
        ResumableLoader(Keys(), batch_size=3, sampler=epoch_sampler()).state_dict()


def _threads(connection: Any) -> None:
    worker_init(0)
    connection.send((cv2.getNumThreads(), torch.get_num_threads()))


def test_worker_init_keeps_workers_to_one_thread() -> None:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=_threads, args=(theirs,))
    child.start()
    assert mine.recv() == (1, 1)
    child.join(30)


# Interrupted and resumed training through Lightning


class Killed(Exception):
    """The power went."""


class Recorder(lightning.LightningModule):
    """Records the samples of every step; dies in the training step that `kill_at` names."""

    def __init__(self, kill_at: int | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.kill_at = kill_at
        self.steps: dict[int, Any] = {}
        self.order: list[tuple[int, int]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        step = self.trainer.fit_loop.total_batch_idx
        if step == self.kill_at:
            raise Killed
        assert step not in self.steps
        self.steps[step] = batch.tolist()
        self.order.append((self.current_epoch, batch_idx))
        loss: torch.Tensor = self.layer(batch[:, :1].float()).mean()
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("score", batch.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def fit(
    module: Recorder, train: ResumableLoader, checkpoint: ModelCheckpoint, resume: Path | None, **options: Any
) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=[checkpoint],
        **({} if "max_steps" in options else {"max_epochs": 3}) | options,
    )
    validation = DataLoader(Keys(), batch_size=8, sampler=ExactSampler(size=SIZE, rank=0, world_size=1))
    trainer.fit(module, train, validation, ckpt_path=resume, weights_only=True)


SAVES: dict[str, dict[str, Any]] = {
    "every step": {"every_n_train_steps": 1},
    "every third": {"every_n_train_steps": 3},
    "epoch end": {"every_n_epochs": 1, "save_on_train_epoch_end": True},
    "validation end": {"every_n_epochs": 1, "monitor": "score", "save_on_train_epoch_end": False},
}


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kill_at", [3, 5, 7, 10])  # 5 and 10 are the first steps of an epoch
@pytest.mark.parametrize(
    ("save", "options"),
    [
        ("every step", {}),
        ("every step", {"max_steps": 3 * BATCHES}),
        ("every third", {"val_check_interval": 2}),
        ("epoch end", {"accumulate_grad_batches": 2}),
        ("validation end", {}),
    ],
)
def test_resumed_run_sees_the_same_batches(
    tmp_path: Path, workers: int, kill_at: int, save: str, options: dict[str, Any]
) -> None:
    def run(name: str, module: Recorder, resume: Path | None = None) -> None:
        checkpoint = ModelCheckpoint(tmp_path / name, save_top_k=-1, filename="{step}", **SAVES[save])
        fit(module, loader(workers), checkpoint, resume, **options)

    whole, killed, resumed = Recorder(), Recorder(kill_at), Recorder()
    run("whole", whole)
    assert sorted(whole.steps) == list(range(3 * BATCHES))
    assert [batch[0][1] for _, batch in sorted(whole.steps.items())] == [0] * 5 + [1] * 5 + [2] * 5
    with pytest.raises(Killed):
        run("killed", killed)
    checkpoints = sorted(
        (tmp_path / "killed").glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step="))
    )
    run("resumed", resumed, checkpoints[-1] if checkpoints else None)
    first = min(resumed.steps)
    assert first > 0 or not checkpoints
    assert first == kill_at or save != "every step"
    assert resumed.steps == {step: whole.steps[step] for step in range(first, 3 * BATCHES)}
    assert resumed.order == whole.order[first:]
