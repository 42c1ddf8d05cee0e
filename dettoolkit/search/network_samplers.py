"""How networks are proposed: at random, by Optuna's TPE, or by regularized evolution."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from dettoolkit.formats import requires

with requires("search", what="a search"):
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.samplers import BaseSampler, RandomSampler, TPESampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, TrialState

Name = Literal["random", "tpe", "evolution"]
NAMES = get_args(Name)
POPULATION, TOURNAMENT = 20, 5  # newest networks that may have children; of these, drawn to choose a parent


class RegularizedEvolution(BaseSampler):
    """Change one choice of a good network among the newest ones (Real et al., arXiv 1802.01548).

    The first trials, as many as a tournament has networks, are random.
    """

    def __init__(self, parameters: Mapping[str, Sequence[Any]], *, seed: int) -> None:
        self.space = {name: CategoricalDistribution(tuple(options)) for name, options in parameters.items()}
        self.chance = random.Random(seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return all choices."""
        del study, trial
        return dict(self.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the choices of a parent with one of them changed; none at all for the first trials."""
        del trial, search_space
        scored = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        newest = sorted(scored, key=lambda each: each.number)[-POPULATION:]
        if len(newest) < TOURNAMENT:
            return {}
        drawn = self.chance.sample(newest, TOURNAMENT)
        parent = max(drawn, key=lambda each: (self._wins(each, drawn, study), -each.number))
        child = dict(parent.params)
        name = self.chance.choice(sorted(self.space))
        child[name] = self.chance.choice([each for each in self.space[name].choices if each != child[name]])
        return child

    def _wins(self, trial: FrozenTrial, others: Sequence[FrozenTrial], study: Study) -> int:
        """Count the trials that are not better than this one in everything: those it beats, with one goal."""
        signs = [1 if each.name == "MAXIMIZE" else -1 for each in study.directions]
        own = [sign * value for sign, value in zip(signs, trial.values, strict=True)]
        return sum(
            any(mine >= sign * value for mine, sign, value in zip(own, signs, other.values, strict=True))
            for other in others
        )

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one choice."""
        del study, trial, param_name
        if not isinstance(param_distribution, CategoricalDistribution):
            raise TypeError(f"a choice is categorical, not {type(param_distribution).__name__}")
        return self.chance.choice(param_distribution.choices)


def build_sampler(name: Name, parameters: Mapping[str, Sequence[Any]], *, seed: Sequence[int]) -> BaseSampler:
    """Build a sampler for one trial: no two trials, whoever runs them, may begin with the same seed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    if name == "random":
        return RandomSampler(seed=number)
    if name == "evolution":
        return RegularizedEvolution(parameters, seed=number)
    return TPESampler(
        seed=number, multivariate=True, group=False, constant_liar=True, warn_independent_sampling=False
    )
