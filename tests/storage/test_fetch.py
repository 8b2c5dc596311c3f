"""`wrpo-ray fetch`: a run's models into storage that all nodes see, and runs that read them there and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.hub_server import COMMIT, OTHER_COMMIT, HubServer, hub_server
from tests.storage.s3_server import S3Server
from tests.tiny import chatml_tokenizer, save_classifier, save_llama
from tests.unit.test_hub_models import go_offline, use
from wrpo_ray import fetch
from wrpo_ray.cli import main
from wrpo_ray.config import FuseConfig, ModelFiles
from wrpo_ray.config_file import load_config
from wrpo_ray.errors import ConfigError, StorageError
from wrpo_ray.model_card import hub_name
from wrpo_ray.model_store import find, note_branch, origin, stored
from wrpo_ray.models import local_model, model_identity, on_node, resolved
from wrpo_ray.planning.plan import plan_run

CONFIG = """
run: {{name: fetched, root: "{folder}/runs"}}
prompts: {{path: "{folder}/prompts.jsonl"}}
sources:
  - {{name: one, path: organisation/source, engine: {{max_model_len: 128}}, sampling: {{max_tokens: 32}}}}
target:
  {{name: two, path: organisation/target, revision: main, engine: {{max_model_len: 128}}, sampling: {{max_tokens: 32}}}}
