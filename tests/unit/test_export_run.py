"""`wrpo-ray export`: model and data as folders that other tools open, and both on a (fake) hub."""

import argparse
import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from tests.fake_hub import TOKEN, FakeHub, fake_hub
from wrpo_ray import export_run
from wrpo_ray.config_file import dump_config, parse_config
from wrpo_ray.data_card import SCHEMAS, meaning
from wrpo_ray.errors import ConfigError, StorageError
from wrpo_ray.export import export_datasets
from wrpo_ray.model_card import model_card
from wrpo_ray.schema import Quadruple, SFTExample
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import RunLayout
from wrpo_ray.storage.tables import write_file, write_rows
from wrpo_ray.submissions import record, submission

_CONFIG = """
run: {{name: r, root: runs}}
prompts: {{path: /secret/place/prompts.jsonl, answer_column: answer}}
sources: [{{name: a, path: {source}}}, {{name: b, path: hub-org/b}}]
target: {{name: t, path: hub-org/t}}
reward: {{type: verifier}}
sft: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
wrpo: {{learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}}
export: {{license: apache-2.0}}
"""
ROWS = [
    Quadruple(
        f"p{n}", [{"role": "user", "content": str(n)}], "ws", "wt", "l", "ab"[n == 2], 0.8, 0.3, -0.4,
        "stop", "stop", "length",
    )
    for n in range(3)
]  # fmt: skip
EXAMPLES = [SFTExample("s0", [{"role": "user", "content": "s"}], "r", "a", 0.5, "stop")]
SUMMARY = {
    "num_prompts": 5, "num_quadruples": 3, "num_target_responses_tie": 2, "num_without_source_response": 0,
    "best_share": {"a": 0.6667, "b": 0.3333}, "rows": {"response_empty": 7},
}  # fmt: skip


