"""Every check of models and prompts before a run: one broken thing each, and several together."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from tests.tiny import CHATML, chatml_tokenizer, headers_tokenizer, save_classifier, save_llama
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import parse_config
from wrpo_ray.errors import ConfigError, DataError, Problem, render
from wrpo_ray.preflight import check_run, require_runnable

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source, a target and a reward model, with prompts for training and evaluation."""
    folder = tmp_path_factory.mktemp("originals")
    tokenizer = chatml_tokenizer()
    save_llama(folder / "source", headers_tokenizer())
    save_llama(folder / "target", tokenizer)
    save_classifier(folder / "reward", tokenizer)
    for name in ("train", "held-out"):
        rows = [{"prompt": f"{name}: what is {number}?", "answer": str(number)} for number in range(20)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Path:
    return shutil.copytree(originals, tmp_path / "models")


def config_of(folder: Path, *overrides: str) -> FuseConfig:
    lengths = "max_length: 200, max_prompt_length: 100"
    text = f"""
run: {{name: tiny}}
model_defaults: {{engine: {{max_model_len: 256}}, sampling: {{max_tokens: 64}}}}
prompts: {{path: "{folder}/train.jsonl"}}
sources: [{{name: source, path: "{folder}/source"}}]
target: {{name: target, path: "{folder}/target"}}
reward: {{type: vllm, path: "{folder}/reward", engine: {{max_model_len: 256}}}}
sft: {{learning_rate: 1e-5, {lengths}}}
wrpo: {{learning_rate: 1e-6, {lengths}}}
evaluation: {{prompts: {{path: "{folder}/held-out.jsonl"}}, sampling: {{max_tokens: 64}}}}
"""
    return parse_config(text, "fuse.yaml", overrides)


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def found(folder: Path, *overrides: str) -> Problem:
    (problem,) = check_run(config_of(folder, *overrides))
    return problem


def test_sound_run_has_no_problems(folder: Path) -> None:
    require_runnable(config_of(folder))


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text) and None


def rename(name: str, new: str) -> Change:
    return lambda folder: (folder / name).rename(folder / new) and None


def set_json(name: str, **values: Any) -> Change:
    return lambda folder: edit_json(folder / name, **values)


ROPE = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}


