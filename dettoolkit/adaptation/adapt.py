"""NetAdapt's loop (arXiv 1804.03230, algorithm 1), with MobileNetV3's choice (arXiv 1905.02244, section 4.2).

Each step tries for each space of channels the network that is narrower there and saves enough time, after a
short fine-tune, and takes the one with the largest change of accuracy per change of latency.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from dettoolkit.adaptation.milliseconds import Latency
from dettoolkit.adaptation.proposals import Proposal, Space, propose, with_channels
from dettoolkit.adaptation.records import Journal, Record
from dettoolkit.adaptation.settings import Settings
from dettoolkit.adaptation.start import Start
from dettoolkit.adaptation.workers import Workers
from dettoolkit.backbones.own_blocks import recipe_with
from dettoolkit.backbones.tables import Table
from dettoolkit.config import Recipe
from dettoolkit.training.finetune import finetune

logger = logging.getLogger(__name__)

CHECK_EVERY = 10  # steps between measurements of the whole network
TOLERANCE = 0.1  # by which a prediction may be off
HALVINGS = 6  # of what a step has to save, where no proposal saves that much


@dataclass(frozen=True)
class State:
    """Where an adaptation is: after `step`, the network, its weights, milliseconds and score."""

    step: int
    table: Table
    weights: Path
    milliseconds: float
    score: float


class Adaptation:
    """An adaptation in its folder; one that was interrupted goes on."""

    def __init__(self, folder: Path, settings: Settings, latency: Latency, *, workers: Workers) -> None:
        self.folder, self.settings, self.latency, self.workers = folder, settings, latency, workers
        self.start = Start(settings, latency)
        self.journal = Journal(folder)

    def begin(self) -> Record:
        """Score and measure the start, and refuse a target that no network reaches, before any fine-tune."""
        found = self.journal.find("start")
        if found is None:
            logger.info("scoring the start, %s", self.start.checkpoint)
            first, out = self.start.checkpoint, self.weights(0, 0)
            monitor, score = finetune(self.start.trial(first, self.start.table, steps=0, step=0, out=out))
            if score is None:
                raise ValueError(f"{self.start.checkpoint} has no finite score: train it first")
            logger.info("measuring the start and its blocks: %s", self.latency.about)
            milliseconds = self.start.measure()
            factor = self.latency.factor
            found = self.journal.add(
                "start", milliseconds=milliseconds, factor=factor, score=score, monitor=monitor
            )
        self.latency.factor = float(found["factor"])
        return found

    @property
    def monitor(self) -> str:
        """Return the name of the score."""
        return str((self.journal.find("start") or {})["monitor"])

    def recipe(self, state: State) -> Recipe:
        """Return the recipe of a state's network."""
        return recipe_with(self.start.recipe, state.table)

    def weights(self, step: int, number: int) -> Path:
        """Return where the checkpoint of a proposal is."""
        return self.folder / "weights" / f"{step}_{number}.safetensors"

    def state(self) -> State:
        """Return where the journal says the adaptation is."""
        start = self.journal.find("start")
        if start is None:
            raise ValueError(f"{self.folder} has not begun: call begin")
        state = State(0, self.start.table, self.weights(0, 0), start["milliseconds"], start["score"])
        for record in self.journal.each("step"):
            table = with_channels(state.table, _space(record), record["channels"])
            weights = self.weights(record["step"], record["proposal"])
            state = State(
                record["step"], cast(Table, table), weights, record["milliseconds"], record["score"]
            )
        return state

    def run(self, *, after_step: Callable[[], None] = lambda: None) -> State:
        """Take steps until the target; `after_step` is called after each."""
        (self.folder / "weights").mkdir(exist_ok=True)
        with self.workers as workers:
            start = self.begin()
            target = self.settings.target(start["milliseconds"])
            while (state := self.state()).milliseconds > target:
                if state.step and state.step % CHECK_EVERY == 0:
                    self.check(state)
                self._step(state, start["milliseconds"], target, workers)
                after_step()
        self.check(self.state())
        return self.state()

    def _step(self, state: State, start: float, target: float, workers: Workers) -> None:
        number = state.step + 1
        saved = start * self.settings.reduction * self.settings.decay**state.step
        proposals = self._proposals(state, number, max(target, state.milliseconds - saved))
        trials = {
            at: self.start.trial(
                state.weights,
                each.table,
                steps=self.settings.steps,
                out=self.weights(number, at),
                step=number,
            )
            for at, each in enumerate(proposals)
            if self.journal.find("trial", step=number, proposal=at) is None
        }
        order = list(trials)
        for position, score in workers.run(list(trials.values())):
            at = order[position]
            self.journal.add("trial", step=number, proposal=at, score=score)
            shown = "diverged" if score is None else f"{score:.4f}"
            logger.info(
                "step %d, %d of %d: %s to %d channels, %.3g ms: %s",
                number,
                at + 1,
                len(proposals),
                proposals[at].space.name(state.table),
                proposals[at].channels,
                proposals[at].milliseconds,
                shown,
            )
        self._choose(state, number, proposals)

    def _proposals(self, state: State, number: int, at_most: float) -> Sequence[Proposal]:
        """Return the proposals of a step; where none saves enough, those that save half of it, and so on."""
        known = self.journal.find("proposals", step=number)
        if known is None:
            for halving in range(HALVINGS + 1):
                limit = state.milliseconds - (state.milliseconds - at_most) / 2**halving
                predict, divisor = self.start.milliseconds, self.settings.divisor
                found = propose(state.table, predict, at_most=limit, divisor=divisor)
                if found:
                    break
            else:
                raise ValueError(
                    f"step {number}: no space of channels alone saves time any more, at "
                    f"{state.milliseconds:.3g} ms: set a smaller --divisor, or a target above that"
                )
            described = [
                {
                    "kind_of_space": each.space.kind,
                    "number": each.space.number,
                    "channels": each.channels,
                    "milliseconds": each.milliseconds,
                }
                for each in found
            ]
            known = self.journal.add("proposals", step=number, proposals=described)
        return [
            Proposal(
                _space(each),
                each["channels"],
                cast(Table, with_channels(state.table, _space(each), each["channels"])),
                each["milliseconds"],
            )
            for each in known["proposals"]
        ]

    def _choose(self, state: State, number: int, proposals: Sequence[Proposal]) -> None:
        scores = {each["proposal"]: each["score"] for each in self.journal.each("trial", step=number)}
        rated = {
            at: (score - state.score) / (state.milliseconds - proposals[at].milliseconds)
            for at, score in scores.items()
            if score is not None
        }
        if not rated:
            raise ValueError(
                f"step {number}: every fine-tune diverged: set a smaller --lr-factor and begin anew"
            )
        best = max(sorted(rated), key=lambda at: rated[at])
        chosen = proposals[best]
        self.journal.add(
            "step",
            step=number,
            proposal=best,
            kind_of_space=chosen.space.kind,
            number=chosen.space.number,
            name=chosen.space.name(state.table),
            before=chosen.space.channels(state.table),
            channels=chosen.channels,
            milliseconds=chosen.milliseconds,
            score=scores[best],
        )
        logger.info(
            "step %d: %s cut from %d to %d channels; %.3g ms, score %.4f",
            number,
            chosen.space.name(state.table),
            chosen.space.channels(state.table),
            chosen.channels,
            chosen.milliseconds,
            scores[best],
        )
        kept = self.weights(number, best)
        for path in kept.parent.glob("*.safetensors"):
            if path != kept:
                path.unlink()

    def check(self, state: State) -> Record:
        """Measure the network as a whole; refuse to go on where its prediction is off."""
        found = self.journal.find("check", step=state.step)
        if found is not None:
            return found
        measured = self.latency.measure(self.start.network(self.recipe(state)))
        if measured is not None:
            self._compare(state, measured)
        return self.journal.add("check", step=state.step, predicted=state.milliseconds, measured=measured)

    def _compare(self, state: State, measured: float) -> None:
        predicted, off = state.milliseconds, state.milliseconds / measured - 1
        logger.info("after step %d: %.3g ms measured, %.3g predicted", state.step, measured, predicted)
        if abs(off) > TOLERANCE:
            raise ValueError(
                f"after step {state.step} {predicted:.3g} ms are predicted, but the network takes "
                f"{measured:.3g} ms: {abs(off):.0%} off, more than {TOLERANCE:.0%}. If the machine was busy, "
                f"go on with --resume {self.folder} when it is idle. Otherwise fit a correction with "
                "'dettoolkit latency --validate 30', and begin anew"
            )


def _space(record: Record) -> Space:
    return Space(record["kind_of_space"], record["number"])