def finished_run(tmp_path: Path, folder: Location, *overrides: str) -> None:
    """Make a run of the steps that an export reads: the quadruples, and a model of three files."""
    source = tmp_path / "models" / "a"
    source.mkdir(parents=True)
    (source / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# a\n", encoding="utf-8")
    config = parse_config(_CONFIG.format(source=source), "c.yaml", overrides)
    layout = RunLayout(folder)

    def fuse(folder: Location) -> StepResult:
        parts = [ROWS[:2], ROWS[2:]]
        files = [write_rows(folder, f"data/part-{n}.parquet", part, Quadruple) for n, part in enumerate(parts)]
        return StepResult(tuple(files), SUMMARY)

    fused = Step("fuse", {}, (), fuse)

    def select(folder: Location) -> StepResult:
        return StepResult((write_rows(folder, "data/part-0.parquet", EXAMPLES, SFTExample),), {})

    selected = Step("select_sft", {}, (), select)

    def export(folder: Location) -> StepResult:
        card = model_card(config, {"fuse": SUMMARY})
        contents = {"model.safetensors": b"weights", "config.json": b"{}", "README.md": card.encode()}
        model = [write_file(folder, f"model/{name}", content) for name, content in contents.items()]
        files, counts = export_datasets(config, fused.folder(layout), folder)
        return StepResult((*model, *files), counts)

    begun = [fused] if config.ablation.skip_sft else [selected, fused]
    steps = [*begun, Step("export", {}, tuple(begun), export)]
    record(layout.submissions, submission(1, json.loads(dump_config(config)), steps, {}))
    for step in steps:
        execute(step, layout, {})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run on this machine."""
    finished_run(tmp_path, locate(tmp_path / "runs" / "r"))
    return tmp_path / "runs" / "r"


def export(run: Path | str, to: Path, *more: str) -> int:
    """Call the command."""
    parser = argparse.ArgumentParser()
    export_run.add_arguments(parser)
    return export_run.main(parser.parse_args([str(run), "--to", str(to), *more]))


def test_folders_open_without_an_edit(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(run, out) == 0
    assert export(run, out) == 0  # over what it wrote there
    cache = str(tmp_path / "cache")
    rows = load_dataset(str(out / "dataset"), split="train", cache_dir=cache).to_list()
    assert rows == [dataclasses.asdict(row) for row in ROWS]
    for name, number in (("quadruples", 3), ("trl_preference", 6), ("wrpo_release", 3), ("sft", 1)):
        read = load_dataset(str(out / "dataset"), name, split="train", cache_dir=cache)
        assert (read.num_rows, read.column_names) == (number, SCHEMAS[name].names)
    assert (out / "model" / "model.safetensors").read_bytes() == b"weights"


def test_data_card(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "out")
    card = (tmp_path / "out" / "dataset" / "README.md").read_text(encoding="utf-8")
    header = yaml.safe_load(card.split("---")[1])
    assert (header["license"], header["size_categories"]) == ("apache-2.0", ["n<1K"])
    assert [config["config_name"] for config in header["configs"]] == list(SCHEMAS)
    assert "| a | `a` | source | 2 | mit |" in card
    assert "| b | `hub-org/b` | source | 1 | not stated |" in card
    assert "| t | `hub-org/t` | target |  | not stated |" in card
    assert "| left out: the target's responses tie | 2 |" in card
    assert "| responses not chosen from: response_empty | 7 |" in card
    assert "Reward: rule-based verifier (exact). Prompts: `prompts.jsonl`." in card
    assert "/secret/place" not in card + (tmp_path / "out" / "model" / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in card for name in Quadruple.SCHEMA.names)


def test_a_run_without_sft_has_no_examples_of_it(tmp_path: Path) -> None:
    folder, out = tmp_path / "runs" / "r", tmp_path / "out"
    finished_run(tmp_path, locate(folder), "ablation.skip_sft=true", "ablation.source_rank=2", "wrpo.objective=dpo")
    assert export(folder, out) == 0
    assert sorted(path.name for path in (out / "dataset").iterdir() if path.is_dir()) == [
        "quadruples", "trl_preference", "wrpo_release",
    ]  # fmt: skip
    told = "y_ws is the second best source response; there was no SFT: the target itself drew y_wt and y_l."
    cards = [(out / name / "README.md").read_text(encoding="utf-8") for name in ("dataset", "model")]
    assert f"Otherwise than there: {told}" in cards[0]
    assert f"Otherwise than the method: {told}" in cards[1]
    # What the run did not do stands in no table.
    assert "| | WRPO |\n|---|---|\n| learning_rate | 0.001 |\n" in cards[1]
    assert "alpha" not in cards[1]


def test_every_column_has_a_meaning() -> None:
    assert all(meaning(name) for schema in SCHEMAS.values() for name in schema.names)


def test_a_folder_with_other_files_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other files, such as mine\.txt") as caught:
        export(run, tmp_path / "out")
    assert caught.value.code == "WRPO-C093"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_run_that_is_not_finished_is_refused(run: Path, tmp_path: Path) -> None:
    next(run.glob("export/*/manifest.json")).unlink()
    with pytest.raises(ConfigError, match="the steps export are not complete") as caught:
        export(run, tmp_path / "out")
    assert caught.value.code == "WRPO-C092"


@pytest.mark.parametrize("pattern", ["fuse/*/data/part-1.parquet", "export/*/model/model.safetensors"])
def test_a_changed_file_is_refused(run: Path, tmp_path: Path, pattern: str) -> None:
    next(run.glob(pattern)).write_bytes(b"other")
    with pytest.raises(StorageError, match="was changed after it was written"):
        export(run, tmp_path / "out")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> object:
    """A fake hub, and the client pointed at it."""
    with fake_hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def test_both_are_pushed_and_private(
    run: Path, tmp_path: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, tmp_path / "out", "--push-to-hub", "org/fused") == 0
    assert hub.private == {("model", "org/fused"): True, ("dataset", "org/fused"): True}
    for kind in ("model", "dataset"):
        folder = tmp_path / "out" / kind
        written = {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        assert hub.files[kind, "org/fused"] == written
    assert f"pushed:  {hub.address}/datasets/org/fused" in capsys.readouterr().out


def test_public_when_asked_and_never_by_chance(run: Path, tmp_path: Path, hub: FakeHub) -> None:
    assert export(run, tmp_path / "out", "--push-to-hub", "org/open", "--public") == 0
    assert hub.private["model", "org/open"] is False
    sent = dict(hub.files["model", "org/open"])
    hub.files["model", "org/open"].clear()
    with pytest.raises(ConfigError, match="is public") as caught:
        export(run, tmp_path / "out", "--push-to-hub", "org/open")
    assert caught.value.code == "WRPO-C095"
    assert sent
    assert not hub.files["model", "org/open"]


@pytest.mark.parametrize("token", ["hf_of_somebody_else", None])
def test_without_the_right_token(
    run: Path, tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError) as caught:
        export(run, tmp_path / "out", "--push-to-hub", "org/fused")
    assert caught.value.code == "WRPO-C094"
    assert "hf_of" not in caught.value.message
    assert not hub.private
