"""Models of the hub on a node: pinned, fetched once however many ask, compared by hash, usable without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.hub_server import COMMIT, OTHER_COMMIT, HubServer, hub_server
from tests.tiny import chatml_tokenizer, save_llama
from wrpo_ray import hub_models
from wrpo_ray.config import ModelFiles
from wrpo_ray.errors import ModelError
from wrpo_ray.hub_models import Kind, commit_of, hub_folder, read_record, wanted
from wrpo_ray.models import model_identity, on_node, pinned
from wrpo_ray.storage import node_cache

NAME = "organisation/tiny"
WEIGHTS = Kind(weights=True)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with all that a repository may hold besides what is read."""
    folder = save_llama(tmp_path_factory.mktemp("original") / "tiny", chatml_tokenizer())
    (folder / "README.md").write_text("# tiny")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('this code ran')")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "consolidated.safetensors").write_bytes(b"the same weights again")
    (folder / "original").mkdir()
    (folder / "original" / "params.json").write_text("{}")
    return folder


@pytest.fixture
def hub(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        server.add(NAME, original)
        use(server, tmp_path, monkeypatch)
        yield server


def use(server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process ask the server, with caches in `folder`."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
    monkeypatch.setenv(node_cache.CACHE_VARIABLE, str(folder / "cache"))


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {".fetched.json"}


def test_a_branch_becomes_the_commit_that_it_stands_at(hub: HubServer, original: Path) -> None:
    assert commit_of(NAME, None) == commit_of(NAME, "main") == COMMIT
    assert pinned(ModelFiles(path=NAME, revision="main")).revision == COMMIT
    hub.add(NAME, original, OTHER_COMMIT)
    assert pinned(ModelFiles(path=NAME)).revision == OTHER_COMMIT
    before = hub.requests.total()
    assert pinned(ModelFiles(path=NAME, revision=COMMIT)).revision == COMMIT
    assert hub.requests.total() == before, "a commit needs no answer of the hub"


def test_only_what_is_read_is_fetched(hub: HubServer) -> None:
    folder = hub_folder(NAME, COMMIT, WEIGHTS)
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names(folder)
    for name in ("pytorch_model.bin", "modeling_tiny.py", "consolidated.safetensors", "params.json", "README.md"):
        assert not hub.downloads(name)
        assert name not in names(folder)
    record = read_record(folder)
    assert record is not None
    assert "pytorch_model.bin" in record["names"]
    assert len(record["files"]["model.safetensors"][1]) == 64
    assert not hub.downloads("modeling_tiny.py")
    assert "modeling_tiny.py" in names(hub_folder(NAME, COMMIT, Kind(weights=False, code=True)))


def test_the_folder_is_a_model(hub: HubServer, original: Path) -> None:
    here = on_node(ModelFiles(path=NAME))
    assert (Path(here.path).is_dir(), here.revision) == (True, None)
    model = AutoModelForCausalLM.from_pretrained(here.path)
    assert model.config.hidden_size == 64
    assert AutoTokenizer.from_pretrained(here.path).chat_template == chatml_tokenizer().chat_template
    assert on_node(here) == here


ASK = """
import sys
from wrpo_ray.config import ModelFiles
from wrpo_ray.models import on_node
print(on_node(ModelFiles(path="organisation/tiny", revision=sys.argv[1])).path)
"""


def test_many_processes_that_start_at_once_cost_one_download(hub: HubServer, tmp_path: Path) -> None:
    hub.wait_s = 1.0
    environment = os.environ | {
        "HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(tmp_path / "many"), "WRPO_RAY_CACHE": str(tmp_path / "node"),
    }  # fmt: skip
    command = [sys.executable, "-c", ASK, COMMIT]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert len(folders) == 1
    assert (Path(folders.pop()) / "model.safetensors").is_file()
    # The client lists the files once more than this package.
    asked = {line: count for line, count in hub.requests.items() if count > (2 if "/tree/" in line else 1)}
    assert not asked, "who comes later asks the hub for nothing"


def test_without_a_network_the_fetched_model_is_used(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit_of(NAME, None) == COMMIT
    folder = hub_folder(NAME, COMMIT, WEIGHTS)
    before = hub.requests.total()
    go_offline(monkeypatch)
    files = pinned(ModelFiles(path=NAME))
    assert (files.revision, on_node(files).path) == (COMMIT, str(folder))
    # The links may go, as with a cache of the links on another disk: the hub's own cache is enough.
    shutil.rmtree(folder)
    assert names(hub_folder(NAME, COMMIT, WEIGHTS)) == names(hub_folder(NAME, COMMIT, WEIGHTS))
    assert hub.requests.total() == before


@pytest.mark.slow
def test_a_server_that_is_gone_is_like_no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub_folder(NAME, COMMIT, WEIGHTS)
    expected = names(folder)
    shutil.rmtree(folder)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    template = "http://127.0.0.1:1/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert names(hub_folder(NAME, COMMIT, WEIGHTS)) == expected


def test_what_was_never_fetched_is_said(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    with pytest.raises(ModelError, match="neither cached nor within reach") as caught:
        hub_folder(NAME, COMMIT, WEIGHTS)
    assert caught.value.code == "WRPO-M013"
    assert "wrpo-ray fetch" in str(caught.value.help)


def test_a_file_that_is_not_the_listed_one_is_refused(hub: HubServer, original: Path) -> None:
    content = (original / "model.safetensors").read_bytes()
    hub.repositories[NAME].wrong["model.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    with pytest.raises(ModelError, match=r"model\.safetensors is not the file that the hub lists") as caught:
        hub_folder(NAME, COMMIT, WEIGHTS)
    assert caught.value.code == "WRPO-M018"
    hub.repositories[NAME].wrong.clear()
    assert "model.safetensors" in names(hub_folder(NAME, COMMIT, WEIGHTS)), "the wrong one is fetched again"


def test_a_bit_that_flipped_on_the_disk_is_found_and_mended(hub: HubServer, original: Path) -> None:
    for network in (True, False):
        folder = hub_folder(NAME, COMMIT, WEIGHTS)
        blob = (folder / "tokenizer.json").resolve()
        blob.write_bytes(blob.read_bytes().replace(b"version", b"versiom", 1))
        shutil.rmtree(folder)
        if network:
            fetched = hub_folder(NAME, COMMIT, WEIGHTS) / "tokenizer.json"
            assert fetched.read_bytes() == (original / "tokenizer.json").read_bytes()
        else:
            hub.repositories.clear()
            with pytest.raises(ModelError) as caught:
                hub_folder(NAME, COMMIT, WEIGHTS)
            assert caught.value.code == "WRPO-M011"


def test_offline_the_hash_in_the_caches_own_name_is_compared(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hub_folder(NAME, COMMIT, WEIGHTS)
    blob = (folder / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    shutil.rmtree(folder)
    go_offline(monkeypatch)
    with pytest.raises(ModelError) as caught:
        hub_folder(NAME, COMMIT, WEIGHTS)
    assert caught.value.code == "WRPO-M018"


def test_a_download_that_was_killed_leaves_nothing_that_counts(hub: HubServer) -> None:
    folder = hub_folder(NAME, COMMIT, WEIGHTS)
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in names(hub_folder(NAME, COMMIT, WEIGHTS))


def test_identity_is_name_and_commit_whatever_the_branch_is_called(hub: HubServer) -> None:
    identities = [model_identity(ModelFiles(path=NAME, revision=each)) for each in (None, "main", COMMIT)]
    assert identities[0] == identities[1] == identities[2]
    assert identities[0] == {"hub": NAME, "commit": COMMIT, "chat_template": None}


def test_shards_that_the_index_lists_are_fetched_and_no_others(hub: HubServer, original: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(original, folder)
    for number in (1, 2, 3):
        (folder / f"model-0000{number}-of-00002.safetensors").write_bytes(b"shard")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    hub.add("organisation/sharded", folder)
    found = {name for name in names(hub_folder("organisation/sharded", COMMIT, WEIGHTS)) if name.endswith("tensors")}
    assert found == set(weight_map.values())
    (folder / "model-00002-of-00002.safetensors").unlink()
    hub.add("organisation/torn", folder)
    with pytest.raises(ModelError, match="1 files of weights are missing") as caught:
        hub_folder("organisation/torn", COMMIT, WEIGHTS)
    assert caught.value.code == "WRPO-M005"


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "x/model.safetensors", "a.gguf", "../config.json", "a.pkl", "a.so"])
def test_what_is_never_fetched(name: str) -> None:
    assert wanted([name], Kind(weights=True, code=True)) == []


@pytest.mark.parametrize(
    "record",
    ["", "{", "[" * 100_000, "[]", "7", "{}", '{"files": {}, "names": []}',
     '{"hub": "a/b", "commit": "c", "files": [], "names": []}',
     '{"hub": "a/b", "commit": "c", "files": {"config.json": 3}, "names": []}',
     '{"hub": "a/b", "commit": "c", "files": {"../config.json": [3, "x"]}, "names": []}'],
)  # fmt: skip
def test_a_record_that_was_cut_is_made_again(hub: HubServer, record: str) -> None:
    folder = hub_folder(NAME, COMMIT, WEIGHTS)
    (folder / ".fetched.json").write_text(record)
    assert read_record(folder) is None
    assert hub_folder(NAME, COMMIT, WEIGHTS) == folder
    assert read_record(folder) is not None


def test_a_server_that_lists_files_elsewhere_is_refused(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = hub_models.HubFile("additional_chat_templates/../../../x.json", 2, None)

    def found(*_: object) -> tuple[Path, list[hub_models.HubFile], list[str]]:
        return Path("/nowhere"), [outside], [outside.path]

    monkeypatch.setattr(hub_models, "_found", found)
    with pytest.raises(ModelError, match="no file below a model's folder") as caught:
        hub_folder(NAME, COMMIT, WEIGHTS)
    assert caught.value.code == "WRPO-M018"
