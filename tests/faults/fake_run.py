"""A run with fake engines, in a module of its own: workers load its functions by name."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.faults.fake_engine import FakeGenerator, FakeScorer
from wrpo_ray.config import FuseConfig, ModelConfig
from wrpo_ray.pipeline import Engines, Pipeline
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry


def fake_sft(config: FuseConfig, model_path: str, examples: Location, folder: Location) -> StepResult:
    """Give the target back as it was."""
    files = []
    for path in sorted(Path(model_path).iterdir()):
        name = f"model/{path.name}"
        stored = (folder / name).upload(path)
        files.append(FileEntry(name, stored.num_bytes, stored.sha256, None))
    return StepResult(tuple(files), {})


class UpToQuadruples(Pipeline):
    """The steps of a run until the quadruples are there."""

    def _build(self) -> None:
        super()._build()
        names = [step.name for step in self.steps]
        self.steps = self.steps[: names.index("fuse") + 1]


def engines(folder: str) -> Engines:
    """Return fakes that take their faults from `folder`/<engine> and log there."""
    return Engines(
        functools.partial(make_generator, folder), functools.partial(FakeScorer, f"{folder}/reward"), fake_sft
    )


def make_generator(
    folder: str, model: ModelConfig, run_seed: int, identity: str, with_logps: bool = False
) -> FakeGenerator:
    """Each model has its own faults."""
    return FakeGenerator(f"{folder}/{model.name}", model, run_seed, identity, with_logps)
