"""A synthetic run: real records, manifests and Parquet files, with numbers from a formula and texts made up here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wrpo_ray.errors import ModelError
from wrpo_ray.evaluate.expected_reward import Estimate
from wrpo_ray.failures import note_failure
from wrpo_ray.schema import Prompt, Quadruple, ScoredResponse, prompt_id
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.location import Location, json_bytes, locate
from wrpo_ray.storage.manifest import FileEntry, RunLayout
from wrpo_ray.storage.tables import concatenated, write_file, write_rows
from wrpo_ray.submissions import record, submission

SOURCES = ("synthetic-gemma", "synthetic-mistral", "synthetic-qwen", "synthetic-phi")
# Mean reward of each source, then of Target-SFT.
SKILL = (0.6, 0.2, 0.9, -0.2)
TARGET_SKILL = 0.1
NUM_SAMPLES = 3
HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2"> & <b>bold</b>'


@dataclass
class SyntheticRun:
    """prompts -> score-* -> select_sft -> sft -> score-target-sft -> fuse -> wrpo -> evaluate -> export, no models.

    hostile: a text that is put into prompts, responses and errors. num_steps: optimizer steps of preference training.
    """

    folder: Location
    num_prompts: int = 120
    num_steps: int = 400
    sources: Sequence[str] = SOURCES
    hostile: str = HOSTILE
    seed: int = 0
    alpha: float = 0.1
    evaluation: dict[str, Any] | None = None
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layout = RunLayout(self.folder)
        prompts = self._add("prompts", self._prompts)
        scores = []
        for source in self.sources:
            sample = self._add(f"sample-{source}", self._sampled, (prompts,), source)
            scores.append(self._add(f"score-{source}", lambda at, name=source: self._scored(at, name), (sample,)))
        select = self._add("select_sft", self._selected, scores)
        sft = self._add("sft", lambda folder: self._trained(folder, "sft"), (select,))
        target = self._add("score-target-sft", lambda folder: self._scored(folder, "target-sft"), (sft,))
        fuse = self._add("fuse", self._fused, (*scores, target))
        wrpo = self._add("wrpo", lambda folder: self._trained(folder, "wrpo"), (fuse, sft))
        answers = self._add("evaluation-score", self._answered, (wrpo,))
        evaluate = self._add("evaluate", self._evaluated, (answers,))
        self._add("export", lambda folder: StepResult((), {}), (evaluate,))

    def _add(
        self, name: str, run: Callable[[Location], StepResult], inputs: Sequence[Step] = (), source: str | None = None
    ) -> Step:
        step = Step(
            name, {"synthetic": True, "seed": self.seed, "alpha": self.alpha}, tuple(inputs), run, source=source
        )
        self.steps.append(step)
        return step

    def step(self, name: str) -> Step:
        """Return a step by name."""
        return next(step for step in self.steps if step.name == name)

    def submit(self) -> None:
        """Record a start, with a plan and a price list."""
        entry = submission(1, self.config(), self.steps, {"ray": "2.60.0", "torch": "2.13.0"})
        entry["plan"] = {
            "stages": [self._stage(step.name) for step in self.steps if step.name.split("-")[0] in PLANNED]
        }
        record(self.layout.submissions, entry)

    def config(self) -> dict[str, Any]:
        """Return what stands for the config."""
        return {
            "run": {"name": self.folder.name, "seed": self.seed},
            "sources": [{"name": name} for name in self.sources],
            "target": {"name": "synthetic-llama"},
            "wrpo": {"alpha": {"end": self.alpha}, "beta": 0.01},
            "evaluation": {"prompts": {"path": "heldout.jsonl"}},
            "prices": {"currency": "EUR", "per_hour": {"H100": 2.5}, "per_million_tokens": {}},
        }

    @staticmethod
    def _stage(step: str) -> dict[str, Any]:
        return {
            "step": step, "seconds": 12.0, "responses": 360.0, "output_tokens": 60_000.0, "accelerator": "H100",
            "replicas": 2, "gpus_per_replica": 4, "endpoint": None, "input_tokens": 20_000.0,
        }  # fmt: skip

    def run(self, until: str = "export", submitted: bool = True) -> SyntheticRun:
        """Make the steps up to `until`."""
        if submitted:
            self.submit()
        for step in self.steps:
            execute(step, self.layout, {"ray": "2.60.0"})
            if step.name == until:
                break
        return self

    def fail(self, name: str, message: str) -> SyntheticRun:
        """Note that a step failed."""
        error = ModelError(message, code="WRPO-T004", help="look at these rows")
        note_failure(self.folder, name, self.step(name).fingerprint, error, 1)
        return self

    def half_trained(self, num_lines: int) -> SyntheticRun:
        """Leave training under way: some lines of metrics, the last one half written."""
        folder = self.step("wrpo").folder(self.layout)
        (folder / "progress.json").write_json({"num_steps": self.num_steps})
        lines = "".join(self._lines("wrpo")[:num_lines])
        (folder / "metrics.jsonl").write_bytes(lines.encode() + b'{"step": 99')
        return self

    def messages(self, number: int) -> list[dict[str, str]]:
        """Return prompt `number`."""
        return [
            {"role": "system", "content": "You are a synthetic assistant."},
            {"role": "user", "content": f"Synthetic question {number}: why is the sky blue? {self.hostile}"},
        ]

    def reward(self, number: int, model: str, sample: int) -> float:
        """Return a reward: the model's skill and noise that depends on what it is for alone."""
        skill = SKILL[self.sources.index(model) % len(SKILL)] if model in self.sources else TARGET_SKILL
        position = self.sources.index(model) if model in self.sources else 50
        noise = np.random.default_rng((self.seed, number, position, sample)).normal()
        return round(float(skill + 0.8 * noise), 3)

    def _prompts(self, folder: Location) -> StepResult:
        rows = [Prompt(prompt_id(m := self.messages(each)), m, "preference", None) for each in range(self.num_prompts)]
        entry = write_rows(folder, "data/prompts.parquet", sorted(rows, key=lambda row: row.prompt_id), Prompt)
        return StepResult((entry,), {"num_prompts": len(rows), "num_duplicates": 7})

    def _sampled(self, folder: Location) -> StepResult:
        line = json.dumps({"item": "prompt-3", "code": "prompt_too_long", "attempts": 0, "error": self.hostile}) + "\n"
        entry = write_file(folder, "quarantine/prompt_too_long.jsonl", line.encode())
        summary = {"num_prompts": self.num_prompts, "num_tokens": 52_000, "num_responses": self.num_prompts * 3}
        return StepResult((entry,), summary | {"quarantined": {"prompt_too_long": 1}})

    def responses(self, model: str) -> list[ScoredResponse]:
        """Return all scored responses of a model; one of them has no finite reward."""
        rows = []
        for number in range(self.num_prompts):
            key = prompt_id(self.messages(number))
            for sample in range(NUM_SAMPLES):
                reward = math.nan if (number, sample) == (0, 0) else self.reward(number, model, sample)
                length = 40 + (number * 37 + sample * 11 + len(model) * 5) % 400
                text = f"Answer {sample} of {model} to question {number}. {self.hostile}"
                rows.append(ScoredResponse(key, model, sample, text, "stop", length, reward))
        return rows

    def _scored(self, folder: Location, model: str) -> StepResult:
        rows = self.responses(model)
        half = len(rows) // 2
        files = (
            write_rows(folder, "data/part-0.parquet", rows[:half], ScoredResponse),
            write_rows(folder, "data/part-1.parquet", rows[half:], ScoredResponse),
        )
        return StepResult(files, {"num_responses": len(rows), "num_not_finite": 1, "quarantined": {}})

    def quadruples(self) -> list[Quadruple]:
        """Return all quadruples: the best finite reward of the sources, and the target's best and worst."""
        return [self._quadruple(number) for number in range(1, self.num_prompts)]

    def _quadruple(self, number: int) -> Quadruple:
        drawn = [
            (self.reward(number, name, each), name, each) for name in self.sources for each in range(NUM_SAMPLES)
        ]  # fmt: skip
        best, source, sample = max(drawn)
        own = sorted(self.reward(number, "target-sft", each) for each in range(NUM_SAMPLES))
        texts = [f"Answer {sample} of {source}. {self.hostile}\n" + "It scatters. " * (number % 60)]
        texts += [f"The target's {which} answer to {number}. {self.hostile}" for which in ("best", "worst")]
        messages = self.messages(number)
        return Quadruple(prompt_id(messages), messages, *texts, source, best, own[-1], own[0], "stop", "length", "stop")

    def _shares(self) -> dict[str, float]:
        rows = self.quadruples()
        return {name: round(sum(row.source == name for row in rows) / len(rows), 4) for name in self.sources}

    def _selected(self, folder: Location) -> StepResult:
        return StepResult((), {"num_examples": 60, "best_share": self._shares(), "rows": {"response_cut": 12}})

    def _fused(self, folder: Location) -> StepResult:
        rows = self.quadruples()
        entry = write_rows(folder, "data/train-00000.parquet", rows, Quadruple)
        summary = {
            "num_prompts": self.num_prompts + 9, "num_quadruples": len(rows), "num_without_source_response": 0,
            "num_fewer_than_two_target_responses": 1, "num_target_responses_tie": 7,
            "num_source_response_is_rejected": 2, "best_share": self._shares(), "rows": {"response_empty": 3},
        }  # fmt: skip
        return StepResult((entry,), summary)

    def _lines(self, kind: str) -> list[str]:
        lines = []
        for step in range(1, (self.num_steps if kind == "wrpo" else 30) + 1):
            done = step / self.num_steps
            wave = 0.02 * math.sin(step)
            metrics = {"step": step, "loss": 0.69 - 0.2 * done + wave, "grad_norm": 1.5 + 4 * wave, "num_tokens": 4096}
            if kind == "wrpo":
                ws, wt, rejected = 0.1 * done + wave, 0.25 * done - wave, -0.4 * done + wave
                chosen = self.alpha * done * ws + (1 - self.alpha * done) * wt
                metrics |= {
                    "alpha": self.alpha * done, "rewards/source_chosen": ws, "rewards/target_chosen": wt,
                    "rewards/rejected": rejected, "rewards/chosen": chosen, "rewards/margins": chosen - rejected,
                    "rewards/accuracies": 0.5 + 0.35 * done + wave,
                    "rewards/accuracies_source": 0.5 + 0.2 * done - wave,
                }  # fmt: skip
            lines.append(json.dumps(metrics) + "\n")
        return lines

    def _trained(self, folder: Location, kind: str) -> StepResult:
        entry: FileEntry = concatenated(folder, "metrics.jsonl", [line.encode() for line in self._lines(kind)])
        return StepResult((entry,), {"num_steps": self.num_steps, "loss": 0.5, "grad_norm": 1.5})

    def _answered(self, folder: Location) -> StepResult:
        models = {"synthetic-llama": 80, "target-sft": 120, "fused": 150}
        rows = [
            ScoredResponse(f"{number:032x}", model, 0, "an answer", "stop", length + number % 40, 0.5)
            for model, length in models.items()
            for number in range(50)
        ]
        return StepResult((write_rows(folder, "data/answers.parquet", rows, ScoredResponse),), {"num_responses": 150})

    def _evaluated(self, folder: Location) -> StepResult:
        files = (write_file(folder, "evaluation.json", json_bytes(self.evaluation)),) if self.evaluation else ()
        means = {"synthetic-llama": 0.12, "target-sft": 0.36, "fused": 0.43}
        shown: dict[str, Any] = {
            name: {"reward": vars(Estimate(mean, mean - 0.03, mean + 0.03))} for name, mean in means.items()
        }
        shown["fused"]["gain"] = vars(Estimate(0.07, 0.04, 0.1))
        return StepResult(files, {"models": shown, "num_prompts": 50, "num_prompts_left_out": 0})


