"""Models in an object store are checked like those in folders, by their small files and the names of the others."""

import json
from pathlib import Path

import pytest

from tests.storage.s3_server import S3Server
from tests.tiny import chatml_tokenizer, save_llama
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import ModelFiles
from wrpo_ray.errors import Problem
from wrpo_ray.preflight.model_folder import ModelFacts, check_weights, locate_model
from wrpo_ray.preflight.tokenizer import check_tokenizer, check_vocabulary
from wrpo_ray.storage.location import Location, locate


@pytest.fixture
def model(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    monkeypatch.setenv("WRPO_RAY_CACHE", str(tmp_path / "cache"))
    bucket = locate(f"s3://{s3.new_bucket()}")
    for path in save_llama(tmp_path / "model", chatml_tokenizer()).iterdir():
        (bucket / "model" / path.name).upload(path)
    return bucket / "model"


def test_sound_model(model: Location, tmp_path: Path) -> None:
    files = ModelFiles(path=str(model))
    facts = locate_model("target", files)
    assert isinstance(facts, ModelFacts)
    assert list(check_weights("target", facts)) == []
    chat = check_tokenizer("target", files, facts)
    assert isinstance(chat, ChatTokenizer)
    assert list(check_vocabulary("target", files, facts, chat)) == []
    assert [path.name for path in (tmp_path / "cache").rglob("*.safetensors")] == []


def test_missing_weights(model: Location) -> None:
    (model / "model.safetensors.index.json").write_bytes(json.dumps({"weight_map": {"a": "b.safetensors"}}).encode())
    facts = locate_model("target", ModelFiles(path=str(model)))
    assert isinstance(facts, ModelFacts)
    (problem,) = check_weights("target", facts)
    assert "the first is b.safetensors" in problem.rule


def test_chat_template_is_missing(model: Location) -> None:
    (model / "chat_template.jinja").delete()
    files = ModelFiles(path=str(model))
    facts = locate_model("target", files)
    assert isinstance(facts, ModelFacts)
    problem = check_tokenizer("target", files, facts)
    assert isinstance(problem, Problem)
    assert problem.code == "WRPO-M004"


@pytest.mark.parametrize("end", ["/none", ""])
def test_no_model_there(model: Location, end: str) -> None:
    (model / "config.json").delete()
    problem = locate_model("target", ModelFiles(path=str(model) + end))
    assert isinstance(problem, Problem)
    assert (problem.place, problem.code) == ("target.path", "WRPO-M002" if end else "WRPO-M003")


def test_no_bucket(s3: S3Server) -> None:
    problem = locate_model("target", ModelFiles(path="s3://there-is-none/model"))
    assert isinstance(problem, Problem)
    assert problem.code == "WRPO-S005"
