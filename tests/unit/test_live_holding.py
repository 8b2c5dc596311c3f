"""What a step is said to hold is what the plan has for it, in every config that comes with the repository."""

from pathlib import Path

import pytest

from wrpo_ray.config_file import load_config
from wrpo_ray.errors import ConfigError
from wrpo_ray.live.holding import holdings
from wrpo_ray.planning.plan import plan_run

FOLDER = Path(__file__).parents[2] / "jobs" / "configs"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.startswith("study_"))
PROMPTS = ("planning.num_prompts=1000", "planning.mean_prompt_tokens=100")
HELDOUT = ("evaluation.prompts.path=p", "evaluation.sampling.max_tokens=8", "planning.num_evaluation_prompts=100")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_holdings_agree_with_the_plan(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    config = load_config(str(path), [*PROMPTS, *HELDOUT])
    holding = holdings(config)
    sources = {source.name for source in config.sources}
    try:
        plan = plan_run(config)
    except ConfigError as error:
        # Models of demo and smoke test are made on the machine.
        pytest.skip(str(error).splitlines()[0])
    for stage in plan.stages:
        held, job = holding(stage.stage.step), stage.stage.job
        assert held is not None, stage.stage.step
        kind = stage.stage.kind
        assert (held.kind, held.accelerator, held.units) == (kind, job.accelerator, job.gpus_per_replica)
        assert held.num_workers == (job.max_replicas if kind in ("training", "reference") else None)
        assert held.endpoint == stage.stage.endpoint
        assert (held.source in sources) == (job.name.split("-", 1)[-1] in sources)
    assert [step for step in ("prompts", "select_sft", "fuse", "evaluate", "export", "allocate") if holding(step)] == []
    first = config.sources[0].name
    assert holding(f"first-sample-{first}") == holding(f"sample-{first}")
