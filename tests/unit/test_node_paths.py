"""Folders of the driver's machine that other nodes have not, or have otherwise."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.tiny_run import save_tiny_run, tiny_run
from wrpo_ray import node_paths
from wrpo_ray.errors import ConfigError, ModelError
from wrpo_ray.models import local_model, resolved
from wrpo_ray.node_paths import Seen, SharedPath, marks, require_shared, shared_paths, unshared
from wrpo_ray.storage.location import locate

A = SharedPath("target.path", "/models/a", ("config.json", "model.safetensors"))
B = SharedPath("run.root", "/runs", ("000001.json",))
HERE = (("2 x", "9 y"), ("3 z",))


def test_what_all_nodes_have_is_no_problem() -> None:
    assert unshared([A, B], HERE, [Seen("n1", HERE), Seen("n2", HERE)]) == []


def test_who_lacks_a_folder_or_has_another_one_is_named() -> None:
    absent, other = ((None, None), ("3 z",)), (("2 x", "8 y"), (None,))
    problems = unshared([A, B], HERE, [Seen("n1", absent), Seen("n2", other), Seen("n3", HERE)])
    assert [(each.place, each.value, each.rule) for each in problems] == [
        ("target.path", "/models/a", "the folder is not there on the node n1"),
        ("target.path", "/models/a", "the folder holds other files on the node n2"),
        ("run.root", "/runs", "the folder is not there on the node n2"),
    ]


def test_of_many_nodes_three_are_named() -> None:
    seen = [Seen(f"n{number}", ((None, None),)) for number in range(5)]
    (problem,) = unshared([A], HERE[:1], seen)
    assert problem.rule == "the folder is not there on 5 nodes: n0, n1, n2 and 2 more"


def test_a_file_is_told_from_another_one_by_content_and_from_a_large_one_by_size(tmp_path: Path) -> None:
    path = SharedPath("p", str(tmp_path), ("config.json", "model.safetensors"))
    assert marks(path) == (None, None)
    (tmp_path / "config.json").write_text("a")
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.truncate(2**20 + 1)
    before = marks(path)
    (tmp_path / "config.json").write_text("b")
    assert marks(path)[0] != before[0]
    assert marks(path)[1] == before[1] is not None
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.truncate(2**20 + 2)
    assert marks(path)[1] != before[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and prompts of a run."""
    return save_tiny_run(tmp_path_factory.mktemp("run"))


def test_models_templates_and_the_run_are_looked_for_where_they_are_local(folder: Path) -> None:
    (folder / "own.jinja").write_text("{{ messages }}")
    config = resolved(tiny_run(folder, [f"target.chat_template={folder / 'own.jinja'}"]))
    record = folder / "runs" / "r" / "submissions" / "000007.json"
    found = {path.place: path for path in shared_paths(config, locate(record))}
    assert list(found) == ["sources.a.path", "target.path", "target.chat_template", "run.root"]
    assert {"config.json", "model.safetensors"} <= set(found["target.path"].names)
    assert (found["target.chat_template"].folder, found["target.chat_template"].names) == (
        str(folder),
        ("own.jinja",),
    )
    assert found["run.root"].names == ("000007.json",)


def test_tasks_of_ones_own_are_looked_for_below_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tasks" / "data").mkdir(parents=True)
    (folder / "tasks" / "mine.yaml").write_text("task: mine")
    (folder / "tasks" / "data" / "rows.jsonl").write_text("{}")
    monkeypatch.chdir(folder)
    prompts = f"{{path: {folder / 'prompts.jsonl'}, answer_column: answer}}"
    evaluation = f"evaluation={{prompts: {prompts}, sampling: {{max_tokens: 8}}, lm_eval: {{tasks: [mine]}}}}"
    config = tiny_run(folder, [evaluation, "evaluation.lm_eval.include_path=tasks"])
    found = {path.place: path for path in shared_paths(config, locate("s3://bucket/record"))}
    path = found["evaluation.lm_eval.include_path"]
    assert (path.folder, path.names) == ("tasks", ("data/rows.jsonl", "mine.yaml"))
    assert None not in marks(path)
    monkeypatch.chdir("/")
    assert marks(path) == (None, None)


def test_a_bucket_has_nothing_to_share(folder: Path) -> None:
    config = tiny_run(folder)
    target = config.target.model_copy(update={"path": "s3://bucket/t"})
    source = config.sources[0].model_copy(update={"path": "organisation/name"})
    config = config.model_copy(update={"target": target, "sources": (source,)})
    assert shared_paths(config, locate("s3://bucket/runs/r/submissions/000001.json")) == []


def node(number: int, num_cpus: float = 4.0, alive: bool = True) -> dict[str, object]:
    resources = {"CPU": num_cpus} if num_cpus else {"memory": 1.0}
    return {"NodeID": f"id{number}", "NodeManagerHostname": f"n{number}", "Alive": alive, "Resources": resources}


@pytest.fixture
def refusing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """The driver is on n0, and no other node has anything; `asked` says who was asked."""
    import ray

    asked: list[str] = []

    def nothing(paths: list[SharedPath], hosts: dict[str, str]) -> list[Seen]:
        asked.extend(hosts.values())
        return [Seen(host, tuple((None,) * len(path.names) for path in paths)) for host in hosts.values()]

    record = folder / "runs" / "r" / "submissions" / "000001.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text("{}")
    monkeypatch.setattr(node_paths, "_asked", nothing)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "id0"))

    def check(*nodes: dict[str, object]) -> list[str]:
        asked.clear()
        monkeypatch.setattr(ray, "nodes", lambda: list(nodes))
        require_shared(resolved(tiny_run(folder)), locate(record))
        return asked

    return check


def test_the_driver_alone_shares_with_itself(refusing: object) -> None:
    assert callable(refusing)
    assert refusing(node(0)) == []
    # Neither who does no work nor who is gone.
    assert refusing(node(0), node(1, num_cpus=0.0), node(2, alive=False)) == []


def test_a_run_on_folders_of_the_driver_is_refused_with_all_of_them(refusing: object) -> None:
    assert callable(refusing)
    with pytest.raises(ConfigError) as caught:
        refusing(node(0), node(1), node(2, num_cpus=0.0))
    assert caught.value.code == "WRPO-C057"
    assert [problem.place for problem in caught.value.problems] == ["sources.a.path", "target.path", "run.root"]
    assert all("on the node n1" in problem.rule for problem in caught.value.problems)


def test_a_node_that_came_late_says_that_it_lacks_the_folder(tmp_path: Path) -> None:
    assert local_model(str(tmp_path)) == str(tmp_path)
    with pytest.raises(ModelError, match="no such folder on the node") as caught:
        local_model(str(tmp_path / "absent"))
    assert caught.value.code == "WRPO-M002"
