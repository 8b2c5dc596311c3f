"""Steps of runs that leave a part of the method out (config section `ablation`)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wrpo_ray.config import ModelConfig
from wrpo_ray.data.model_files import NOT_LOADED
from wrpo_ray.models import model_identity, on_node, tokenizer_of
from wrpo_ray.selection import SourceChoice
from wrpo_ray.steps import Step, StepResult
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry

_SCRATCH = "scratch"


def choice_identity(choice: SourceChoice) -> dict[str, Any]:
    """Return what a step's identity says of its choice of source responses: nothing of the method's own."""
    rank = {} if choice.rank == 1 else {"source_rank": choice.rank}
    return rank | ({"source_rejected": True} if choice.may_be_rejected else {})


def untrained_target(target: ModelConfig) -> Step:
    """Return the step `sft` of a run without SFT: its model is a copy of the target.

    A copy, so that every later step, and whoever reads the run, finds Target-SFT where it always lies; its fingerprint
    is that of the target's files alone, so all such runs share one.
    """

    def run(folder: Location) -> StepResult:
        with _files_of(target, folder) as source:
            files = [_stored(path, folder, source) for path in sorted(source.rglob("*")) if path.is_file()]
        return StepResult(tuple(files), {"trained": False})

    return Step("sft", {"target": model_identity(target), "trained": False}, (), run, (_SCRATCH,))


def _stored(path: Path, folder: Location, source: Path) -> FileEntry:
    name = f"model/{path.relative_to(source).as_posix()}"
    stored = (folder / name).upload(path)
    return FileEntry(name, stored.num_bytes, stored.sha256, None)


@contextmanager
def _files_of(target: ModelConfig, folder: Location) -> Iterator[Path]:
    """Yield a folder with copies of the target's files; a chat template of the config is part of its tokenizer there.

    Copies: a store on the same file system would take the user's own files by a second name.
    """
    beside = (folder / _SCRATCH).local_path
    if beside is not None:
        beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wrpo-target-", dir=beside) as temporary:
        copy = Path(temporary) / "model"
        shutil.copytree(on_node(target).path, copy, ignore=shutil.ignore_patterns(".*", "original", *NOT_LOADED))
        if target.chat_template is not None:
            tokenizer_of(target).save_pretrained(copy)
        yield copy
