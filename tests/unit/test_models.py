"""What a model path may be, and model folders that lie in an object store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.storage.s3_server import Fault, S3Server, running_server
from wrpo_ray.config import ModelFiles
from wrpo_ray.errors import ModelError, StorageError
from wrpo_ray.model_paths import absolute_path, is_local
from wrpo_ray.models import folder_digest, local_model, model_identity, pinned
from wrpo_ray.storage import node_cache
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, create_manifest

_WEIGHTS = os.urandom(3000)


@pytest.fixture(scope="module")
def s3_process() -> Iterator[S3Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def bucket(s3_process: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    for name, value in {**s3_process.environment, "WRPO_RAY_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return locate(f"s3://{s3_process.new_bucket()}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder on this machine."""
    (tmp_path / "tiny" / "original").mkdir(parents=True)
    (tmp_path / "tiny" / "config.json").write_text("{}")
    (tmp_path / "tiny" / "model.safetensors").write_bytes(_WEIGHTS)
    (tmp_path / "tiny" / "README.md").write_text("about")
    (tmp_path / "tiny" / "original" / "params.json").write_text("{}")
    return tmp_path / "tiny"


def put(folder: Path, place: Location) -> list[FileEntry]:
    """Upload `folder` and return entries as a step's manifest would list them."""
    entries = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        stored = (place / name).upload(path)
        entries.append(FileEntry(f"{place.name}/{name}", stored.num_bytes, stored.sha256, None))
    return entries


def finish(step: Location, files: list[FileEntry]) -> None:
    create_manifest(step, Manifest("sft", step.name, {}, {}, tuple(files), {}, {}, 1.0))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_which_paths_are_local(tmp_path: Path) -> None:
    assert [is_local(path) for path in ("/a", "./a", "~/a", str(tmp_path))] == [True] * 4
    assert [is_local(path) for path in ("org/name", "s3://bucket/model", "gs://bucket/model")] == [False] * 3
    assert absolute_path("s3://bucket/model") == "s3://bucket/model"


def test_other_paths_stay_as_they_are(tmp_path: Path) -> None:
    assert [local_model(path) for path in (str(tmp_path), "org/name", "./x")] == [str(tmp_path), "org/name", "./x"]


def test_pinned_needs_no_hub_for_an_object_store() -> None:
    files = pinned(ModelFiles(path="s3://bucket/model", chat_template="s3://bucket/chat.jinja"))
    assert (files.path, files.revision, files.chat_template) == ("s3://bucket/model", None, "s3://bucket/chat.jinja")


def test_a_model_has_one_identity_wherever_it_lies(
    bucket: Location, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wrpo_ray.models._WHOLE_FILE_BYTES", 1000)
    monkeypatch.setattr("wrpo_ray.models._PROBE_BYTES", 50)
    put(folder, bucket / "models" / "tiny")
    (bucket / "chat.jinja").write_bytes("{{ messages }} é".encode())
    (folder.parent / "chat.jinja").write_text("{{ messages }} é", encoding="utf-8")
    here = ModelFiles(path=str(folder), chat_template=str(folder.parent / "chat.jinja"))
    there = ModelFiles(path=f"{bucket}/models/tiny", chat_template=f"{bucket}/chat.jinja")
    assert model_identity(there) == model_identity(here)
    (folder / "model.safetensors").write_bytes(_WEIGHTS[:-1] + b"?")
    folder_digest.cache_clear()
    assert model_identity(there)["files"] != model_identity(here)["files"]


def test_a_model_of_an_object_store_is_downloaded_once(bucket: Location, folder: Path, s3_process: S3Server) -> None:
    place = bucket / "models" / "tiny"
    put(folder, place)
    s3_process.application.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: local_model(str(place)), range(8)))
    assert len(paths) == 1
    assert contents(Path(paths.pop())) == contents(folder)
    assert s3_process.application.requests["GET"] <= 8 * 2 + 4, "8 listings and looks for a manifest, each file once"


def test_processes_of_a_node_share_one_copy(bucket: Location, folder: Path, s3_process: S3Server) -> None:
    put(folder, bucket / "tiny")
    ask = f"from wrpo_ray.models import local_model; print(local_model('{bucket}/tiny'))"
    with s3_process.failing(Fault("slow", methods=("GET",), path="*/tiny/*", wait_s=0.5)) as waits:
        processes = [subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) for _ in range(3)]
        paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert waits["slow"] == 4, "each of the four files is fetched by one process"
    assert len(paths) == 1
    assert contents(Path(paths.pop())) == contents(folder)


