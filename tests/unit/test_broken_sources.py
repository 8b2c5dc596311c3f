"""A run that goes on without a source: recorded once, and only while enough are left."""

from pathlib import Path

import pytest

from wrpo_ray.broken_sources import forget_broken, mark_broken, may_go_on, read_broken, without
from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import ConfigError, ModelError
from wrpo_ray.model_card import model_card
from wrpo_ray.storage.location import locate


def config(min_sources: int | None) -> FuseConfig:
    return FuseConfig.model_validate({
        "run": {"name": "r"},
        "prompts": {"path": "p.jsonl"},
        "sources": [{"name": name, "path": f"/models/{name}"} for name in "abc"],
        "target": {"name": "t", "path": "/models/t"},
        "reward": {"type": "verifier"},
        "min_sources": min_sources,
        "sft": {"learning_rate": 1.0},
        "wrpo": {"learning_rate": 1.0},
    })  # fmt: skip


def test_records_are_made_once_and_forgotten_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary-in-the-mine")
    folder = locate(tmp_path)
    assert mark_broken(folder, "b", ModelError("no weights, canary-in-the-mine", code="WRPO-M003"), 1).startswith("no")
    mark_broken(folder, "b", ModelError("another reason"), 2)
    assert read_broken(folder)["b"].code == "WRPO-M003"
    assert "canary" not in (tmp_path / "b.json").read_text()
    forget_broken(folder)
    assert read_broken(folder) == {}


def test_as_many_sources_as_min_sources_must_be_left() -> None:
    assert not may_go_on(config(None), 1)
    assert may_go_on(config(2), 1)
    assert not may_go_on(config(2), 2)
    assert [source.name for source in without(config(2), {"b"}).sources] == ["a", "c"]
    with pytest.raises(ConfigError, match="1 usable sources are left, min_sources asks for 2; broken: a, b"):
        without(config(2), {"a", "b"})


def test_the_model_card_says_what_was_left_out() -> None:
    assert "could not be used: b." in model_card(without(config(2), {"b"}), {}, ["b"])
