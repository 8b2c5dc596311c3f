"""Which models are fetched before their turn: those of the steps that come next."""

from __future__ import annotations

import time
from collections.abc import Sequence

from wrpo_ray.claims import Claim
from wrpo_ray.config_file import load_config
from wrpo_ray.data.prefetch import models_of
from wrpo_ray.scheduling.nodes import Node
from wrpo_ray.scheduling.runner import StepRunner
from wrpo_ray.steps import Step, StepResult
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import Manifest

ONE_CPU = Claim(1.0)


def step(name: str, *inputs: Step, source: str | None = None) -> Step:
    def run(_: Location) -> StepResult:
        raise AssertionError("the runner calls work_on")

    return Step(name, {}, inputs, run, source=source, claim=ONE_CPU)


def test_what_waits_for_a_running_step_comes_first_then_what_waits_for_room() -> None:
    drawn = [step("sample-a"), step("sample-b"), step("sample-c")]
    scored = [step(f"score-{each.name}", each) for each in drawn]
    last = step("fuse", *scored)
    told: list[tuple[str, ...]] = []

    def work_on(each: Step) -> Manifest:
        time.sleep(0.02)
        return Manifest(each.name, each.fingerprint, {}, {}, (), {}, {}, 0.0)

    def coming(steps: Sequence[str], nodes: Sequence[Node]) -> None:
        assert [node.node_id for node in nodes] == ["only"]
        told.append(tuple(steps))

    runner = StepRunner(
        work_on=work_on,
        is_complete=lambda _: False,
        read_nodes=lambda: [Node("only", 1.0)],
        planned=[],
        before_each=lambda: None,
        replaced=lambda _, error: (_ for _ in ()).throw(error),
        coming=coming,
    )
    runner.run([*drawn, *scored, last])
    first = told[0]
    assert first[0].startswith("score-sample-")
    assert len(first) == 3
    assert {name for name in first if name.startswith("sample-")} < {"sample-a", "sample-b", "sample-c"}
    # Nothing is told twice as coming once it has begun, and nothing at all whose inputs nobody works on yet.
    assert not any("fuse" in names for names in told[:3])
    assert told[-1] == ()


def test_sources_and_the_reward_model_have_files() -> None:
    config = load_config("jobs/configs/smoke.yaml")
    name = config.sources[0].name
    steps = [step("prompts"), step(f"sample-{name}", source=name), step(f"score-{name}"), step("sample-target-sft")]
    models = models_of(config, steps)
    assert sorted(models) == sorted([f"sample-{name}", f"score-{name}"])
    assert models[f"sample-{name}"].files is config.sources[0]
    assert models[f"score-{name}"].files is config.reward
