"""Studies whose steps are made in an instant: real configs, pipelines, driver, manifests and reuse, without Ray."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wrpo_ray import run as run_module
from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import ModelError
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.preflight import Checked
from wrpo_ray.prompts import load_prompts
from wrpo_ray.scheduling.nodes import Node
from wrpo_ray.steps import Step, StepResult
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.storage.tables import write_file
from wrpo_ray.study import work
from wrpo_ray.study.load import Study
from wrpo_ray.study.sharing import Builder

BEST_ALPHA = 0.3


class Made:
    """What was made: (run, step, fingerprint) of each step in order; `broken`: names of steps that fail, by run."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str, str]] = []
        self.broken: dict[str, str] = {}

    def names(self, run: str) -> list[str]:
        return [step for of_run, step, _ in self.steps if of_run == run]

    def times(self) -> Counter[tuple[str, str]]:
        return Counter((step, fingerprint) for _, step, fingerprint in self.steps)

    def builder(self, study: Study) -> Builder:
        def make(config: FuseConfig, checked: Checked) -> Pipeline:
            return FakePipeline(config, self, checked)

        return Builder(study, make, _check)


class FakePipeline(Pipeline):
    """The steps of a run under their real names and fingerprints; each writes one file and the numbers of its kind."""

    def __init__(self, config: FuseConfig, made: Made, checked: Checked) -> None:
        self.made = made
        super().__init__(config, checked=checked)

    def _build(self) -> None:
        super()._build()
        self.steps = [dataclasses.replace(step, run=self._fake(step), claim=None) for step in self.steps]

    def _fake(self, step: Step) -> Callable[[Location], StepResult]:
        def run(folder: Location) -> StepResult:
            if self.made.broken.get(self.config.run.name) == step.name:
                raise ModelError(f"{step.name} is broken on purpose", code="WRPO-M001", help="mend it")
            self.made.steps.append((self.config.run.name, step.name, step.fingerprint))
            files = [write_file(folder, "data/result.json", json_bytes({"step": step.fingerprint}))]
            files += [write_file(folder, name, content) for name, content in self._numbers(step.name).items()]
            return StepResult(tuple(files), self._summary_of(step.name))

        return run

    def _summary_of(self, name: str) -> dict[str, Any]:
        share = {source: round(1 / len(self.source_names), 4) for source in self.source_names}
        return {"num_prompts": 9, "num_quadruples": 7, "best_share": share} if name == "fuse" else {}

    def _numbers(self, name: str) -> dict[str, bytes]:
        end = self.config.wrpo.alpha.end
        if name == "wrpo":
            lines = [{"step": step, "rewards/accuracies": step / 20, "alpha": end} for step in range(1, 21)]
            return {"metrics.jsonl": b"".join(json.dumps(line).encode() + b"\n" for line in lines)}
        if name == "evaluate":
            reward = 1.0 - (end - BEST_ALPHA) ** 2
            models = [
                {"name": "fused", "num_answers": 4, "mean_reward": reward, "reward_low": 0.1, "reward_high": 1.9,
                 "mean_tokens": 9.0}
            ]  # fmt: skip
            nothing = {"pairs": [], "safety": None, "benchmarks": None}
            return {"evaluation.json": json_bytes({"format": 1, "models": models, **nothing})}
        return {}


def _check(config: FuseConfig) -> Checked:
    heldout = load_prompts(config.evaluation.prompts, True) if config.evaluation else None
    return Checked(load_prompts(config.prompts, True), heldout)


@contextlib.contextmanager
def no_ray(config: object) -> Iterator[None]:
    yield


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs work in this process: one node of many CPUs, and nobody to connect to."""
    monkeypatch.setattr(run_module, "connected", no_ray)
    monkeypatch.setattr(work, "connected", no_ray)
    monkeypatch.setattr(run_module, "require_room", lambda config: None)
    monkeypatch.setattr(run_module, "read_nodes", lambda config, planned: [Node("n", 64.0)])


def write_base(folder: Path, num_sources: int = 10) -> None:
    """Write base.yaml, prompts and a target folder; sources are endpoints, which are identified by their names."""
    (folder / "target").mkdir()
    (folder / "target" / "config.json").write_text("{}")
    for name in ("prompts", "heldout"):
        rows = [{"prompt": f"{name} {number}", "answer": str(number)} for number in range(30)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = "\n".join(
        f"  - {{name: s{number}, type: openai, base_url: https://host/v1, model: m{number}}}"
        for number in range(num_sources)
    )
    (folder / "base.yaml").write_text(f"""
run: {{name: base, root: {folder / "runs"}, lease_timeout_s: 0}}
prompts: {{path: {folder / "prompts.jsonl"}, answer_column: answer}}
sources:
{sources}
target: {{name: t, path: {folder / "target"}}}
reward: {{type: verifier}}
sft: {{learning_rate: 1e-3}}
wrpo: {{learning_rate: 1e-3}}
evaluation: {{prompts: {{path: {folder / "heldout.jsonl"}, answer_column: answer}}}}
ray: {{num_models_ahead: 0}}
""")


def write_study(folder: Path, text: str) -> Path:
    """Write study.yaml over the base of `folder` and return its path."""
    path = folder / "study.yaml"
    path.write_text(f"study: {{name: st, root: {folder / 'runs'}}}\nbase: {folder / 'base.yaml'}\n{text}")
    return path
