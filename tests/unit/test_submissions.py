"""Resuming under another config: what changes results is refused with a list, what does not goes on (P-31, P-32)."""

from pathlib import Path
from typing import Any

import pytest

from wrpo_ray.errors import ConfigError
from wrpo_ray.steps import Step, StepResult
from wrpo_ray.storage.location import locate
from wrpo_ray.submissions import last_submission, record, require_same, submission


def steps(temperature: float = 0.8, version: str = "0.32.0", sources: tuple[str, ...] = ("a", "b")) -> list[Step]:
    def nothing(_: Any) -> StepResult:
        return StepResult((), {})

    prompts = Step("prompts", {"content": "x"}, (), nothing)
    samples = [
        Step(f"sample-{name}", {"sampling": {"temperature": temperature}, "versions": {"vllm": version}}, (prompts,),
             nothing, source=name)
        for name in sources
    ]  # fmt: skip
    select = Step("select_sft", {}, tuple(samples), nothing)
    return [prompts, *samples, select, Step("export", {}, (prompts, *samples, select), nothing)]


def entry(**changes: Any) -> dict[str, Any]:
    return submission(1, {"run": {"name": "r"}}, steps(**changes), {})


def test_the_same_steps_go_on_and_records_are_numbered(tmp_path: Path) -> None:
    folder = locate(tmp_path) / "submissions"
    assert last_submission(folder) is None
    for epoch in (1, 2, 3):
        record(folder, submission(epoch, {}, steps(), {}))
    last = last_submission(folder)
    assert last is not None
    assert last["epoch"] == 3
    assert [place.name for place in folder.walk()] == ["000001.json", "000002.json", "000003.json"]
    require_same(last, entry(), "r")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"temperature": 0.7}, "sample-a: sampling.temperature: 0.8 -> 0.7"),
        ({"version": "0.33.0"}, "sample-b: versions.vllm: 0.32.0 -> 0.33.0"),
        ({"sources": ("a",)}, "select_sft: inputs: sample-a, sample-b -> sample-a"),
    ],
)
def test_what_changes_results_is_refused_and_listed(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_same(entry(), entry(**changes), "r")
    assert line in caught.value.message
    assert caught.value.code == "WRPO-R002"
    assert caught.value.exit_code == 2
    assert "--accept-changes" in (caught.value.help or "")


def test_what_other_code_made_is_told_as_such() -> None:
    with pytest.raises(ConfigError, match="wrpo_ray: result version 0 -> "):
        require_same({**entry(), "result_version": 0}, entry(), "r")


def test_steps_that_are_added_beside_the_others_need_no_leave() -> None:
    before = entry()
    more = steps()
    more.insert(-1, Step("evaluate", {}, (more[0],), more[0].run))
    more[-1] = Step("export", {}, tuple(more[:-1]), more[0].run)
    require_same(before, submission(2, {}, more, {}), "r")
