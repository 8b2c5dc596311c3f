"""Works through the steps of a run: one driver at a time, from where the last one stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from wrpo_ray.broken_sources import forget_broken, mark_broken, may_go_on, read_broken
from wrpo_ray.cluster import connected, require_room
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import dump_config
from wrpo_ray.errors import ModelError, WrpoError
from wrpo_ray.export import deliver
from wrpo_ray.interrupts import rearm, stop
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.planning.against import plan_record
from wrpo_ray.preflight import require_runnable
from wrpo_ray.redaction import redacted
from wrpo_ray.steps import complete, execute
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


class BrokenSourceError(Exception):
    """A source model cannot be used, for the reason `cause`."""

    def __init__(self, source: str, cause: WrpoError) -> None:
        super().__init__(f"{source}: {cause}")
        self.source, self.cause = source, cause


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

    only: name of the one step that is wanted; ConfigError when there is none of that name.
    """
    pipeline = Pipeline(config, checked=require_runnable(config))
    if only is not None:
        pipeline.step(only)
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
    """Work through the steps, or the one called `only` whose inputs must be complete; return their manifests.

    pipeline: of the whole config; sources that turn out to be unusable are left out when the config allows it.
    accept_changes: go on although the config would give other results than the run's last one.
    retry_broken_sources: try the sources again that the run went on without.
    """
    current = usable(pipeline, retry_broken_sources)
    _submit(pipeline, current, lease, accept_changes)
    with _cluster_unless_idle(current, only):
        while True:
            try:
                manifests = _work(current, lease, only)
                break
            except BrokenSourceError as error:
                # One step by name is not the run: whoever asked for it gets its error.
                if only is not None or not may_go_on(pipeline.config, len(current.broken_sources) + 1):
                    raise error.cause from error
                reason = mark_broken(pipeline.layout.broken_sources, error.source, error.cause, lease.epoch)
                current = pipeline.without({**current.broken_sources, error.source: reason})
                _submit(pipeline, current, lease, accept_changes)
    if pipeline.config.export.path and "export" in manifests:
        deliver(current.step("export").folder(current.layout) / "model", pipeline.config.export.path)
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
    record(folder, json.loads(redacted(json.dumps(entry))))


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


def _work(pipeline: Pipeline, lease: Lease | NoLease, only: str | None) -> dict[str, Manifest]:
    selected, versions = pipeline.selected(only), installed()
    manifests: dict[str, Manifest] = {}
    for number, step in enumerate(selected, start=1):
        log.info("[%d/%d] %s", number, len(selected), step.name)
        lease.check()
        try:
            manifests[step.name] = execute(step, pipeline.layout, versions, lease.check)
        except ModelError as error:
            if step.source is None or error.code in _NOT_THE_MODELS_FAULT:
                raise
            raise BrokenSourceError(step.source, error) from error
    return manifests
