"""The order of steps, and what changes a fingerprint."""

import json
from pathlib import Path

import pytest

from tests.tiny import chatml_tokenizer, headers_tokenizer, save_llama, save_qwen2
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import parse_config
from wrpo_ray.errors import ConfigError
from wrpo_ray.pipeline import Pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    save_qwen2(folder / "a", chatml_tokenizer())
    save_llama(folder / "t", headers_tokenizer())
    rows = [{"prompt": f"question {number}", "answer": str(number)} for number in range(30)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def config(folder: Path, *overrides: str) -> FuseConfig:
    text = f"""
run: {{name: r, root: {folder / "runs"}}}
prompts: {{path: {folder / "prompts.jsonl"}, answer_column: answer}}
model_defaults: {{engine: {{max_model_len: 128}}, sampling: {{max_tokens: 8}}}}
sources: [{{name: a, path: {folder / "a"}}}]
target: {{name: t, path: {folder / "t"}}}
reward: {{type: verifier}}
sft: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
wrpo: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
"""
    return parse_config(text, "c.yaml", overrides)


def fingerprints(folder: Path, *overrides: str) -> dict[str, str]:
    return {step.name: step.fingerprint for step in Pipeline(config(folder, *overrides)).steps}


def changed(folder: Path, *overrides: str) -> set[str]:
    before, after = fingerprints(folder), fingerprints(folder, *overrides)
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_steps_come_in_reading_order(folder: Path) -> None:
    assert list(fingerprints(folder)) == [
        "prompts",
        "sample-a",
        "score-a",
        "select_sft",
        "sft",
        "sample-target-sft",
        "score-target-sft",
        "fuse",
        "reference",
        "wrpo",
        "export",
    ]


@pytest.mark.parametrize(
    "override",
    [
        "sources.a.resources.num_replicas=4",
        "sources.a.engine.max_num_seqs=8",
        "sft.num_workers=2",
        "wrpo.zero_stage=3",
        "wrpo.log_every_steps=5",
        "wrpo.checkpoint_every_steps=7",
        "wrpo.keep_checkpoints=3",
        "faults.stall_timeout_s=5.0",
        "rows.max_fraction=0.5",
        "run.lease_timeout_s=0",
        "min_sources=1",
    ],
)
def test_how_a_step_is_run_changes_no_fingerprint(folder: Path, override: str) -> None:
    assert changed(folder, override) == set()


def test_what_changes_a_result_changes_the_steps_from_there_on(folder: Path) -> None:
    assert changed(folder, "wrpo.beta=0.1") == {"wrpo", "export"}
    assert changed(folder, "wrpo.alpha.end=0.3") == {"wrpo", "export"}
    # Which rows are left out changes results; whether they count against the budget does not.
    assert changed(folder, "rows.response_empty=quarantine", "rows.reward_not_finite=drop") == set()
    assert "score-a" not in changed(folder, "rows.response_empty=keep")
    assert changed(folder, "rows.response_empty=keep") >= {"select_sft", "fuse"}
    after_sft = {"sft", "sample-target-sft", "score-target-sft", "fuse", "reference", "wrpo", "export"}
    assert changed(folder, "sft.learning_rate=2e-3") == after_sft
    assert changed(folder, "target.sampling.temperature=0.5") == after_sft - {"sft"}
    assert changed(folder, "sources.a.sampling.temperature=0.5") == after_sft | {"sample-a", "score-a", "select_sft"}
    everything = set(fingerprints(folder))
    assert changed(folder, "run.seed=1") == everything - {"prompts"}
    assert changed(folder, "prompts.sft_fraction=0.5") == everything


def test_other_weights_under_the_same_name_change_the_model(folder: Path, tmp_path: Path) -> None:
    first = save_qwen2(tmp_path / "first", chatml_tokenizer(), seed=1)
    second = save_qwen2(tmp_path / "second", chatml_tokenizer(), seed=2)
    assert "sample-a" not in changed(folder, f"sources.a.path={save_qwen2(tmp_path / 'same', chatml_tokenizer())}")
    assert (
        fingerprints(folder, f"sources.a.path={first}")["sample-a"]
        != (fingerprints(folder, f"sources.a.path={second}")["sample-a"])
    )


def test_only_needs_a_known_step_with_complete_inputs(folder: Path) -> None:
    pipeline = Pipeline(config(folder))
    with pytest.raises(ConfigError, match="did you mean `sample-a`"):
        pipeline.step("sample-b")
    with pytest.raises(ConfigError, match="needs fuse, sft first"):
        pipeline.selected("reference")
    assert "sample-a" in pipeline.plan()
