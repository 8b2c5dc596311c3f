"""Works through the steps of a run: one driver at a time, from where the last one stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from wrpo_ray.broken_sources import forget_broken, mark_broken, may_go_on, read_broken
from wrpo_ray.cluster import connected, require_room
from wrpo_ray.config_file import dump_config
from wrpo_ray.errors import ModelError, QuarantineError, WrpoError
from wrpo_ray.export import deliver
from wrpo_ray.interrupts import rearm, stop
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.redaction import redacted
from wrpo_ray.steps import complete, execute
from wrpo_ray.storage.lease import Lease, NoLease, held
from wrpo_ray.storage.leftovers import remove_leftovers
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import Manifest
from wrpo_ray.storage.objects import probe
from wrpo_ray.submissions import last_submission, record, require_same, submission
from wrpo_ray.versions import installed

log = logging.getLogger(__name__)
_LEFTOVER_AGE_S = 3600.0


class BrokenSourceError(Exception):
    """A source model cannot be used, for the reason `cause`."""

    def __init__(self, source: str, cause: WrpoError) -> None:
        super().__init__(f"{source}: {cause}")
        self.source, self.cause = source, cause


def run(
    pipeline: Pipeline, only: str | None = None, accept_changes: bool = False, retry_broken_sources: bool = False
) -> dict[str, Manifest]:
    """Work through the steps, or the one called `only` whose inputs must be complete; return their manifests.

    accept_changes: go on although the config would give other results than the run's last one.
    retry_broken_sources: try the sources again that the run went on without.
    Call it within `interrupts.interruptible`. Raises LeaseError when another driver holds the run, StorageError when
    its folder cannot be used.
    """
    config, layout = pipeline.config, pipeline.layout
    probe(layout.folder)
    with held(layout.leases, config.run.lease_timeout_s, on_lost=stop) as lease:
        # What writers that were killed had not finished; whoever still lives has finished it long since.
        if num_removed := remove_leftovers(layout.folder, older_than_s=_LEFTOVER_AGE_S):
            log.info("%d unfinished files of killed writers removed", num_removed)
        if retry_broken_sources:
            forget_broken(layout.broken_sources)
        manifests = _run_held(pipeline, lease, only, accept_changes or retry_broken_sources)
        if config.export.path and "export" in manifests:
            deliver(locate(str(manifests["export"].summary["model"])), config.export.path)
    return manifests


def _run_held(
    pipeline: Pipeline, lease: Lease | NoLease, only: str | None, accept_changes: bool
) -> dict[str, Manifest]:
    """Work with the sources that are usable; when one more breaks and the config allows it, go on without it."""
    folder = pipeline.layout.broken_sources
    known = read_broken(folder)
    broken = {name: known[name]["error"] for name in pipeline.source_names if name in known}
    current = pipeline.without(broken)
    _submit(current, lease, accept_changes)
    with _cluster_unless_idle(current, only):
        while True:
            try:
                return _work(current, lease, only)
            except BrokenSourceError as error:
                if not may_go_on(pipeline.config, len(broken) + 1):
                    raise error.cause from error
                broken[error.source] = mark_broken(folder, error.source, error.cause, lease.epoch)
                current = pipeline.without(broken)
                # The run itself has changed its list of sources; nobody has to accept that.
                _submit(current, lease, accept_changes=True)


def _submit(pipeline: Pipeline, lease: Lease | NoLease, accept_changes: bool) -> None:
    """Record this start of the run; refuse when it would mix results of two configs."""
    config, folder = pipeline.config, pipeline.layout.submissions
    entry = submission(lease.epoch, json.loads(redacted(dump_config(config))), pipeline.steps, installed())
    if not accept_changes:
        require_same(last_submission(folder), entry, config.run.name)
    record(folder, entry)


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
        except (ModelError, QuarantineError) as error:
            if step.source is None:
                raise
            raise BrokenSourceError(step.source, error) from error
    return manifests
