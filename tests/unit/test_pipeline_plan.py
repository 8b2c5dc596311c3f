"""The order of steps, and what changes a fingerprint."""

import dataclasses
from pathlib import Path

import pytest

from tests.tiny import chatml_tokenizer, save_qwen2
from tests.tiny_run import save_tiny_run, tiny_run
from wrpo_ray.claims import Claim
from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import ConfigError
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.steps import StepResult, execute
from wrpo_ray.submissions import record, submission


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_run(tmp_path_factory.mktemp("plan"))


def config(folder: Path, *overrides: str) -> FuseConfig:
    return tiny_run(folder, overrides)


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
        "wrpo.reference_check_tolerance=0.5",
        "wrpo.micro_batch_tokens=777",
        "min_sources=1",
        "ray.allow_open_cluster=true",
        # No prompt here holds any.
        "prompts.control_tokens=drop",
    ],
)
def test_how_a_step_is_run_changes_no_fingerprint(folder: Path, override: str) -> None:
    assert changed(folder, override) == set()


def test_what_changes_a_result_changes_the_steps_from_there_on(folder: Path) -> None:
    assert changed(folder, "wrpo.beta=0.1") == {"wrpo", "export"}
    assert changed(folder, "wrpo.alpha.end=0.3") == {"wrpo", "export"}
    # The reference depends on what it reads and how, never on what is done with it.
    for swept in (
        "objective=dpo",
        "learning_rate=2e-3",
        "global_batch_size=64",
        "num_epochs=2",
        "length_normalized=true",
    ):
        assert changed(folder, f"wrpo.{swept}") == {"wrpo", "export"}
    for read in ("max_length=63", "max_prompt_length=31", "precision=fp32"):
        assert changed(folder, f"wrpo.{read}") == {"reference", "wrpo", "export"}
    drawn = {"sample-target-sft", "score-target-sft", "fuse"}
    assert changed(folder, "wrpo.reference_from_sampler=true") == drawn | {"reference", "wrpo", "export"}
    # Which rows are left out changes results; whether they count against the budget does not.
    assert changed(folder, "rows.response_empty=quarantine", "rows.reward_not_finite=drop") == set()
    assert "score-a" not in changed(folder, "rows.response_empty=keep")
    left_out = changed(folder, "rows.response_control_tokens=drop")
    assert "score-a" not in left_out
    assert left_out >= {"select_sft", "fuse"}
    assert left_out == changed(folder, "rows.response_control_tokens=quarantine")
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


def test_steps_of_another_run_are_read_there_and_change_no_fingerprint(folder: Path) -> None:
    first = Pipeline(config(folder, "run.name=first"))
    done = [step for step in first.steps if step.name in ("prompts", "sample-a")]
    for step in done:
        execute(dataclasses.replace(step, run=lambda _: StepResult((), {})), first.layout, {})
    entry = submission(1, {}, first.steps, {}, layout=first.layout)
    record(first.layout.submissions, entry)
    again = Pipeline(config(folder, "run.reuse=[first]", "wrpo.beta=0.1"))
    assert [step.name for step in again.steps if step.reused_from(again.layout)] == ["prompts", "sample-a"]
    assert again.plan().count("complete (in run first)") == 2
    assert again.selected("score-a")
    assert {step.name for step in again.steps if step.fingerprint not in {one.fingerprint for one in first.steps}} == {
        "wrpo", "export",
    }  # fmt: skip
    # The sources that are left out do not change where the rest lies.
    assert again.without({}).layout == again.layout


def test_a_run_to_reuse_that_is_not_there_is_refused_with_those_that_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run below .* has this name; there are: ") as caught:
        Pipeline(config(folder, "run.reuse=[nope]"))
    assert caught.value.code == "WRPO-C034"


def test_which_log_probs_an_engine_tells_is_not_for_the_config_to_say(folder: Path) -> None:
    with pytest.raises(ConfigError, match="set by the run"):
        config(folder, "target.engine.extra_args={logprobs_mode: processed_logprobs}")


def test_only_needs_a_known_step_with_complete_inputs(folder: Path) -> None:
    pipeline = Pipeline(config(folder))
    with pytest.raises(ConfigError, match="did you mean `sample-a`"):
        pipeline.step("sample-b")
    with pytest.raises(ConfigError, match="needs fuse, sft first"):
        pipeline.selected("reference")
    assert "sample-a" in pipeline.plan()


def test_room_is_kept_for_the_parts_of_joins(folder: Path) -> None:
    claims = {step.name: step.claim for step in Pipeline(config(folder)).steps}
    assert claims["select_sft"] == claims["fuse"] == Claim(num_cpus=0.5)


def test_what_came_later_is_in_no_fingerprint_where_it_changes_nothing(folder: Path) -> None:
    """Runs that began before it was there go on: the identity is what it was."""
    steps = {step.name: step for step in Pipeline(config(folder)).steps}
    kept = ["response_cut", "responses_identical"]
    assert steps["select_sft"].identity == {"source_order": ["a"], "kept": kept}
    assert steps["fuse"].identity == {"source_order": ["a"], "kept": kept}
