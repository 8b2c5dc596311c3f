"""A run that draws a part of the grid, from prompts to quadruples: real driver code and Ray, engines are fakes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.fake_engine import FaultFolder
from tests.faults.fake_run import UpToQuadruples, engines
from tests.tiny import chatml_tokenizer, save_llama
from wrpo_ray.allocation.slices import slices_of
from wrpo_ray.config_file import parse_config
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.schema import Quadruple, Response, ScoredResponse
from wrpo_ray.steps import execute
from wrpo_ray.storage.manifest import Manifest
from wrpo_ray.storage.tables import read_rows

NUM_PROMPTS, SAMPLES = 120, 3


def pipeline(folder: Path) -> Pipeline:
    text = f"""
run: {{name: r, root: {folder / "runs"}, lease_timeout_s: 0}}
prompts: {{path: {folder / "prompts.jsonl"}, answer_column: answer}}
model_defaults:
  engine: {{max_model_len: 128}}
  sampling: {{max_tokens: 8, num_samples: {SAMPLES}}}
  resources: {{prompts_per_shard: 64}}
sources: [{{name: a, path: {folder / "a"}}}, {{name: b, path: {folder / "b"}}}]
target: {{name: t, path: {folder / "t"}}}
reward: {{type: verifier}}
sft: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
wrpo: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
sampling: {{allocation: {{pilot_fraction: 0.25, audit_fraction: 0.25, max_cost_share: 0.8}}}}
"""
    return UpToQuadruples(parse_config(text, "c.yaml", ()), engines(str(folder / "faults")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("allocated")
    for number, name in enumerate(("a", "b", "t")):
        save_llama(folder / name, chatml_tokenizer(), seed=number)
    rows = [{"prompt": f"question {number}", "answer": str(number)} for number in range(NUM_PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run_all(of_run: Pipeline) -> dict[str, Manifest]:
    return {step.name: execute(step, of_run.layout, {}) for step in of_run.steps}


def responses(of_run: Pipeline, source: str) -> list[Response]:
    steps = (of_run.step(f"{prefix}sample-{source}") for prefix in ("first-", ""))
    return [row for step in steps for row in read_rows(step.folder(of_run.layout), Response)]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_part_of_the_grid_is_drawn_by_two_loads_of_each_source(folder: Path) -> None:
    of_run = pipeline(folder)
    ids = list(of_run.checked.prompts.prompts.ids())
    refused = ids[7]
    FaultFolder(folder / "faults" / "a").plan(refused, "too_long")
    manifests = run_all(of_run)
    slices = slices_of(ids, 0.25, 0.25, of_run.config.run.seed)
    summary = manifests["allocate"].summary
    drawn = {source: responses(of_run, source) for source in ("a", "b")}
    for source, rows in drawn.items():
        assert len(FaultFolder(folder / "faults" / source).events("start")) == 2
        counts = Counter(row.prompt_id for row in rows)
        assert len({(row.prompt_id, row.sample_index) for row in rows}) == len(rows)
        for prompt_id, in_full in zip(ids, slices.full, strict=True):
            lowest = 0 if (source, prompt_id) == ("a", refused) else SAMPLES if in_full else 1
            assert lowest <= counts[prompt_id] <= SAMPLES
    # The first load's plan counts the refused prompt, which gave nothing.
    assert sum(summary["num_requested"].values()) - sum(map(len, drawn.values())) in (1, SAMPLES)
    assert 0.6 < summary["request_share"] < 0.85
    assert summary["audit"]["num_prompts"] == slices.audit.sum()
    best_drawn_is_fused(of_run)
    the_same_as_in_the_full_grid(of_run, folder, drawn["b"])
    nothing_is_done_again(folder, of_run)


def best_drawn_is_fused(of_run: Pipeline) -> None:
    names = [f"{prefix}score-{source}" for prefix in ("first-", "") for source in ("a", "b")]
    best: dict[str, float] = {}
    for name in names:
        for row in read_rows(of_run.step(name).folder(of_run.layout), ScoredResponse):
            best[row.prompt_id] = max(row.reward, best.get(row.prompt_id, -1.0))
    quadruples = read_rows(of_run.step("fuse").folder(of_run.layout), Quadruple)
    assert len(quadruples) > 50
    assert all(row.source_chosen_reward == best[row.prompt_id] for row in quadruples)


def the_same_as_in_the_full_grid(of_run: Pipeline, folder: Path, drawn: list[Response]) -> None:
    """A sample is what it would have been, had all been drawn."""
    plain = Pipeline(of_run.config.model_copy(update={"sampling": type(of_run.config.sampling)()}), of_run.engines)
    step = plain.step("sample-b")
    execute(plain.step("prompts"), plain.layout, {})
    execute(step, plain.layout, {})
    full = {(row.prompt_id, row.sample_index): row for row in read_rows(step.folder(plain.layout), Response)}
    assert len(full) == NUM_PROMPTS * SAMPLES > len(drawn)
    assert all(full[row.prompt_id, row.sample_index] == row for row in drawn)


def nothing_is_done_again(folder: Path, of_run: Pipeline) -> None:
    """Without its decision a run decides the same again, and what was drawn for it holds."""
    before = len(FaultFolder(folder / "faults" / "a").events("start"))
    decided = of_run.step("allocate").folder(of_run.layout)
    decided.delete_folder()
    again = pipeline(folder)
    run_all(again)
    assert len(FaultFolder(folder / "faults" / "a").events("start")) == before
    assert responses(again, "a") == responses(of_run, "a")
