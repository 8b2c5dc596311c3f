"""A search over numeric fields: Ray Tune's search spaces and searchers, asked for one trial at a time.

The driver itself works on a trial, as on every other run: it holds the lease, shows what happens and hears signals,
which a driver inside one of Tune's trial actors would not. Values depend on the study's seed and on the results so far,
both of which are the same when the study is started again: finished trials are found, not made again.
"""

from __future__ import annotations

import math
from typing import Any

from wrpo_ray.config_study import FieldRange, SearchSection
from wrpo_ray.errors import ConfigError
from wrpo_ray.study.expand import NamedChanges, trial_name
from wrpo_ray.study.load import Study, StudyRun
from wrpo_ray.study.results import RunResult

# Significant digits of a value: the run's config stays readable.
_DIGITS = 6


class Trials:
    """The trials of one search: suggested, made by the caller, told."""

    def __init__(self, study: Study, search: SearchSection) -> None:
        self.study, self.search = study, search
        self.values: dict[int, float] = {}
        self._searcher = _searcher(search)

    def suggested(self, number: int) -> StudyRun:
        """Return the next trial; raises ConfigError when its values cannot be used."""
        drawn = self._searcher.suggest(str(number))
        changes = {path: _rounded(drawn[path], of) for path, of in self.search.fields.items()}
        return self.study.run(NamedChanges(trial_name(number), {**self.search.set, **changes}))

    def tell(self, number: int, result: RunResult) -> None:
        """Note a trial's result; a failed one counts as none. Raises ConfigError when it lacks the metric."""
        value = result.row.get(self.search.metric)
        if result.status == "complete" and not isinstance(value, int | float):
            numbers = sorted(name for name, cell in result.row.items() if isinstance(cell, int | float))
            raise ConfigError(
                f"run {result.run.name} has no number `{self.search.metric}` to search by", code="WRPO-C097",
                help=f"set search.metric to one of: {', '.join(numbers)}",
            )  # fmt: skip
        if isinstance(value, int | float) and math.isfinite(value):
            self.values[number] = float(value)
        told = {self.search.metric: self.values[number]} if number in self.values else None
        self._searcher.on_trial_complete(str(number), told, error=told is None)

    def told(self) -> str:
        """Return what the search has found."""
        if not self.values:
            return "search: no trial gave a number"
        pick = max if self.search.maximize else min
        best = pick(self.values, key=lambda number: self.values[number])
        value = self.values[best]
        return f"search: {self.search.metric} is best in {trial_name(best)}, {value:.6g} ({len(self.values)} trials)"


def _rounded(value: float, of_field: FieldRange) -> float:
    """Rounding must not leave the range."""
    return min(max(float(f"{value:.{_DIGITS}g}"), of_field.low), of_field.high)


def _searcher(search: SearchSection) -> Any:
    """Return a Searcher of Ray Tune (ray/tune/search/searcher.py)."""
    from ray import tune

    space = {path: (tune.loguniform if of.log else tune.uniform)(of.low, of.high) for path, of in search.fields.items()}
    if search.algorithm == "random":
        return _Random(space, search.seed)
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(space=space, metric=search.metric, mode="max" if search.maximize else "min", seed=search.seed)


class _Random:
    """Values drawn from Tune's domains, under the names of a Searcher."""

    def __init__(self, space: dict[str, Any], seed: int) -> None:
        import numpy

        self._space, self._random = space, numpy.random.RandomState(seed)

    def suggest(self, trial_id: str) -> dict[str, float]:
        """Return the next values."""
        return {path: domain.sample(random_state=self._random) for path, domain in self._space.items()}

    def on_trial_complete(self, trial_id: str, result: dict[str, float] | None, error: bool) -> None:
        """Draw the next values regardless of these."""
