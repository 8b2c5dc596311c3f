"""Works through the runs of a study, one after the other in one Ray session."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from wrpo_ray.cluster import connected
from wrpo_ray.console import BUG_CODE, run_command
from wrpo_ray.errors import InterruptedRunError, WrpoError, own_error
from wrpo_ray.interrupts import rearm, stop
from wrpo_ray.live import show
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.redaction import redacted
from wrpo_ray.run import driving, run
from wrpo_ray.steps import complete
from wrpo_ray.storage.lease import held
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import layout_of
from wrpo_ray.study.load import StudyRun
from wrpo_ray.study.results import RunResult, run_result
from wrpo_ray.study.search import Trials
from wrpo_ray.study.sharing import Builder
from wrpo_ray.study.table import results_text, write_results

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """As the options of the same names of jobs/fuse.py."""

    accept_changes: bool = False
    retry_broken_sources: bool = False
    debug: bool = False


@dataclass
class _Worker:
    """The runs so far: exit code and error of those that failed in this start, by name."""

    builder: Builder
    options: Options
    trials: list[StudyRun] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def work_on(self, of_study: StudyRun, number: str) -> RunResult:
        """Make one run; an error is shown and noted, and leaves the other runs alone.

        Raises InterruptedRunError when the driver was told to stop.
        """
        noted = _Noted()

        def make() -> int:
            with noted, driving(of_study.config) as lease:
                pipeline = self.builder.pipeline(of_study, self.trials)
                log.info("run %s of the study: %s", number, of_study.name)
                with show.shown(pipeline.config):
                    run(
                        pipeline, lease, accept_changes=self.options.accept_changes,
                        retry_broken_sources=self.options.retry_broken_sources,
                    )  # fmt: skip
            return 0

        code = run_command(make, self.options.debug)
        if code == InterruptedRunError.exit_code:
            raise InterruptedRunError("interrupted", help="the same command goes on where it stopped")
        if code:
            self.codes[of_study.name], self.errors[of_study.name] = code, noted.told
            log.error("run %s of the study failed (exit code %d); the others go on", of_study.name, code)
        return run_result(of_study, self.errors.get(of_study.name))


class _Noted:
    """Keeps what is to be said of the error that passes through, and lets it pass."""

    told = ""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            own: WrpoError | None = own_error(error)
            # What nobody foresaw may hold a prompt: its text stays out of results that are passed around.
            told = f"{own.code}: {own.message.partition(chr(10))[0]}" if own else f"{BUG_CODE}: {type(error).__name__}"
            self.told = redacted(told)


def work_through(builder: Builder, pipelines: Sequence[Pipeline], options: Options | None = None) -> int:
    """Make all runs, then the trials of the search; print the table, write the results, return the exit code.

    0 when all runs are complete, else the code of the first one that failed. Results are written after every run.
    """
    study, worker = builder.study, _Worker(builder, options or Options())
    folder = layout_of(study.file.study.root, study.file.study.name).folder
    with _driving_study(builder), _session(builder, pipelines):
        # Those of earlier starts stay in the table until it is their turn.
        results = {of_study.name: run_result(of_study, None) for of_study in study.runs}
        for number, of_study in enumerate(study.runs, start=1):
            results[of_study.name] = worker.work_on(of_study, f"{number}/{len(study.runs)}")
            write_results(folder, study.file.study.name, [*results.values()])
        if study.file.search is not None:
            _search(worker, Trials(study, study.file.search), results, folder)
    print(f"{results_text([*results.values()])}\n\nresults: {folder / 'results.json'} and .csv", flush=True)
    return next(iter(worker.codes.values()), 0)


def _search(worker: _Worker, trials: Trials, results: dict[str, RunResult], folder: Location) -> None:
    """One trial after the other: each takes the whole cluster, and the next one may learn from it."""
    study = worker.builder.study
    for number in range(trials.search.num_trials):
        of_study = trials.suggested(number)
        result = worker.work_on(of_study, f"search {number + 1}/{trials.search.num_trials}")
        worker.trials.append(of_study)
        results[of_study.name] = result
        trials.tell(number, result)
        write_results(folder, study.file.study.name, [*results.values()])
    print(trials.told(), flush=True)


@contextmanager
def _driving_study(builder: Builder) -> Iterator[None]:
    """Two drivers of one study would make shared steps twice, each in another run."""
    study, config = builder.study.file.study, builder.study.any_config
    with held(layout_of(study.root, study.name).leases, config.run.lease_timeout_s, on_lost=stop):
        yield


@contextmanager
def _session(builder: Builder, pipelines: Sequence[Pipeline]) -> Iterator[None]:
    """One Ray session for all runs; none when everything is complete."""
    left = any(not complete(step, pipeline.layout) for pipeline in pipelines for step in pipeline.steps)
    if not left and builder.study.file.search is None:
        yield
        return
    with connected(builder.study.any_config.ray):
        # Ray has put its own signal handlers in place of ours.
        rearm()
        yield