reward: {{type: transformers, path: organisation/reward, max_model_len: 128}}
sft: {{learning_rate: 0.001, max_length: 128, max_prompt_length: 64}}
wrpo: {{learning_rate: 0.001, max_length: 128, max_prompt_length: 64}}
models: {{store: {store}}}
"""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    tokenizer = chatml_tokenizer()
    save_llama(folder / "source", tokenizer)
    save_llama(folder / "target", tokenizer, seed=1)
    save_classifier(folder / "reward", tokenizer)
    return folder


@pytest.fixture
def hub(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        for name in ("source", "target", "reward"):
            server.add(f"organisation/{name}", originals / name)
        use(server, tmp_path, monkeypatch)
        yield server


def config_of(folder: Path, store: str = "null", *overrides: str) -> FuseConfig:
    path = folder / "fuse.yaml"
    path.write_text(CONFIG.format(folder=folder, store=store))
    return load_config(str(path), overrides)


def test_models_come_into_the_cache_of_this_node(hub: HubServer, tmp_path: Path) -> None:
    found = fetch.fetch(config_of(tmp_path), None)
    assert [(each.place, each.hub, each.commit) for each in found] == [
        ("sources.one", "organisation/source", COMMIT),
        ("target", "organisation/target", COMMIT),
        ("reward", "organisation/reward", COMMIT),
    ]
    assert all((Path(each.folder) / "model.safetensors").is_file() for each in found)
    text = fetch.shown(found)
    assert f"sources.one.revision: {COMMIT}" in text
    assert hub.downloads("model.safetensors") == 3


def test_a_store_serves_runs_without_a_network(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "shared")
    config = config_of(tmp_path, store)
    by_hub = model_identity(ModelFiles(path="organisation/target"))
    assert [each.was_there for each in fetch.fetch(config, store)] == [False] * 3
    assert [each.was_there for each in fetch.fetch(config, store)] == [True] * 3
    assert hub.downloads("model.safetensors") == 3
    go_offline(monkeypatch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "another node"))
    monkeypatch.setenv("WRPO_RAY_CACHE", str(tmp_path / "another node's"))
    before = hub.requests.total()
    target = resolved(config).target
    assert target.path.startswith(store)
    assert (Path(on_node(target).path) / "model.safetensors").is_file()
    assert model_identity(target) == by_hub, "where the files lie does not change what a step makes"
    assert (origin(target.path), hub_name(target.path)) == (("organisation/target", COMMIT), "organisation/target")
    assert hub.requests.total() == before


def test_an_object_store_is_read_once_per_node_and_verified(
    hub: HubServer, tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.new_bucket()
    config = config_of(tmp_path, f"s3://{bucket}/models")
    fetch.fetch(config, config.models.store)
    go_offline(monkeypatch)
    monkeypatch.setenv("WRPO_RAY_CACHE", str(tmp_path / "another node's"))
    target = resolved(config).target
    assert target.path == f"s3://{bucket}/models/organisation--target/{COMMIT}/model"
    assert model_identity(target) == {"hub": "organisation/target", "commit": COMMIT, "chat_template": None}
    assert (Path(on_node(target).path) / "model.safetensors").is_file()
    reward = resolved(config).reward
    assert isinstance(reward, ModelFiles)
    key = reward.path.removeprefix(f"s3://{bucket}/") + "/model.safetensors"
    content = bytearray(s3.client().get_object(Bucket=bucket, Key=key)["Body"].read())
    content[-1] ^= 1
    s3.client().put_object(Bucket=bucket, Key=key, Body=bytes(content))
    with pytest.raises(StorageError) as caught:
        local_model(reward.path)
    assert caught.value.code == "WRPO-S017"


def test_what_was_changed_in_the_store_is_found_by_fetch(hub: HubServer, tmp_path: Path) -> None:
    store = str(tmp_path / "shared")
    config = config_of(tmp_path, store)
    fetch.fetch(config, store)
    place = find(store, "organisation/target", None)
    assert place is not None
    weights = Path(str(place)) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    # Another file under the name: the store's may be a link to the hub's cache.
    weights.unlink()
    weights.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        fetch.fetch(config, store)
    assert caught.value.code == "WRPO-S017"


def test_a_store_that_lacks_models_is_told_before_anything_runs(hub: HubServer, tmp_path: Path) -> None:
    config = config_of(tmp_path, str(tmp_path / "shared"))
    with pytest.raises(ConfigError) as caught:
        stored(config)
    assert [problem.place for problem in caught.value.problems] == ["sources.one.path", "target.path", "reward.path"]
    assert {problem.code for problem in caught.value.problems} == {"WRPO-M021"}
    assert not hub.requests, "the hub is not asked"


def test_a_branch_in_the_store_stays_where_it_was_fetched(hub: HubServer, originals: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "shared")
    config = config_of(tmp_path, store)
    fetch.fetch(config, store)
    hub.add("organisation/target", originals / "source", OTHER_COMMIT)
    assert COMMIT in resolved(config).target.path
    fetch.fetch(config, store)
    assert OTHER_COMMIT in resolved(config).target.path
    pinned = config_of(tmp_path, store, f"target.revision={COMMIT}")
    assert COMMIT in resolved(pinned).target.path


def test_pickles_and_code_are_refused_before_weights_come(hub: HubServer, originals: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    save_llama(pickled, chatml_tokenizer())
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    hub.add("organisation/source", pickled)
    coded = tmp_path / "coded"
    save_llama(coded, chatml_tokenizer())
    settings = json.loads((coded / "config.json").read_text()) | {
        "model_type": "strange", "auto_map": {"AutoConfig": "configuration_strange.Strange"},
    }  # fmt: skip
    (coded / "config.json").write_text(json.dumps(settings))
    (coded / "configuration_strange.py").write_text("raise SystemExit('this code ran')")
    hub.add("organisation/target", coded)
    with pytest.raises(ConfigError) as caught:
        fetch.fetch(config_of(tmp_path), None)
    assert [problem.code for problem in caught.value.problems] == ["WRPO-M006", "WRPO-M007"]
    assert not hub.downloads("model.safetensors")
    assert not hub.downloads("pytorch_model.bin")


def test_code_is_fetched_with_the_hashes_of_its_files_alone(hub: HubServer, tmp_path: Path) -> None:
    coded = tmp_path / "coded"
    save_llama(coded, chatml_tokenizer())
    (coded / "modeling_own.py").write_text("OWN = 1\n")
    hub.add("organisation/target", coded)
    asked = ["target.trust_remote_code=true", f"target.revision={COMMIT}"]
    with pytest.raises(ConfigError) as caught:
        fetch.fetch(config_of(tmp_path, "null", *asked), None)
    (problem,) = caught.value.problems
    assert (problem.code, problem.place) == ("WRPO-M019", "target.code_sha256")
    line = problem.fix[problem.fix.index("{") :]
    found = fetch.fetch(config_of(tmp_path, "null", *asked, f"target.code_sha256={line}"), None)
    assert (Path(found[1].folder) / "modeling_own.py").is_file()
    assert not (Path(found[0].folder) / "modeling_own.py").exists()


def test_the_command(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config_of(tmp_path)
    config = str(tmp_path / "fuse.yaml")
    assert main(["fetch", config, "--to", str(tmp_path / "shared"), "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["commit"] for entry in entries] == [COMMIT] * 3
    go_offline(monkeypatch)
    assert main(["fetch", config, "--to", str(tmp_path / "shared")]) == 0, "it verifies what is there"
    assert "all files have the hashes that the hub lists" in capsys.readouterr().out
    assert main(["fetch", config, "target.path=organisation/none"]) == 2
    assert "error[WRPO-M013]" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["~/models", "http://169.254.169.254/", "s3://user@bucket/x", "file:///etc", " "])
def test_a_store_is_a_folder_or_a_bucket(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    config_of(tmp_path)
    assert main(["fetch", str(tmp_path / "fuse.yaml"), "--to", place]) == 2
    assert "error[WRPO-C027]" in capsys.readouterr().err
    assert not hub.requests


def test_a_plan_reads_the_models_of_the_store(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = str(tmp_path / "shared")
    fetch.fetch(config_of(tmp_path), store)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "another node"))
    planned = [
        "planning.num_prompts=100", "planning.mean_prompt_tokens=10", "planning.mean_response_tokens=10",
    ]  # fmt: skip
    assert plan_run(config_of(tmp_path, store, *planned)).stages
    with pytest.raises(ConfigError):
        plan_run(config_of(tmp_path, "null", *planned))


def test_a_config_of_folders_has_nothing_to_fetch(originals: Path, tmp_path: Path) -> None:
    paths = [
        f"sources.one.path={originals}/source",
        f"target.path={originals}/target",
        f"reward.path={originals}/reward",
    ]
    config = config_of(tmp_path, "null", *paths, "target.revision=null")
    assert "nothing to fetch" in fetch.shown(fetch.fetch(config, None))


def test_the_help_is_there_at_once() -> None:
    seen = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "wrpo_ray.cli", "fetch", "--help"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "torch" not in {line.rpartition("|")[2].strip() for line in seen.stderr.splitlines()}


@pytest.mark.parametrize("commit", [None, 7, "../../elsewhere", "main", {}])
def test_a_branch_of_the_store_that_names_no_commit(tmp_path: Path, commit: object) -> None:
    store = str(tmp_path / "store")
    note_branch(store, "organisation/tiny", "main", cast(str, commit))
    with pytest.raises(StorageError, match="names no commit") as caught:
        find(store, "organisation/tiny", "main")
    assert caught.value.code == "WRPO-S023"
