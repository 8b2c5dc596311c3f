"""Which run of a study makes which step, before anything is made: what `--dry-run` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from wrpo_ray.config import FuseConfig
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.planning.units import columns
from wrpo_ray.preflight import Checked, require_runnable
from wrpo_ray.steps import complete
from wrpo_ray.storage.manifest import layout_of
from wrpo_ray.study.load import Problems, Study, StudyRun

# What training does with rows that are there; models and prompts are checked no differently for it.
_UNCHECKED = {
    "objective", "beta", "gamma", "tau", "alpha", "learning_rate", "lr_schedule", "warmup_ratio", "num_epochs",
    "global_batch_size", "length_normalized", "weight_decay",
}  # fmt: skip
MakePipeline = Callable[[FuseConfig, Checked], Pipeline]


def make_pipeline(config: FuseConfig, checked: Checked) -> Pipeline:
    """Return the pipeline of a run with real engines."""
    return Pipeline(config, checked=checked)


@dataclass
class Builder:
    """Builds the pipelines of a study's runs; what runs have in common is read and checked once.

    make, check: tests put doubles here.
    """

    study: Study
    make: MakePipeline = make_pipeline
    check: Callable[[FuseConfig], Checked] = require_runnable
    checked: dict[str, Checked] = field(default_factory=dict)

    def all(self) -> list[Pipeline]:
        """Return the pipelines of all runs; raises one error with the problems of all of them."""
        found = Problems(f"study {self.study.file.study.name} cannot start")
        pipelines = []
        for run in self.study.runs:
            with found.noting(run.name):
                pipelines.append(self.pipeline(run))
        found.raise_any()
        return pipelines

    def pipeline(self, run: StudyRun, others: Sequence[StudyRun] = ()) -> Pipeline:
        """Return the pipeline of a run that reads what the runs that have been started have finished.

        others: trials of a search, which are no runs of the file.
        """
        config = run.config
        names = [each.config.run.name for each in (*self.study.runs, *others)]
        given = [*dict.fromkeys([*names, *self.study.file.study.reuse])]
        started = [
            name
            for name in given
            if name != config.run.name
            # What the user names must be there; of our own runs, some have not been started yet.
            and (name not in names or layout_of(config.run.root, name).submissions.walk())
        ]
        reusing = config.run.model_copy(update={"reuse": tuple(started)})
        return self.make(config.model_copy(update={"run": reusing}), self._checked(config))

    def _checked(self, config: FuseConfig) -> Checked:
        fields = config.model_dump(mode="json", exclude={"run", "ablation", "export", "ray"})
        for section in ("sft", "wrpo"):
            fields[section] = {name: value for name, value in fields[section].items() if name not in _UNCHECKED}
        key = json.dumps(fields, sort_keys=True)
        if key not in self.checked:
            self.checked[key] = self.check(config)
        return self.checked[key]


@dataclass(frozen=True)
class RunShare:
    """What a run will do: steps that it makes itself, that it reads from earlier runs, and that are complete."""

    name: str
    makes: tuple[str, ...]
    reads: tuple[str, ...]
    complete: tuple[str, ...]


def shares(runs: Iterable[StudyRun], pipelines: Iterable[Pipeline]) -> list[RunShare]:
    """Return what each run will do when they work one after the other."""
    seen: set[tuple[str, str]] = set()
    found = []
    for run, pipeline in zip(runs, pipelines, strict=True):
        done = [step for step in pipeline.steps if complete(step, pipeline.layout)]
        left = [step for step in pipeline.steps if step not in done]
        makes = [step.name for step in left if (step.name, step.fingerprint) not in seen]
        reads = [step.name for step in left if (step.name, step.fingerprint) in seen]
        seen |= {(step.name, step.fingerprint) for step in pipeline.steps}
        found.append(RunShare(run.name, tuple(makes), tuple(reads), tuple(step.name for step in done)))
    return found


def shared_text(study: Study, found: Sequence[RunShare]) -> str:
    """Return the table of `shares`, with the sums below it."""
    rows = [("run", "makes", "reads", "complete", "steps that it makes")]
    rows += [(run.name, *map(_count, (run.makes, run.reads, run.complete)), _listed(run.makes)) for run in found]
    made, read = (sum(len(getattr(run, name)) for run in found) for name in ("makes", "reads"))
    done = sum(len(run.complete) for run in found)
    title = f"study {study.file.study.name}: {len(found)} runs below {study.file.study.root}"
    told = f"{made + read + done} steps in all: {made} to make, each once; {read} shared with a run above"
    told += f"; {done} complete"
    search = study.file.search
    more = "" if search is None else f"\nthen a search of {search.num_trials} trials over {', '.join(search.fields)}"
    return f"{title}\n\n{_left_aligned(rows)}\n\n{told}{more}"


def _left_aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """The last column is text of any length: it stands behind the aligned ones."""
    table = columns([row[:-1] for row in rows]).splitlines()
    return "\n".join(f"{line}  {row[-1]}".rstrip() for line, row in zip(table, rows, strict=True))


def _count(names: Sequence[str]) -> str:
    return str(len(names))


def _listed(names: Sequence[str], limit: int = 6) -> str:
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