PLANNED = ("sample", "score", "sft", "fuse", "wrpo")


def finished(folder: Path, **settings: Any) -> SyntheticRun:
    """Return a finished synthetic run in `folder`."""
    return SyntheticRun(locate(folder), **settings).run()


def evaluation_by_contract() -> dict[str, Any]:
    """Return an evaluation.json of format 1 with made-up numbers."""

    def pair(baseline: str, judge: str, rate: float) -> dict[str, Any]:
        return {
            "model": "fused", "baseline": baseline, "judged_by": judge, "num_prompts": 200, "wins": 110, "ties": 20,
            "losses": 70, "win_rate": rate, "low": rate - 0.06, "high": rate + 0.06,
            "length_controlled_win_rate": rate - 0.02, "length_controlled_low": rate - 0.09,
            "length_controlled_high": rate + 0.05, "position_bias": 0.03 if judge == "judge" else None,
            "num_undecided": 4, "p_value": 0.01, "p_value_corrected": 0.06,
            "words": f"Synthetic: fused is better than {baseline} by the {judge}.",
        }  # fmt: skip

    measured = (("synthetic-llama", 98.5, 0.12), ("target-sft", 139.0, 0.36), ("fused", 171.25, 0.43))
    models = [
        {"name": name, "num_answers": 200, "mean_tokens": tokens, "mean_reward": reward, "reward_low": reward - 0.04,
         "reward_high": reward + 0.04}
        for name, tokens, reward in measured
    ]  # fmt: skip
    return {
        "format": 1,
        "models": models,
        "pairs": [pair(name, judge, rate) for name, rate in (("target-sft", 0.6), ("synthetic-llama", 0.8))
                  for judge in ("reward", "verifier", "judge")],
        "safety": {
            "num_prompts": 100,
            "models": [
                {"name": "target-sft", "refusal_rate": 0.91, "low": 0.84, "high": 0.95},
                {"name": "fused", "refusal_rate": 0.88, "low": 0.8, "high": 0.93},
            ],
            "words": "Synthetic: no change in refusals can be told.",
        },
        "benchmarks": [{"model": "fused", "task": "gsm8k", "metric": "exact_match", "value": 0.512, "stderr": 0.014}],
    }  # fmt: skip
