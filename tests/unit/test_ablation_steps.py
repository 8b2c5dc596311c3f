"""Ablations: each changes the steps that it is about, and nothing when it is off."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import chatml_tokenizer
from tests.tiny_run import save_tiny_run, tiny_run
from wrpo_ray.ablation_steps import untrained_target
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import ModelConfig
from wrpo_ray.models import load_tokenizer
from wrpo_ray.pipeline import Pipeline
from wrpo_ray.planning.plan import plan_run
from wrpo_ray.steps import execute
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import RunLayout

AFTER_SFT = {"sample-target-sft", "score-target-sft", "fuse", "reference", "wrpo", "export"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_run(tmp_path_factory.mktemp("ablation"))


def pipeline(folder: Path, *overrides: str) -> Pipeline:
    return Pipeline(tiny_run(folder, overrides))


def fingerprints(folder: Path, *overrides: str) -> dict[str, str]:
    return {step.name: step.fingerprint for step in pipeline(folder, *overrides).steps}


def changed(folder: Path, *overrides: str) -> set[str]:
    before, after = fingerprints(folder), fingerprints(folder, *overrides)
    return {name for name in after if before[name] != after[name]}


def test_the_defaults_written_out_change_nothing(folder: Path) -> None:
    assert (
        changed(folder, "ablation={source_rank: 1, sft_source_rank: 1, source_rejected: false, skip_sft: false}")
        == set()
    )


def test_a_rank_is_for_its_own_part_of_the_prompts(folder: Path) -> None:
    assert changed(folder, "ablation.source_rank=2") == {"fuse", "reference", "wrpo", "export"}
    assert changed(folder, "ablation.source_rejected=true") == {"fuse", "reference", "wrpo", "export"}
    assert changed(folder, "ablation.sft_source_rank=2") == {"select_sft", "sft", *AFTER_SFT}


def test_without_sft_its_step_depends_on_the_target_alone(folder: Path) -> None:
    plain, without = fingerprints(folder), fingerprints(folder, "ablation.skip_sft=true")
    assert list(without) == [name for name in plain if name != "select_sft"]
    assert changed(folder, "ablation.skip_sft=true") == {"sft", *AFTER_SFT}
    # Sources, prompts and the training's settings are nothing to it.
    other = fingerprints(folder, "ablation.skip_sft=true", "sft.learning_rate=2e-3", "prompts.sft_fraction=0.5")
    assert other["sft"] == without["sft"]


def test_without_y_ws_or_y_wt_only_training_differs(folder: Path) -> None:
    assert changed(folder, "wrpo.objective=dpo") == {"wrpo", "export"}
    assert changed(folder, "wrpo.alpha={schedule: constant, end: 1.0}") == {"wrpo", "export"}


def test_the_target_is_copied_with_its_template_and_left_alone(folder: Path, tmp_path: Path) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(
        chatml_tokenizer().chat_template.replace("<|im_start|>", "<|head|>").replace("<|im_end|>", "<|eot|>")
    )
    before = {path.name: path.read_bytes() for path in (folder / "t").iterdir()}
    for given in (None, str(template)):
        target = ModelConfig(name="t", path=str(folder / "t"), chat_template=given)
        step, layout = untrained_target(target), RunLayout(locate(tmp_path / "r"))
        manifest = execute(step, layout, {})
        model = step.folder(layout) / "model"
        assert {entry.path for entry in manifest.files} >= {"model/config.json", "model/model.safetensors"}
        assert manifest.summary == {"trained": False}
        assert not (step.folder(layout) / "scratch").walk()
        own, copied = load_tokenizer(target.path, chat_template=given), load_tokenizer(str(model))
        messages = [{"role": "user", "content": "How many?"}]
        assert ChatTokenizer(copied).encode_prompt(messages) == ChatTokenizer(own).encode_prompt(messages)
        # What an editor does to the copy is nothing to the target.
        weights = Path(str(model)) / "model.safetensors"
        assert weights.stat().st_ino != (folder / "t" / "model.safetensors").stat().st_ino
    assert {path.name: path.read_bytes() for path in (folder / "t").iterdir()} == before


def test_the_plan_knows_that_there_is_no_sft(folder: Path) -> None:
    planned = plan_run(pipeline(folder, "ablation.skip_sft=true").config)
    assert "sft" not in {stage.stage.step for stage in planned.stages}
    assert planned.seconds < plan_run(pipeline(folder).config).seconds