@pytest.mark.parametrize(
    ("change", "place", "rule"),
    [
        (lambda f: shutil.rmtree(f / "source"), "sources.source.path", "no such folder"),
        (remove("target/config.json"), "target.path", "no config.json"),
        (write("target/config.json", "{"), "target.path", "config.json cannot be read"),
        (write("target/config.json", "[]"), "target.path", "config.json must hold an object"),
        (write("target/config.json", "[" * 100_000), "target.path", "config.json cannot be read"),
        (set_json("target/config.json", auto_map=5), "target.path", "auto_map in config.json must be an object"),
        (set_json("reward/config.json", auto_map=[1]), "reward.path", "auto_map in config.json must be an object"),
        (set_json("source/config.json", model_type=["llama"], auto_map={"AutoConfig": "a.B"}), "sources.source.path",
         "model_type in config.json must be text"),
        (write("source/model.safetensors.index.json", "[" * 100_000), "sources.source.path", "index of the weights"),
        (remove("source/model.safetensors"), "sources.source.path", "no weights"),
        (rename("source/model.safetensors", "source/pytorch_model.bin"), "sources.source.path", "is a pickle"),
        (rename("source/model.safetensors", "source/model.gguf"), "sources.source.path", "not GGUF"),
        (write("source/model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}'),
         "sources.source.path", "1 of 1 files of weights are missing, the first is b.safetensors"),
        (write("source/model.safetensors.index.json", "{}"), "sources.source.path", "index of the weights"),
        (set_json("reward/config.json", auto_map={"AutoModelForSequenceClassification": "m.M"}),
         "reward.trust_remote_code", "code of its own"),
        (set_json("target/config.json", max_position_embeddings=128, text_config=None), "target.engine.max_model_len",
         "128 positions"),
        (remove("source/chat_template.jinja"), "sources.source.chat_template", "no chat template"),
        (write("source/chat_template.jinja", "{% for %}"), "sources.source.path", "not valid Jinja, line 1"),
        (write("source/chat_template.jinja", "{{ raise_exception('no') }}"), "sources.source.chat_template",
         "fails on a plain conversation"),
        (write("source/chat_template.jinja", "{{ bos_token }}{{ bos_token }}{{ messages[0]['content'] }}"),
         "sources.source.chat_template", "two BOS"),
        (write("source/tokenizer.json", "{"), "sources.source.path", "tokenizer cannot be loaded"),
        (set_json("reward/config.json", architectures=["LlamaForCausalLM"]), "reward.path", "sequence classifier"),
        (set_json("reward/config.json", id2label={"0": "a", "1": "b"}), "reward.path", "this classifier has 2"),
        (set_json("source/config.json", architectures=["LlamaForSequenceClassification"]), "sources.source.path",
         "must be a language model"),
        (set_json("target/config.json", architectures=["CLIPModel"]), "target.path", "must be a language model"),
        (set_json("source/config.json", vocab_size=64), "sources.source.path", "embeddings for 64 tokens"),
        (set_json("target/config.json", vocab_size=64), "target.path", "embeddings for 64 tokens"),
        (set_json("reward/config.json", vocab_size=64), "reward.path", "embeddings for 64 tokens"),
        (write("train.jsonl", '{"prompt": ""}\n'), "train.jsonl, row 1", "the prompt is empty"),
        (write("held-out.jsonl", "[]\n"), "held-out.jsonl, row 1", "JSON object"),
    ],
)  # fmt: skip
def test_one_broken_thing_is_one_problem(folder: Path, change: Change, place: str, rule: str) -> None:
    change(folder)
    problems = check_run(config_of(folder))
    # A model with fewer positions breaks each length that it is asked for.
    assert problems
    assert place in problems[0].place
    assert rule in problems[0].rule
    assert len(problems) == (3 if "positions" in rule else 1)


@pytest.mark.parametrize(
    ("override", "place", "rule"),
    [
        ("target.chat_template=/no/template.jinja", "target.chat_template", "template file cannot be read"),
        ("sources.0.engine.max_model_len=257", "sources.source.engine.max_model_len", "256 positions"),
        ("reward.engine.max_model_len=257", "reward.engine.max_model_len", "256 positions"),
        ("sft.max_length=257", "sft.max_length", "256 positions"),
        ("wrpo.max_length=257", "wrpo.max_length", "256 positions"),
        ("wrpo.max_prompt_length=2", "wrpo.max_prompt_length", "every prompt of its part is longer"),
        ("prompts.sft_fraction=1e-9", "prompts", "no prompt falls into the sft part"),
    ],
)
def test_wrong_setting_is_one_problem(folder: Path, override: str, place: str, rule: str) -> None:
    problem = found(folder, override)
    assert problem.place == place
    assert rule in problem.rule


def test_what_was_read_is_returned(folder: Path) -> None:
    checked = require_runnable(config_of(folder))
    assert checked.evaluation_prompts is not None
    assert (len(checked.prompts.prompts), len(checked.evaluation_prompts.prompts)) == (20, 20)
    assert require_runnable(config_of(folder, "evaluation=null")).evaluation_prompts is None


def test_model_without_chat_template_is_told_before_anything_starts(folder: Path) -> None:
    """P-12, letter by letter."""
    (folder / "source/chat_template.jinja").unlink()
    with pytest.raises(ConfigError) as caught:
        require_runnable(config_of(folder))
    assert render(caught.value) == (
        f"error[WRPO-M004]: {folder}/source has no chat template (tokenizer_config.json, chat_template.jinja: not"
        " found)\n"
        "  --> sources.source.chat_template\n"
        "   = value: null\n"
        "help: set `sources.source.chat_template: path/to/template.jinja`, or choose an instruct model"
    )
    assert caught.value.exit_code == 2


def test_more_embeddings_than_tokens_are_no_problem(folder: Path) -> None:
    for name in ("source", "target", "reward"):
        edit_json(folder / name / "config.json", vocab_size=512)
    require_runnable(config_of(folder))


def test_token_that_was_added_and_is_never_used_is_no_problem(folder: Path) -> None:
    tokenizer = headers_tokenizer()
    known = len(tokenizer)
    tokenizer.add_tokens(["<|never used|>"])
    tokenizer.save_pretrained(folder / "source")
    edit_json(folder / "source/config.json", vocab_size=known)
    require_runnable(config_of(folder))
    tokenizer.pad_token = "<|never used|>"
    tokenizer.save_pretrained(folder / "source")
    assert found(folder).code == "WRPO-M016"


def test_one_of_several_weight_files_is_missing(folder: Path) -> None:
    weights = {f"layer.{number}": f"model-{number + 1:05d}-of-00003.safetensors" for number in range(3)}
    (folder / "target/model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    for name in list(weights.values())[:2]:
        shutil.copy(folder / "target/model.safetensors", folder / "target" / name)
    problem = found(folder)
    assert problem.code == "WRPO-M005"
    assert "1 of 3 files of weights are missing, the first is model-00003-of-00003.safetensors" in problem.rule


def test_training_prompts_are_not_held_out(folder: Path) -> None:
    problem = found(folder, f"evaluation.prompts.path={folder}/train.jsonl")
    assert problem.place == "evaluation.prompts"


def test_own_template_takes_the_place_of_a_missing_one(folder: Path) -> None:
    (folder / "target/chat_template.jinja").rename(folder / "mine.jinja")
    require_runnable(config_of(folder, f"target.chat_template={folder}/mine.jinja"))


def test_template_inside_the_tokenizer_config_is_found(folder: Path) -> None:
    (folder / "target/chat_template.jinja").unlink()
    edit_json(folder / "target/tokenizer_config.json", chat_template=CHATML)
    require_runnable(config_of(folder))


def test_rope_scaling_stretches_the_positions(folder: Path) -> None:
    edit_json(folder / "source/config.json", rope_parameters=ROPE)
    require_runnable(config_of(folder, "sources.0.engine.max_model_len=1024"))


def test_old_code_of_a_known_architecture_is_no_problem(folder: Path) -> None:
    edit_json(folder / "source/config.json", auto_map={"AutoConfig": "configuration.C"})
    require_runnable(config_of(folder))
    edit_json(folder / "source/config.json", model_type="never_heard_of")
    assert "sources.source.trust_remote_code" in [problem.place for problem in check_run(config_of(folder))]


def test_reward_model_of_its_own_code_may_have_any_class(folder: Path) -> None:
    edit_json(folder / "reward/config.json", architectures=["LlamaGated"], id2label={str(n): str(n) for n in range(19)})
    edit_json(folder / "reward/config.json", auto_map={"AutoModelForSequenceClassification": "m.M"})
    reward = f"path: '{folder}/reward', trust_remote_code: true, max_model_len: 256"
    require_runnable(config_of(folder, f"reward={{type: transformers, score_field: score, {reward}}}"))
    assert "19" in found(folder, f"reward={{type: transformers, score_field: logits, {reward}}}").rule


def test_numeric_verifier_needs_numbers(folder: Path) -> None:
    answers = ("prompts.answer_column=answer", "evaluation.prompts.answer_column=answer")
    overrides = ("reward={type: verifier, mode: numeric}", *answers)
    require_runnable(config_of(folder, *overrides))
    text = (folder / "train.jsonl").read_text().replace('"answer": "7"', '"answer": "seven"')
    (folder / "train.jsonl").write_text(text)
    problem = found(folder, *overrides)
    assert (problem.place, problem.value[:9]) == ("prompts.answer_column", "1 answers")


@pytest.mark.parametrize(
    ("name", "place", "rule"),
    [
        ("LocalEntryNotFoundError", "target.path", "neither cached nor within reach"),
        ("HFValidationError", "target.path", "neither a folder nor a hub name"),
        ("EntryNotFoundError", "target.path", "holds no config.json"),
    ],
)
def test_hub_errors_become_problems(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, rule: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> str:
        raise getattr(hub_errors, name)("no")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    problem = found(folder, "target.path=organisation/name")
    assert problem.place == place
    assert rule in problem.rule


def test_everything_is_reported_at_once(folder: Path) -> None:
    shutil.rmtree(folder / "source")
    (folder / "reward/model.safetensors").unlink()
    (folder / "train.jsonl").write_text('{"prompt": ""}\n')
    with pytest.raises(ConfigError) as caught:
        require_runnable(config_of(folder))
    text = str(caught.value)
    assert "3 problems" in text
    for place in ("sources.source.path", "reward.path", "train.jsonl, row 1"):
        assert place in text
    assert caught.value.exit_code == 2


def test_prompts_alone_are_a_data_error(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"prompt": ""}\n')
    with pytest.raises(DataError) as caught:
        require_runnable(config_of(folder))
    assert caught.value.exit_code == 3