def test_without_weights_only_small_files_come(bucket: Location, folder: Path) -> None:
    put(folder, bucket / "tiny")
    small = local_model(f"{bucket}/tiny", with_weights=False)
    assert sorted(contents(Path(small))) == ["README.md", "config.json", "original/params.json"]
    assert local_model(f"{bucket}/tiny") != small


def test_a_model_that_was_replaced_is_downloaded_anew(bucket: Location, folder: Path) -> None:
    put(folder, bucket / "tiny")
    old = local_model(f"{bucket}/tiny")
    (bucket / "tiny" / "config.json").write_bytes(b'{"new": 1}')
    new = local_model(f"{bucket}/tiny")
    assert json.loads((Path(new) / "config.json").read_text()) == {"new": 1}
    assert (Path(old) / "config.json").read_text() == "{}"


def test_a_steps_model_is_verified_against_its_manifest(bucket: Location, folder: Path) -> None:
    step = bucket / "runs/r1/sft/0123"
    files = put(folder, step / "model")
    (step / "model" / "stranger.bin").write_bytes(b"not listed")
    finish(step, files)
    assert contents(Path(local_model(f"{step}/model"))) == contents(folder)
    shutil.rmtree(node_cache.cache_root())

    (step / "model" / "model.safetensors").write_bytes(_WEIGHTS[:-1] + b"?")
    with pytest.raises(StorageError, match=r"model/model\.safetensors is not the file that was written") as raised:
        local_model(f"{step}/model")
    assert raised.value.code == "WRPO-S017"
    (step / "model" / "model.safetensors").delete()
    with pytest.raises(StorageError, match="is missing"):
        local_model(f"{step}/model")
    assert [path.suffix for path in node_cache.cache_root().iterdir()] == [".lock"], "nothing half-downloaded stays"


def test_a_manifest_of_another_kind_is_not_ours(bucket: Location, folder: Path) -> None:
    (bucket / "models" / "manifest.json").write_json({"models": ["tiny"]})
    put(folder, bucket / "models" / "tiny")
    assert contents(Path(local_model(f"{bucket}/models/tiny"))) == contents(folder)


def test_a_damaged_manifest_is_not_passed_over(bucket: Location, folder: Path) -> None:
    step = bucket / "runs/r1/sft/0123"
    finish(step, put(folder, step / "model"))
    raw = (step / "manifest.json").read_json()
    (step / "manifest.json").write_json({**raw, "files": raw["files"][1:]})
    with pytest.raises(StorageError, match=r"manifest\.json was changed"):
        local_model(f"{step}/model")


def test_a_download_that_was_killed_is_begun_again(bucket: Location, folder: Path) -> None:
    put(folder, bucket / "tiny")
    path = Path(local_model(f"{bucket}/tiny"))
    dead = path.with_name(f"{path.name}.0123.tmp")
    dead.mkdir()
    (path / "config.json").unlink()
    assert local_model(f"{bucket}/tiny") == str(path)
    assert contents(path) == contents(folder)
    assert not dead.exists()


def test_too_little_space_is_said_before_anything_is_fetched(
    bucket: Location, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, bucket / "tiny")
    monkeypatch.setattr(node_cache, "free_bytes", lambda _: 100)
    with pytest.raises(StorageError, match=r"no space left on device; 3,009 bytes are needed"):
        local_model(f"{bucket}/tiny")


def test_no_model_there(bucket: Location) -> None:
    with pytest.raises(ModelError, match="holds no files") as raised:
        local_model(f"{bucket}/nothing")
    assert raised.value.code == "WRPO-M002"


def test_a_failing_store_is_no_missing_model(
    bucket: Location, folder: Path, s3_process: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, bucket / "tiny")
    monkeypatch.setenv("WRPO_RAY_STORAGE_BUDGET_S", "0.3")
    with s3_process.failing(Fault("slow_down", methods=("GET",), path="*config.json")):
        with pytest.raises(StorageError, match=r"config\.json") as raised:
            local_model(f"{bucket}/tiny")
        assert raised.value.code == "WRPO-S003"
    assert contents(Path(local_model(f"{bucket}/tiny"))) == contents(folder)
