"""`wrpo-ray plan`: at once, without what is heavy; text, JSON, pictures, and planned against actual."""

import argparse
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from wrpo_ray.config_file import load_config
from wrpo_ray.errors import ConfigError
from wrpo_ray.planning import command
from wrpo_ray.planning.against import compare, compared_text, plan_record
from wrpo_ray.planning.plan import plan_run
from wrpo_ray.planning.text import plan_json
from wrpo_ray.planning.units import columns, money, short, span
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import Manifest, RunLayout, create_manifest
from wrpo_ray.submissions import record

ROOT = Path(__file__).parents[2]
SMOKE, PAPER = "jobs/configs/smoke.yaml", "jobs/configs/llama3_8b.yaml"
TOLD = ("planning.num_prompts=60000", "planning.mean_prompt_tokens=200", "planning.num_evaluation_prompts=1960")
LIMIT_SECONDS = 2.0
PROGRAM = f"""
import sys, time
started = time.perf_counter()
from wrpo_ray.cli import main
exit_code = main(["plan", "{PAPER}", *{TOLD}])
seconds = time.perf_counter() - started
heavy = [name for name in ("torch", "ray", "transformers", "vllm", "deepspeed") if name in sys.modules]
print(exit_code, seconds, *heavy, file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def plan(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(arguments))


def test_answers_at_once() -> None:
    # The second run: the first one may have to write byte code.
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    exit_code, seconds, *heavy = done.stderr.split()
    assert (exit_code, heavy) == ("0", [])
    assert float(seconds) < LIMIT_SECONDS
    assert "done after" in done.stdout


def test_text_tells_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(PAPER, *TOLD, "prices.per_hour.H100=2.5") == 0
    shown = capsys.readouterr().out
    for told in (
        "60,000 prompts (planning.num_prompts)", "450 tokens per response", "cluster: 8 H100",
        "shapes from the built-in table: sources.mistral-large-2407", "memory bandwidth", "start-up", "USD",
        "memory of one accelerator", "█",
    ):  # fmt: skip
        assert told in shown
    assert plan(PAPER, *TOLD) == 0
    assert "no price in prices.per_hour for H100" in capsys.readouterr().out


def test_json_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan(PAPER, *TOLD, "prices.per_hour.H100=2.5", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["gpu_hours"] == pytest.approx(sum(stage["gpu_hours"] for stage in told["stages"]))
    assert told["price"] == pytest.approx(2.5 * told["gpu_hours"])
    assert told["seconds"] == pytest.approx(max(stage["start_s"] + stage["seconds"] for stage in told["stages"]))


@pytest.mark.parametrize("name", ["plan.svg", "plan.html"])
def test_picture(name: str, tmp_path: Path) -> None:
    assert plan(PAPER, *TOLD, "--out", str(tmp_path / name)) == 0
    content = (tmp_path / name).read_text(encoding="utf-8")
    picture = ET.fromstring(content[content.index("<svg") : content.index("</svg>") + len("</svg>")])
    space = "{http://www.w3.org/2000/svg}"
    made = plan_run(load_config(PAPER, TOLD))
    boxes = picture.findall(f"{space}rect")
    assert len(boxes) == sum(len(stage.placements) for stage in made.stages)
    # Nothing lies outside the picture.
    width = float(picture.attrib["viewBox"].split()[2])
    assert all(float(box.attrib["x"]) + float(box.attrib["width"]) <= width for box in boxes)
    assert {text.text for text in picture.findall(f"{space}text")} >= {stage.stage.step for stage in made.stages}


def test_picture_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(SMOKE, "--out", str(tmp_path / "plan.png"))
    assert caught.value.code == "WRPO-C066"


def test_what_does_not_fit_is_an_error_behind_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(PAPER, *TOLD, "planning.accelerator=A100-40G", "wrpo.num_workers=2", "wrpo.zero_stage=2")
    shown = capsys.readouterr().out
    assert "DOES NOT FIT" in shown
    found = {problem.place: problem for problem in caught.value.problems}
    assert found["sources.mistral-large-2407"].fix.startswith("engine.tensor_parallel_size: 8")
    assert "weights 61.3" in found["sources.mistral-large-2407"].rule
    assert "offload" in found["wrpo"].fix
    assert {problem.code for problem in found.values()} == {"WRPO-C065"}


def manifest(step: str, seconds: float, **summary: int) -> Manifest:
    return Manifest(step, "f", {}, {}, (), summary, {}, seconds)


def test_planned_against_actual() -> None:
    stages = plan_json(plan_run(load_config(SMOKE)))["stages"]
    done = {
        "sample-source-qwen2": manifest("sample-source-qwen2", 40.0, num_responses=48, num_tokens=240),
        "sft": manifest("sft", 30.0, num_rows=8),
        "fuse": manifest("fuse", 0.1),
    }
    rows = {row.step: row for row in compare(stages, done)}
    drawn = rows["sample-source-qwen2"]
    assert (drawn.planned_s, drawn.actual_s, drawn.ratio) == pytest.approx((20.0, 40.0, 2.0), rel=1e-2)
    assert (drawn.planned_responses, drawn.actual_responses) == (48, 48)
    assert (drawn.planned_tokens, drawn.actual_tokens) == (384, 240)
    assert rows["sft"].ratio == pytest.approx(0.5, rel=1e-2)
    # Not done yet, and not planned.
    assert (rows["wrpo"].actual_s, rows["wrpo"].ratio) == (None, None)
    assert (rows["fuse"].planned_s, rows["fuse"].actual_s) == (None, 0.1)
    shown = compared_text(list(rows.values()))
    assert "mean tokens per response, actual: 5.0" in shown


@pytest.mark.parametrize("stored", [False, True])
def test_against_a_run(stored: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = RunLayout(locate(tmp_path))
    done = manifest("sft", 30.0, num_rows=8)
    steps = [{"name": name, "fingerprint": "f", "run": None, "inputs": [], "identity": {}} for name in ("sft", "wrpo")]
    entry = {"steps": steps, "result_version": 4, "config": {}}
    if stored:
        entry["plan"] = plan_record(load_config(SMOKE, ["planning.training_start_s=6"]))
    record(layout.submissions, entry)
    create_manifest(layout.step_folder("sft", "f"), done)
    assert plan(SMOKE, "--against", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    line = next(line.split() for line in shown.splitlines() if line.startswith("sft"))
    assert line[1:5] == [*(["6.0", "s"] if stored else ["60", "s"]), "30", "s"]


@pytest.mark.parametrize(("epoch", "told"), [(None, False), (1, False), (2, True)])
def test_time_that_no_manifest_holds_is_told(
    epoch: int | None, told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An earlier start that was cut off in a step could not note how long it had worked on it."""
    entry = {"steps": [], "result_version": 4, "config": {}, "epoch": epoch}
    record(RunLayout(locate(tmp_path)).submissions, entry)
    assert plan(SMOKE, "--against", str(tmp_path)) == 0
    assert ("The run was started 2 times" in capsys.readouterr().out) == told


def test_against_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(SMOKE, "--against", str(tmp_path))
    assert caught.value.code == "WRPO-C040"


def test_a_run_is_not_kept_from_starting_for_want_of_a_plan() -> None:
    assert "prompts" in plan_record(load_config(PAPER))["reason"]


def test_units() -> None:
    assert [short(number) for number in (0, 0.5, 9.996, 12, 999.6, 27_040_000, 3.6e19, 835e15)] == [
        "", "0.50", "10.0", "12.0", "1.00k", "27.0M", "36.0E", "835P",
    ]  # fmt: skip
    assert [span(seconds) for seconds in (4, 52, 204, 20_448, 360_000)] == [
        "4.0 s",
        "52 s",
        "3.4 min",
        "5.68 h",
        "4.2 d",
    ]
    assert money(1234.5, "USD") == "1,234.50 USD"
    assert columns([("a", "b", "c"), ("1", "", "22")]) == "a   c\n1  22"
