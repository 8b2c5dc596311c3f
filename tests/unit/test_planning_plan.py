"""A config's plan: its stages, their order and price, where its numbers come from, and what is refused."""

from pathlib import Path

import pytest

from wrpo_ray.config_file import load_config
from wrpo_ray.errors import ConfigError, DataError
from wrpo_ray.planning.plan import PlannedStage, RunPlan, plan_run

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "jobs/configs/llama3_8b.yaml"
# What the paper's files would tell; they are not here.
TOLD = ("planning.num_prompts=60000", "planning.mean_prompt_tokens=200", "planning.num_evaluation_prompts=1960")


def paper(*overrides: str) -> RunPlan:
    return plan_run(load_config(PAPER, [*TOLD, *overrides]))


def stage(plan: RunPlan, step: str) -> PlannedStage:
    return next(planned for planned in plan.stages if planned.stage.step == step)


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_steps_and_their_order_are_the_runs() -> None:
    """Every stage is a step of the pipeline, and waits for nothing that its step does not wait for."""
    from wrpo_ray.pipeline import Pipeline

    config = load_config(ROOT / "jobs/configs/smoke.yaml")
    steps = {step.name: step for step in Pipeline(config).steps}

    def before(name: str) -> set[str]:
        return {name} | {earlier for given in steps[name].inputs for earlier in before(given.name)}

    plan = plan_run(config)
    planned = {each.stage.step for each in plan.stages}
    assert set(steps) - planned == {"prompts", "select_sft", "fuse", "export"}
    for each in plan.stages:
        needed = before(each.stage.step) & planned - {each.stage.step}
        assert set(each.stage.job.after) <= needed
        assert all(stage(plan, name).end_s <= each.start_s for name in needed)


def test_numbers_of_the_papers_run() -> None:
    plan = paper()
    drawn = stage(plan, "sample-llama3-70b").stage
    assert (drawn.responses, drawn.input_tokens, drawn.output_tokens) == (300_000, 12e6, 135e6)
    assert drawn.flops == pytest.approx(2 * 70.6e9 * 147e6)
    assert (drawn.bound, drawn.batch) == ("compute", 1024)
    assert stage(plan, "score-llama3-70b").stage.input_tokens == 60_000 * (200 + 5 * 450)
    assert stage(plan, "sft").stage.input_tokens == 20_000 * 650
    assert stage(plan, "wrpo").stage.input_tokens == 40_000 * (200 + 3 * 450)
    # Backward pass and activations computed again: 8 instead of 2.
    assert stage(plan, "wrpo").stage.flops == pytest.approx(4 * stage(plan, "reference").stage.flops)
    assert stage(plan, "sample-target-sft").stage.responses == 200_000
    assert stage(plan, "evaluation-score").stage.responses == 1960 * 4 * 3
    assert plan.misfits == []


def test_generation_at_1024_sequences_is_the_worked_example() -> None:
    """H100-hours of work; the DeepSeeks take more than the example's 9.4: vLLM copies MLA's cache to each GPU."""
    plan = paper()
    hours = {
        name: stage(plan, f"sample-{name}").stage.job.gpu_seconds / 3600
        for name in ("mistral-large-2407", "qwen2-72b", "llama3-70b", "yi1.5-34b", "gemma2-9b", "phi3-medium")
    }
    assert hours == pytest.approx(
        {"mistral-large-2407": 17.1, "qwen2-72b": 10.2, "llama3-70b": 9.9, "yi1.5-34b": 4.8, "gemma2-9b": 3.4,
         "phi3-medium": 2.5}, rel=0.02,
    )  # fmt: skip
    assert stage(plan, "sample-deepseek-v2").stage.job.gpu_seconds / 3600 == pytest.approx(16.8, abs=0.3)


@pytest.mark.parametrize(("gpus", "least_busy"), [(8, 0.99), (16, 0.9), (64, 0.4)])
def test_cluster(gpus: int, least_busy: float) -> None:
    plan = paper(f"planning.cluster.H100={gpus}")
    assert plan.cluster == {"H100": gpus}
    assert plan.busy_share["H100"] >= least_busy
    longest = max(plan.stages, key=lambda each: each.stage.job.gpu_seconds)
    assert longest.start_s <= plan.seconds / 2


def test_more_replicas_shorten_the_run() -> None:
    large = ("deepseek-v2", "deepseek-coder-v2", "mistral-large-2407", "qwen2-72b", "llama3-70b", "gemma2-27b")
    few = paper("planning.cluster.H100=64")
    many = paper("planning.cluster.H100=64", *(f"sources.{name}.resources.num_replicas=8" for name in large))
    assert many.seconds < 0.9 * few.seconds
    assert many.busy_share["H100"] > few.busy_share["H100"]
    # What the end waits for is the source that may not spread any further.
    assert few.longest_chain()[0].stage.step == "sample-deepseek-v2"
    assert few.longest_chain()[-1].stage.step == "evaluation-score"


def test_price() -> None:
    plan = paper("prices.per_hour.H100=2.5", "prices.currency=EUR")
    hours = sum(each.gpu_hours for each in plan.stages)
    assert plan.price == pytest.approx(2.5 * hours)
    assert plan.cluster_price == pytest.approx(2.5 * 8 * plan.seconds / 3600)
    assert plan.price <= plan.cluster_price * (1 + 1e-9)
    assert paper().price is None


