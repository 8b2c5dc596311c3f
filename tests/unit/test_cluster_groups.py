"""Which nodes a run needs, what is refused, and how names and overlays become what a cluster takes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_ray.claims import engine_claim
from wrpo_ray.cli import main
from wrpo_ray.cluster_render.checks import outside_ports
from wrpo_ray.cluster_render.command import rendered
from wrpo_ray.cluster_render.groups import find_groups, limits
from wrpo_ray.cluster_render.job import job_name
from wrpo_ray.cluster_render.machines import MACHINES
from wrpo_ray.cluster_render.overlay import overrides_of
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import load_config
from wrpo_ray.errors import ConfigError
from wrpo_ray.planning.accelerators import ACCELERATORS
from wrpo_ray.planning.lengths import find_lengths
from wrpo_ray.planning.lookup import find_shapes
from wrpo_ray.planning.plan import cluster_of
from wrpo_ray.planning.stages import build_stages
from wrpo_ray.scheduling.nodes import Node, Room

ROOT = Path(__file__).parents[2]
PAPER, SMOKE, SITE = "jobs/configs/llama3_8b.yaml", "jobs/configs/smoke.yaml", "cluster/sites/gke_h100.yaml"
TOLD = ("planning.num_prompts=9", "planning.mean_prompt_tokens=9", "planning.num_evaluation_prompts=9")


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def on_site(*overrides: str) -> FuseConfig:
    return load_config(PAPER, [*overrides_of(SITE), *overrides])


def refused(config: FuseConfig, target: str = "kuberay") -> list[tuple[str, str]]:
    """Return place and code of each problem."""
    with pytest.raises(ConfigError) as caught:
        rendered(config, target, "x")
    return [(problem.place, problem.code) for problem in caught.value.problems]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("target.resources.num_replicas=16",),
        ("planning.cluster={H100: 64}",),
        ("sources.gemma2-9b.resources.accelerator_type=L4", "reward.resources.accelerator_type=A100-80G"),
        ("wrpo.num_workers=24", "planning.accelerator=H200"),
        ("wrpo.accelerator_type=H200", "wrpo.num_workers=12"),
    ],
)
def test_as_many_accelerators_as_the_plan_counts(overrides: tuple[str, ...]) -> None:
    config = load_config(PAPER, [*TOLD, *overrides])
    planned = cluster_of(config, build_stages(config, find_shapes(config), find_lengths(config)))
    found = limits(config)
    found.pop("CPU")
    assert found == {name: round(count) for name, count in planned.items() if name != "CPU"}


def test_a_group_for_each_type_that_the_config_asks_for() -> None:
    config = on_site(
        "sources.gemma2-9b.resources.accelerator_type=L4", "planning.cluster={H100: 20, L4: 9}", "cluster.nodes={}"
    )
    groups = find_groups(config, config.cluster)
    assert [(group.name, group.max_nodes, group.gpus, group.instance_type) for group in groups] == [
        ("cpu", 1, 0, "n2-standard-16"),
        ("h100", 3, 8, "a3-highgpu-8g"),
        ("l4", 2, 8, "g2-standard-96"),
    ]


def test_nine_tenths_of_a_machine_or_what_is_given() -> None:
    config = on_site("cluster.nodes={H100: {cpus: 100}, CPU: {memory_gb: 5}}")
    assert [(g.cpus, g.memory_gb) for g in find_groups(config, config.cluster)] == [(14, 5), (100, 1684)]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["cluster=null"], [("cluster.image", "WRPO-C140")]),
        (["cluster.image=a/b:latest"], [("cluster.image", "WRPO-C140")]),
        (["cluster.nodes={H1000: {}}"], [("cluster.nodes.H1000", "WRPO-C141")]),
        (["cluster.cloud=other"], [("cluster.nodes.H100", "WRPO-C141")]),
        (["cluster.nodes={H100: {instance_type: p5.4xlarge}}"], [("cluster.nodes.H100", "WRPO-C141")]),
        (["cluster.nodes={H100: {min_nodes: 5}}"], [("cluster.nodes.H100.min_nodes", "WRPO-C141")]),
        (["cluster.nodes={H100: {on_demand_nodes: 1}}"], [("cluster.nodes.H100.on_demand_nodes", "WRPO-C141")]),
        (
            ["cluster.nodes={H100: {spot: true, on_demand_nodes: 4}}"],
            [("cluster.nodes.H100.on_demand_nodes", "WRPO-C141")],
        ),
        (
            ["cluster.nodes={H100: {max_nodes: 1}}", "wrpo.num_workers=9", "target.resources.num_cpus=200"],
            [("target.resources", "WRPO-C142"), ("wrpo", "WRPO-C142")],
        ),
        (
            ["cluster.nodes={H100: {gpus: 4, cpus: 90, memory_gb: 9}}"],
            [("sources.deepseek-v2.resources", "WRPO-C142"), ("sources.deepseek-coder-v2.resources", "WRPO-C142")],
        ),
        (["run.root=runs"], [("run.root", "WRPO-C143")]),
        (["run.root=/opt/wrpo_ray/runs", "cluster.shared_paths=[/opt/wrpo_ray]"], [("run.root", "WRPO-C143")]),
        (["sources.yi1.5-34b.path=./models/yi"], [("sources.yi1.5-34b.path", "WRPO-C143")]),
        (["sources.yi1.5-34b.chat_template=yi.jinja"], [("sources.yi1.5-34b.chat_template", "WRPO-C143")]),
        (["prompts.path=/data/../etc/x.jsonl", "cluster.shared_paths=[/data]"], [("prompts.path", "WRPO-C143")]),
        (["prompts.path=~/x.jsonl", "cluster.shared_paths=[/opt/wrpo_ray]"], [("prompts.path", "WRPO-C143")]),
        (["cluster.env={RAY_AUTH_MODE: disabled}"], [("cluster.env.RAY_AUTH_MODE", "WRPO-C144")]),
        (
            ["cluster.kuberay.network={storage_cidrs: [10.0.0.1/8]}"],
            [("cluster.kuberay.network.storage_cidrs", "WRPO-C144")],
        ),
        (
            ["cluster.kuberay.gcs={backend: redis, redis_address: redis}"],
            [("cluster.kuberay.gcs.redis_address", "WRPO-C144")],
        ),
        (["cluster.kuberay.cache={claim: a, size_gb: 1}"], [("cluster.kuberay.cache.claim", "WRPO-C144")]),
        (
            ["cluster.cloud=other", "cluster.nodes={H100: {gpus: 8, cpus: 90, memory_gb: 9, spot: true}}"],
            [("cluster.kuberay.spot_selector", "WRPO-C141")],
        ),
        (
            ["cluster.kuberay.network={storage_cidrs: [169.254.169.254/32], api_server_cidrs: ['fd00:ec2::/32']}"],
            [("cluster.kuberay.network.storage_cidrs", "WRPO-C144"),
             ("cluster.kuberay.network.api_server_cidrs", "WRPO-C144")],
        ),
        (["cluster.nodes={H100: {gpus: 16}}"], [("cluster.nodes.H100.gpus", "WRPO-C141")]),
        (["cluster.nodes={CPU: {gpus: 1}}"], [("cluster.nodes.CPU.gpus", "WRPO-C141")]),
        (["models.store=./models"], [("models.store", "WRPO-C143")]),
        (["evaluation.benchmarks={mt_bench: question.jsonl}"], [("evaluation.benchmarks.mt_bench", "WRPO-C143")]),
        (["evaluation.safety={prompts: harm.jsonl}"], [("evaluation.safety.prompts", "WRPO-C143")]),
        (
            ["cluster.nodes={H100: {tolerations: [{key: a, value: b}], extended_resources: {memory: 1}}}"],
            [("cluster.nodes.H100.extended_resources.memory", "WRPO-C144"),
             ("cluster.nodes.H100.tolerations.0.value", "WRPO-C144")],
        ),
        (["sources.gemma2-9b.path=some/model"], [("cluster.kuberay.cache.size_gb", "WRPO-C141")]),
    ],
)  # fmt: skip
def test_what_the_cluster_could_not_run_is_refused_by_place(
    overrides: list[str], expected: list[tuple[str, str]]
) -> None:
    found = refused(on_site("cluster.kuberay.cache={storage_class: a}", *overrides))
    assert found[: len(expected)] == expected
    # A model that is not known is told as well.
    assert len(found) == len(expected) or expected[0][0].endswith("size_gb")


def test_gpu_nodes_of_two_types_must_be_told_apart() -> None:
    config = on_site(
        "cluster.cloud=other",
        "sources.gemma2-9b.resources.accelerator_type=L4",
        "cluster.nodes={H100: {gpus: 8, cpus: 90, memory_gb: 9}, "
        "L4: {gpus: 8, cpus: 90, memory_gb: 9, node_selector: {a: b}}}",
    )
    assert refused(config) == [("cluster.nodes.H100.node_selector", "WRPO-C141")]


def test_an_endpoints_key_needs_a_secret_and_its_port_is_open() -> None:
    endpoint = (
        "sources=[{name: api, type: openai, base_url: 'http://models.example.com:8000/v1', model: m, "
        "api_key_env: MY_API_KEY}]"
    )
    config = on_site(endpoint, "cluster.secrets=[]", "target.path=gs://bkt/meta-llama-3-8b-instruct")
    assert refused(config) == [("sources.api.api_key_env", "WRPO-C144")]
    assert outside_ports(config) == [8000]
    judge = "evaluation.judge={name: judge, base_url: 'https://j.example.com/v1', model: m, api_key_env: MY_API_KEY}"
    config = on_site(judge, "cluster.secrets=[]", "target.path=gs://bkt/meta-llama-3-8b-instruct")
    assert refused(config) == [("evaluation.judge.api_key_env", "WRPO-C144")]


def test_a_volume_of_all_pods_is_a_place_for_a_run() -> None:
    volumes = "cluster.kuberay.volumes=[{claim: shared, path: /shared}]"
    texts = rendered(on_site(volumes, "run.root=/shared/runs"), "kuberay", "x")
    assert '"root": "/shared/runs"' in texts["10-config.yaml"]
    assert refused(on_site(volumes, "run.root=/shared2/runs")) == [("run.root", "WRPO-C143")]
    slash = "cluster.kuberay.volumes=[{claim: shared, path: /shared/}]"
    assert rendered(on_site(slash, "run.root=/shared/runs"), "kuberay", "x")


@pytest.mark.parametrize(
    ("volumes", "field"),
    [
        ("[{claim: scratch, path: /a}]", "0.claim"), ("[{claim: a, path: /tmp/}]", "0.path"),
        ("[{claim: a, path: /a}, {claim: a, path: /b}]", "1.claim"),
        ("[{claim: a, path: /a}, {claim: b, path: /a/../a}]", "1.path"),
    ],
)  # fmt: skip
def test_volumes_that_no_pod_can_have(volumes: str, field: str) -> None:
    config = on_site(f"cluster.kuberay.volumes={volumes}")
    assert refused(config) == [(f"cluster.kuberay.volumes.{field}", "WRPO-C144")]


@pytest.mark.parametrize(
    ("resources", "nodes"),
    [
        # Of eight GPUs a part of three leaves two unused.
        ("{num_gpus: 3, num_replicas: 5}", 3),
        # 187 CPUs on a node.
        ("{num_gpus: 1, num_replicas: 5, num_cpus: 60}", 2),
        ("{num_gpus: 0.3, num_replicas: 49}", 3),
        ("{num_gpus: 12, num_nodes: 2, num_replicas: 2}", 4),
    ],
)
def test_nodes_have_room_for_all_parts_that_are_asked_for(resources: str, nodes: int) -> None:
    gpus = {"{num_gpus: 3": 3, "{num_gpus: 12": 12}.get(resources.partition(",")[0], 1)
    config = load_config(
        PAPER,
        [*overrides_of(SITE), f"target.resources={resources}", f"target.engine.tensor_parallel_size={gpus}",
         "target.engine.gpu_memory_utilization=0.2", "planning.cluster={}"],
    )  # fmt: skip
    (group,) = [each for each in find_groups(config, config.cluster) if each.accelerator == "H100" and each.is_spot]
    assert group.max_nodes + 1 == nodes
    claim = engine_claim(config.target.resources)
    places = Room.of(Node(str(n), group.cpus, group.gpus, "H100") for n in range(nodes)).place_all(claim, claim.most)
    assert places is not None


@pytest.mark.parametrize(
    ("run", "name"),
    [("smoke", "smoke"), ("llama3-8b-wrpo", "llama3-8b-wrpo"), ("a" * 47, "a" * 47)],
)
def test_names_that_fit_stay(run: str, name: str) -> None:
    assert job_name(run) == name


@given(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"), st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z"))
def test_every_run_has_a_name_of_its_own_that_kuberay_takes(first: str, second: str) -> None:
    for name in (job_name(first), job_name(second)):
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= 47
    assert (job_name(first) == job_name(second)) == (first == second)


def test_machines_are_of_known_accelerators() -> None:
    assert {name for _, name in MACHINES} <= set(ACCELERATORS)
    assert all((machine.gpus == 0) == (name == "CPU") for (_, name), machine in MACHINES.items())


def test_an_overlay_is_laid_over_sections_and_replaces_the_cluster(tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text("wrpo: {beta: 0.5}\nsources: {gemma2-27b: {path: gs://bkt/g}}\ncluster: {image: 'a:1'}\n")
    config = load_config(PAPER, [*overrides_of(str(site)), "wrpo.num_epochs=2"])
    assert (config.wrpo.beta, config.wrpo.num_epochs, config.wrpo.learning_rate) == (0.5, 2, 3e-7)
    assert config.sources[1].path == "gs://bkt/g"
    assert config.cluster is not None
    assert config.cluster.image == "a:1"


@pytest.mark.parametrize("text", ["- a\n", "", "3"])
def test_an_overlay_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(text)
    with pytest.raises(ConfigError) as caught:
        overrides_of(str(site))
    assert caught.value.code == "WRPO-C145"
    with pytest.raises(ConfigError):
        overrides_of(str(tmp_path / "none.yaml"))


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cluster", "render", "kuberay", PAPER, "wrpo.beta=0.5", "--with", SITE]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "new" / "folder")]) == 0
    written = [path.read_text() for path in sorted((tmp_path / "new" / "folder").iterdir())]
    assert printed == "---\n".join(written)
    assert written[0].startswith(f"# Written by `wrpo-ray cluster render kuberay {PAPER} wrpo.beta=0.5 --with {SITE}`")
    assert main(["cluster", "render", "kuberay", PAPER]) == 2
    (tmp_path / "file").write_text("")
    assert main([*arguments, "--out", str(tmp_path / "file")]) == 6


def test_rendering_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from wrpo_ray.cli import main\n"
        f"code = main(['cluster', 'render', 'kuberay', {PAPER!r}, '--with', {SITE!r}])\n"
        "heavy = [name for name in ('torch', 'ray', 'transformers', 'vllm', 'pyarrow') if name in sys.modules]\n"
        "print(code, *heavy, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert done.stderr.split() == ["0"]


@pytest.mark.parametrize(
    "override",
    ["cluster.time_limit_hours=1e308", "cluster.idle_minutes=1e308", "cluster.max_retries=99999999999",
     "cluster.nodes={H100: {max_nodes: 99999999999}}", "cluster.kuberay.run_as_user=99999999999"],
)  # fmt: skip
def test_numbers_that_kubernetes_cannot_hold(override: str) -> None:
    with pytest.raises(ConfigError, match="less than or equal to"):
        on_site(override)


@pytest.mark.parametrize("name", ["Intel-GAUDI", "TPU-V4", "h100", "!", "X" * 60])
def test_types_of_which_no_group_can_be_made(name: str) -> None:
    nodes = json.dumps({name: {"gpus": 8, "cpus": 90, "memory_gb": 9, "node_selector": {"a": "b"}}})
    config = on_site(f"sources.gemma2-9b.resources.accelerator_type={json.dumps(name)}", f"cluster.nodes={nodes}")
    assert refused(config) == [(f"cluster.nodes.{name}", "WRPO-C141")]


def test_parts_of_any_size_end_as_nodes_or_as_a_problem() -> None:
    small = ("planning.cluster={}", "cluster.nodes={}")
    assert rendered(on_site("target.resources.num_cpus=1e-300", *small), "kuberay", "x")
    tiny = ("target.resources.num_gpus=1e-300", "target.engine.gpu_memory_utilization=1e-301", *small)
    assert rendered(on_site(*tiny), "kuberay", "x")
    for override in ("planning.cluster={H100: 100000000000000000000}", "cluster.nodes={H100: {max_nodes: 2000000000}}"):
        assert refused(on_site(override)) == [("cluster.nodes.H100.max_nodes", "WRPO-C141")]
