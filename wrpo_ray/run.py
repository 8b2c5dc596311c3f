"""Works through the steps of a run: one driver at a time, from where the last one stopped."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from wrpo_ray.broken_sources import forget_broken, mark_broken, may_go_on, read_broken
from wrpo_ray.cluster import connected, require_room
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import dump_config
from wrpo_ray.data.prefetch import Prefetcher, models_of
from wrpo_ray.errors import ConfigError, ModelError, WrpoError
from wrpo_ray.events import StepsChosen, announce
from wrpo_ray.export import deliver
from wrpo_ray.failures import note_failure
from wrpo_ray.interrupts import rearm, stop
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.planning.against import plan_record
from wrpo_ray.planning.plan import plan_run
from wrpo_ray.planning.schedule import Job
from wrpo_ray.preflight import require_runnable
from wrpo_ray.redaction import redacted
from wrpo_ray.scheduling.ray_nodes import read_nodes
from wrpo_ray.scheduling.runner import StepRunner
from wrpo_ray.steps import EVALUATION, Step, complete, execute
from wrpo_ray.storage.lease import Lease, NoLease, held
from wrpo_ray.storage.leftovers import remove_leftovers
from wrpo_ray.storage.manifest import Manifest, layout_of
from wrpo_ray.storage.objects import probe
from wrpo_ray.submissions import last_submission, record, require_same, submission
from wrpo_ray.versions import installed

log = logging.getLogger(__name__)
_LEFTOVER_AGE_S = 86_400.0
# What the cluster fails at is no fault of the model: the run stops, and the next one has its source again.
_NOT_THE_MODELS_FAULT = {"WRPO-E008"}


@contextmanager
def driving(config: FuseConfig) -> Iterator[Lease | NoLease]:
    """Hold the run of `config` while the body works on it, before anything is looked at that takes long.

    Call it within `interrupts.interruptible`. Raises LeaseError when another driver holds the run, StorageError when
    its folder cannot be used.
    """
    layout = layout_of(config.run.root, config.run.name)
    probe(layout.folder)
    with held(layout.leases, config.run.lease_timeout_s, on_lost=stop) as lease:
        # What killed writers had not finished; whoever still lives has finished it long since.
        if num_removed := remove_leftovers(layout.folder, older_than_s=_LEFTOVER_AGE_S):
            log.info("%d unfinished files of killed writers removed", num_removed)
        yield lease


def checked_pipeline(config: FuseConfig, only: str | None) -> Pipeline:
    """Return the run's steps, once models and prompts have been looked at; raises what preflight.require_runnable does.

    only: name of the one step that is wanted, or "evaluation"; ConfigError when there is none of that name.
    """
    pipeline = Pipeline(config, checked=require_runnable(config))
    if only is not None:
        pipeline.steps_called(only)
    return pipeline


def require_begun(config: FuseConfig) -> None:
    """Raise ConfigError when no start of the run of `config` is on record; nothing is written."""
    if last_submission(layout_of(config.run.root, config.run.name).submissions) is None:
        raise ConfigError(
            f"there is no run {config.run.name} below {config.run.root}", code="WRPO-C048",
            help="correct run.root and run.name, or run jobs/fuse.py first",
        )  # fmt: skip


def evaluation_pipeline(config: FuseConfig) -> Pipeline:
    """Return the steps of a run whose models are trained, to make those of its evaluation; see checked_pipeline.

    Raises ConfigError when something is missing that is compared, before anything is made.
    """
    pipeline = checked_pipeline(config, EVALUATION)
    usable(pipeline).selected(EVALUATION)
    return pipeline


def usable(pipeline: Pipeline, retry_broken_sources: bool = False) -> Pipeline:
    """Return the pipeline without the sources that the run goes on without, which are named in the log.

    retry_broken_sources: forget about them. Raises ConfigError when fewer than min_sources are left.
    """
    folder = pipeline.layout.broken_sources
    if retry_broken_sources:
        forget_broken(folder)
    known = read_broken(folder)
    broken = {name: known[name]["error"] for name in pipeline.source_names if name in known}
    for name, reason in broken.items():
        log.warning("without the source %s (--retry-broken-sources tries it again): %s", name, json.dumps(reason))
    return pipeline.without(broken)


def run(
    pipeline: Pipeline,
    lease: Lease | NoLease,
    only: str | None = None,
    accept_changes: bool = False,
    retry_broken_sources: bool = False,
) -> dict[str, Manifest]:
    """Work through the steps, or those called `only` whose inputs must be complete; return their manifests.

    pipeline: of the whole config; sources that turn out to be unusable are left out when the config allows it.
    accept_changes: go on although the config would give other results than the run's last one.
    retry_broken_sources: try the sources again that the run went on without.
    """
    work = _Work(pipeline, usable(pipeline, retry_broken_sources), lease, only, accept_changes)
    _submit(pipeline, work.current, lease, accept_changes)
    with _cluster_unless_idle(work.current, only):
        manifests = work.to_the_end()
    if pipeline.config.export.path and "export" in manifests:
        deliver(work.current.step("export").folder(work.current.layout) / "model", pipeline.config.export.path)
    return manifests


def _submit(asked: Pipeline, current: Pipeline, lease: Lease | NoLease, accept_changes: bool) -> None:
    """Record this start of the run; refuse when it would mix results of two configs.

    What the run itself has left out, or takes in again, nobody has to accept: the comparison is made without the
    sources that the last start was without.
    """
    folder, last = asked.layout.submissions, last_submission(asked.layout.submissions)
    config = json.loads(dump_config(asked.config))
    entry = submission(lease.epoch, config, current.steps, installed(), current.broken_sources, current.layout)
    entry["plan"] = plan_record(asked.config)
    if last is not None and not accept_changes:
        basis = asked.without({name: "" for name in last["broken_sources"] if name in asked.source_names})
        require_same(last, submission(lease.epoch, config, basis.steps, installed()), asked.config.run.name)
    entry = json.loads(redacted(json.dumps(entry)))
    record(folder, entry)
    # Also what a live view shows; told again for every source that the run goes on without.
    fingerprints = {step.name: step.fingerprint for step in current.steps}
    announce(StepsChosen(tuple(fingerprints), tuple(current.broken_sources), entry["plan"], fingerprints))


@contextmanager
def _cluster_unless_idle(pipeline: Pipeline, only: str | None) -> Iterator[None]:
    """A run that has nothing left to do needs no cluster to say so."""
    if all(complete(step, pipeline.layout) for step in pipeline.selected(only)):
        yield
        return
    with connected(pipeline.config.ray):
        # Ray has put its own signal handlers in place of ours.
        rearm()
        require_room(pipeline.config)
        yield


@dataclass
class _Work:
    """The steps under way. asked: the pipeline of the whole config; current: of the sources that are not broken."""

    asked: Pipeline
    current: Pipeline
    lease: Lease | NoLease
    only: str | None
    accept_changes: bool

    def to_the_end(self) -> dict[str, Manifest]:
        """Work through the steps, those that are ready side by side, and return their manifests."""
        versions, config = installed(), self.current.config
        planned = _planned_jobs(config)
        prefetcher = Prefetcher(models_of(config, self.current.steps), config.ray.num_models_ahead)
        runner = StepRunner(
            work_on=lambda step: execute(step, self.current.layout, versions, self.lease.check),
            is_complete=lambda step: complete(step, self.current.layout),
            read_nodes=lambda: read_nodes(self.asked.config, planned),
            planned=planned,
            before_each=self.lease.check,
            replaced=self._without_source,
            coming=prefetcher.ahead,
        )
        with contextlib.closing(prefetcher):
            return runner.run(self.current.selected(self.only))

    def _without_source(self, step: Step, error: Exception) -> list[Step]:
        """Go on without the source whose step failed; raises `error`, which it notes, when the run cannot."""
        if step.source is None or not isinstance(error, ModelError) or not self._may_go_on_after(error):
            note_failure(self.asked.layout.folder, step.name, step.fingerprint, error, self.lease.epoch)
            raise error
        reason = mark_broken(self.asked.layout.broken_sources, step.source, error, self.lease.epoch)
        self.current = self.asked.without({**self.current.broken_sources, step.source: reason})
        _submit(self.asked, self.current, self.lease, self.accept_changes)
        return self.current.selected(None)

    def _may_go_on_after(self, error: ModelError) -> bool:
        if error.code in _NOT_THE_MODELS_FAULT:
            return False
        # One step by name is not the run: whoever asked for it gets its error.
        return self.only is None and may_go_on(self.asked.config, len(self.current.broken_sources) + 1)


def _planned_jobs(config: FuseConfig) -> list[Job]:
    """Return the jobs of the plan, none when there is no plan: a run does not fail for want of one."""
    try:
        return [planned.stage.job for planned in plan_run(config).stages]
    except WrpoError:
        return []