def test_every_section_may_have_its_own_accelerator() -> None:
    plan = paper(
        "sources.gemma2-9b.resources.accelerator_type=L40S", "prices.per_hour.H100=2.5", "planning.cluster.L40S=4"
    )
    assert stage(plan, "sample-gemma2-9b").stage.job.accelerator == "L40S"
    assert plan.cluster == {"H100": 8, "L40S": 4}
    # One of the two has no price, so there is no sum.
    assert stage(plan, "sample-gemma2-9b").price is None
    assert plan.price is None


def test_own_accelerator() -> None:
    figures = "{memory_gb: 80, bandwidth_gb_per_s: 3350, bf16_tflops: 989}"
    own = paper("planning.accelerator=X1", f"planning.accelerators.X1={figures}")
    assert own.seconds == pytest.approx(paper().seconds)


ENDPOINT = (
    "{name: remote, type: openai, base_url: 'https://api.example.com/v1', model: m, sampling: {num_samples: 5},"
    " limits: {requests_per_minute: 600, max_concurrent_requests: 64}}"
)


def test_source_behind_an_endpoint() -> None:
    plan = paper(f"sources.0={ENDPOINT}", "prices.per_million_tokens.remote={input: 1, output: 4}")
    remote = stage(plan, "sample-remote")
    # 300,000 requests at 600 a minute; at 50 tokens a second, 64 at a time would take 11.7 h.
    assert remote.stage.bound == "endpoint"
    assert remote.seconds == pytest.approx(300_000 * 450 / 50 / 64)
    assert remote.price == pytest.approx(300_000 * (200 * 1 + 450 * 4) / 1e6)
    slow = paper(f"sources.0={ENDPOINT}", "sources.0.limits.requests_per_minute=300")
    assert stage(slow, "sample-remote").stage.bound == "rate limit"
    assert stage(slow, "sample-remote").seconds == pytest.approx(60_000)
    assert stage(slow, "sample-remote").price is None


def test_endpoints_wait_for_none_of_each_other_and_take_no_gpu_hours() -> None:
    names = ("remote", "further", "last")
    others = [
        f"sources.{number}={ENDPOINT.replace('remote', name).replace('model: m', f'model: {name}')}"
        for number, name in enumerate(names)
    ]
    plan = paper(*others)
    remote = [stage(plan, f"sample-{name}") for name in names]
    assert [each.start_s for each in remote] == [0.0] * len(names)
    assert plan.cluster["CPU"] == 0.5 * len(names)
    assert [each.gpu_hours for each in remote] == [0.0] * len(names)
    assert remote[0].cpu_hours == pytest.approx(0.5 * remote[0].seconds / 3600)
    # Where the config says how many CPUs there are, they are what there is.
    assert paper(*others, "planning.cluster.CPU=1").cluster["CPU"] == 1


def test_prompts_are_measured(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "' + "a" * 120 + '"}\n{"prompt": "' + "ü" * 20 + '"}\n')
    plan = paper(
        f"prompts.path={tmp_path / 'prompts.jsonl'}", "planning.num_prompts=null", "planning.mean_prompt_tokens=null"
    )
    # 120 and 40 bytes: 80 / 4, and 10 for the template.
    assert (plan.lengths.prompts, plan.lengths.prompt_tokens) == (2, 30)
    assert "80 bytes of UTF-8" in plan.lengths.origins[1]


def test_prompts_that_are_not_there() -> None:
    with pytest.raises(DataError) as caught:
        plan_run(load_config(PAPER))
    (problem,) = caught.value.problems
    assert problem.place == "data/ultrafeedback/train"
    assert problem.fix == "correct the path, or set planning.num_prompts and planning.mean_prompt_tokens"


@pytest.mark.parametrize(
    ("override", "place", "code", "fix"),
    [
        ("sources.qwen2-72b.path=Qwen/Qwen9-1T", "sources.qwen2-72b.path", "WRPO-C060", "hf download Qwen/Qwen9-1T"),
        ("planning.accelerator=H10", "planning.accelerator", "WRPO-C061", "did you mean `H100`?"),
        (
            "sources.qwen2-72b.engine.quantization=experts_int9", "sources.qwen2-72b.engine.quantization", "WRPO-C063",
            "known: fp8",
        ),
        ("planning.cluster.H100=4", "planning.cluster.H100", "WRPO-C064", "enlarge planning.cluster"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned(override: str, place: str, code: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        paper(override)
    problem = caught.value.problems[0]
    assert (problem.place, problem.code) == (place, code)
    assert fix in problem.fix


def test_local_models_are_read(tmp_path: Path) -> None:
    plan = plan_run(load_config(ROOT / "jobs/configs/smoke.yaml"))
    assert set(plan.shape_origins.values()) == {"its config.json"}
    # 80,576 numbers lie in the files; biases and norms are among them.
    drawn = stage(plan, "sample-source-neox").stage
    assert drawn.flops / (drawn.input_tokens + drawn.output_tokens) == pytest.approx(2 * 80_576)
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "config.json").write_text('{"hidden_size": 64}')
    with pytest.raises(ConfigError, match="does not tell num_hidden_layers"):
        plan_run(load_config(ROOT / "jobs/configs/smoke.yaml", [f"target.path={broken}"]))


def test_adaptive_allocation_is_told_to_be_left_out() -> None:
    plan = paper("sampling.allocation={max_cost_share: 0.5}")
    assert plan.lengths.origins[-1].endswith("sampling.allocation draws at most 50% of that cost")
    assert plan.seconds == paper().seconds
