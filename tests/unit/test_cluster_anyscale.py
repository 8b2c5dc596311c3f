"""Files for Anyscale, judged by the models of the package `anyscale` itself, which refuse unknown fields."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from anyscale.compute_config.models import ComputeConfig, MarketType
from anyscale.job.models import JobConfig

from wrpo_ray.cluster_render.command import rendered
from wrpo_ray.cluster_render.overlay import overrides_of
from wrpo_ray.config_file import load_config
from wrpo_ray.errors import ConfigError

ROOT = Path(__file__).parents[2]
PAPER = ("jobs/configs/llama3_8b.yaml", "cluster/sites/anyscale_p5.yaml")
SMALL = ("jobs/configs/smoke.yaml", "cluster/sites/anyscale_smoke.yaml")


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def files(run: tuple[str, str], *overrides: str) -> dict[str, Any]:
    texts = rendered(load_config(run[0], [*overrides_of(run[1]), *overrides]), "anyscale", "header")
    return {name: yaml.safe_load(text) for name, text in texts.items()}


@pytest.mark.parametrize("run", [PAPER, SMALL], ids=["paper", "small"])
def test_anyscales_models_take_them(run: tuple[str, str], tmp_path: Path) -> None:
    config = load_config(run[0], overrides_of(run[1]))
    for name, text in rendered(config, "anyscale", "x").items():
        (tmp_path / name).write_text(text)
    job = JobConfig.from_yaml(str(tmp_path / "job.yaml"))
    compute = ComputeConfig.from_yaml(str(tmp_path / "compute_config.yaml"))
    assert job.compute_config == job.name == config.run.name
    assert job.max_retries == config.cluster.max_retries
    assert job.entrypoint == "python /opt/wrpo_ray/jobs/fuse.py --config run.yaml"
    assert compute.head_node.resources == {"CPU": 0, "GPU": 0}
    # The job's working directory brings its config along.
    assert load_config(tmp_path / "run.yaml").run == config.run


def test_groups_of_the_papers_run() -> None:
    compute = ComputeConfig.from_dict(files(PAPER)["compute_config.yaml"])
    assert [(g.name, g.instance_type, g.min_nodes, g.max_nodes, g.market_type) for g in compute.worker_nodes] == [
        ("cpu", "m6i.4xlarge", 0, 1, MarketType.ON_DEMAND),
        ("h100-spot", "p5.48xlarge", 0, 3, MarketType.SPOT),
        ("h100", "p5.48xlarge", 0, 1, MarketType.ON_DEMAND),
    ]


def test_the_judge_refuses_what_is_wrong() -> None:
    found = files(SMALL)
    with pytest.raises(TypeError, match="max_retry"):
        JobConfig.from_dict({**found["job.yaml"], "max_retry": 1})
    with pytest.raises(ValueError, match="max_retries"):
        JobConfig.from_dict({**found["job.yaml"], "max_retries": -1})
    group = {**found["compute_config.yaml"]["worker_nodes"][0], "max_node": 1}
    with pytest.raises(TypeError, match="max_node"):
        ComputeConfig.from_dict({**found["compute_config.yaml"], "worker_nodes": [group]})


def test_limits_and_names_of_the_account() -> None:
    job = files(PAPER, "cluster.time_limit_hours=2", "cluster.anyscale.project=fusion")["job.yaml"]
    assert (job["timeout_s"], job["cloud"], job["project"]) == (7200, "my-cloud", "fusion")
    assert job["env_vars"]["HF_HOME"] == "/mnt/local_storage/huggingface"


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("cluster={image: 'a/b:1', shared_paths: [/opt/wrpo_ray/jobs/smoke], head: {instance_type: m6i.large}}",
         "cluster.nodes.CPU.instance_type"),
        ("cluster={image: 'a/b:1', shared_paths: [/opt/wrpo_ray/jobs/smoke], nodes: {CPU: {instance_type: m6i.large, "
         "cpus: 2, memory_gb: 8}}}", "cluster.head.instance_type"),
        ("cluster.secrets=[one]", "cluster.secrets"),
        ("cluster.kuberay.volumes=[{claim: a, path: /opt/wrpo_ray/data}]", None),
        ("prompts.path=./data/x.jsonl", "prompts.path"),
    ],
)  # fmt: skip
def test_what_anyscale_could_not_run_is_refused(override: str, place: str | None) -> None:
    if place is None:
        assert files(SMALL, override)
        return
    with pytest.raises(ConfigError) as caught:
        files(SMALL, override)
    assert [problem.place for problem in caught.value.problems] == [place]
