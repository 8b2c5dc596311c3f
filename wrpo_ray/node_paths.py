"""Folders of a run that lie on a file system: every node must see them, the same ones, below the same path.

A path of the driver's machine that exists nowhere else would otherwise be found out by an engine on another node, after
hours; a run folder that is another one on each node would be written to by all of them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrpo_ray.config import FuseConfig
from wrpo_ray.config_rules import model_sections
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.storage.location import Location

log = logging.getLogger(__name__)
_CODE = "WRPO-C057"
_FIX = "name an object store (s3://..., gs://...), or a folder that every node mounts below this path"
_MAX_NAMED = 3
# A larger file is known by its size: nobody reads weights to find out whether they are there.
_HASHED_BYTES = 2**20
# A node may have to unpack the job's working directory first.
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class SharedPath:
    """One path, the field of the config that it comes from, and the files that must be the same everywhere."""

    place: str
    folder: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What a node has below some paths, as `marks` tells it."""

    host: str
    marks: tuple[tuple[str | None, ...], ...]


def shared_paths(config: FuseConfig, run_record: Location) -> list[SharedPath]:
    """Return the local paths of a resolved config that other nodes read or write.

    run_record: a file that this very start of the run has written into the run's folder.
    """
    found, record = [*_of_models(config), *_of_tasks(config)], run_record.local_path
    if record is not None:
        found.append(SharedPath("run.root", str(record.parent), (record.name,)))
    return found


def _of_models(config: FuseConfig) -> Iterator[SharedPath]:
    for place, files in model_sections(config):
        if files.path.startswith("/"):
            folder = Path(files.path)
            names = sorted(each.name for each in folder.iterdir() if each.is_file())
            yield SharedPath(f"{place}.path", files.path, tuple(names))
        template = files.chat_template
        if template is not None and template.startswith("/"):
            yield SharedPath(f"{place}.chat_template", str(Path(template).parent), (Path(template).name,))


def _of_tasks(config: FuseConfig) -> Iterator[SharedPath]:
    section = config.evaluation.lm_eval if config.evaluation else None
    if section is not None and section.include_path is not None:
        # Left as it is: in a job it may be relative to the working directory, of which each node has a copy.
        folder = Path(section.include_path).expanduser()
        names = sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())
        yield SharedPath("evaluation.lm_eval.include_path", section.include_path, tuple(names))


def marks(path: SharedPath) -> tuple[str | None, ...]:
    """Return for each file of `path` what tells it from another one here, None for one that is not there."""
    return tuple(_mark(Path(path.folder).expanduser() / name) for name in path.names)


def _mark(file: Path) -> str | None:
    try:
        size = file.stat().st_size
        content = file.read_bytes() if size <= _HASHED_BYTES else b""
    except OSError:
        return None
    return f"{size} {hashlib.sha256(content).hexdigest()}"


def unshared(
    paths: Sequence[SharedPath], here: Sequence[tuple[str | None, ...]], seen: Sequence[Seen]
) -> list[Problem]:
    """Return a problem for each path of which some node has not what is `here`."""
    problems = []
    for index, path in enumerate(paths):
        missing = [node.host for node in seen if all(mark is None for mark in node.marks[index])]
        differing = [node.host for node in seen if node.marks[index] != here[index] and node.host not in missing]
        for hosts, rule in ((missing, "is not there on"), (differing, "holds other files on")):
            if hosts:
                problems.append(Problem(path.place, path.folder, f"the folder {rule} {_named(hosts)}", _FIX, _CODE))
    return problems


def _named(hosts: Sequence[str]) -> str:
    if len(hosts) == 1:
        return f"the node {hosts[0]}"
    more = f" and {len(hosts) - _MAX_NAMED} more" if len(hosts) > _MAX_NAMED else ""
    return f"{len(hosts)} nodes: {', '.join(hosts[:_MAX_NAMED])}{more}"


def require_shared(config: FuseConfig, run_record: Location) -> None:
    """Refuse paths of this machine that other nodes of the cluster would need.

    Nodes without CPUs and GPUs do no work and are not asked, nor are those that join later. Raises ConfigError.
    """
    import ray

    paths = shared_paths(config, run_record)
    own = ray.get_runtime_context().get_node_id()
    others = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if _works(node)}
    others.pop(own, None)
    if not paths or not others:
        return
    here = [marks(path) for path in paths]
    if problems := unshared(paths, here, _asked(paths, others)):
        raise ConfigError.of("the nodes share no file system with this one", problems)


def _works(node: Mapping[str, Any]) -> bool:
    resources = node["Resources"]
    return node["Alive"] and resources.get("CPU", 0) + resources.get("GPU", 0) > 0


def _asked(paths: Sequence[SharedPath], hosts: Mapping[str, str]) -> list[Seen]:
    """Return what the nodes see; who does not answer is named in the log, and its engines will tell."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(_look)
    waiting = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(list(paths)): host
        for node, host in hosts.items()
    }
    ready, late = ray.wait(list(waiting), num_returns=len(waiting), timeout=_TIMEOUT_S)
    seen, silent = [], [waiting[reference] for reference in late]
    for reference in ready:
        try:
            seen.append(Seen(waiting[reference], ray.get(reference)))
        except RayError:
            silent.append(waiting[reference])
    if silent:
        log.warning("whether the run's folders are there is not known of %s", _named(silent))
    return seen


def _look(paths: Sequence[SharedPath]) -> tuple[tuple[str | None, ...], ...]:
    return tuple(marks(path) for path in paths)
