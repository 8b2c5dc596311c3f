"""Code of models: it runs only when each file is known by its hash, and that of other repositories never."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import COMMIT, HubServer, hub_server
from tests.tiny import chatml_tokenizer, save_classifier, save_llama
from tests.unit.test_hub_models import use
from tests.unit.test_preflight import config_of, folder, originals  # noqa: F401 - fixtures
from wrpo_ray.config import ModelFiles
from wrpo_ray.engines.transformers_scorer import TransformersScorer
from wrpo_ray.errors import ConfigError, ModelError, Problem
from wrpo_ray.model_trust import check_settings, code_files, require_known_code, unknown_code
from wrpo_ray.models import on_node, tokenizer_of
from wrpo_ray.preflight import check_run, require_runnable


def edit(path: Path, **settings: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def malicious(place: Path, canary: Path) -> Path:
    """Return a model whose configuration, tokenizer and class are code that leaves a mark when it runs."""
    save_llama(place, chatml_tokenizer())
    mark = f"open({str(canary)!r}, 'w').close()\n"
    for name in ("configuration_evil", "tokenization_evil", "modeling_evil"):
        (place / f"{name}.py").write_text(mark)
    own = {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"}
    edit(place / "config.json", model_type="evil", auto_map=own)
    edit(place / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]})
    return place


@pytest.mark.parametrize("trusted", [False, True])
def test_code_without_hashes_never_runs(folder: Path, tmp_path: Path, trusted: bool) -> None:  # noqa: F811
    canary = tmp_path / "canary"
    model = malicious(tmp_path / "evil", canary)
    problems = check_run(config_of(folder, f"target.path={model}", f"target.trust_remote_code={str(trusted).lower()}"))
    assert [problem.place for problem in problems if problem.code in ("WRPO-M007", "WRPO-M019")] == [
        "target.code_sha256" if trusted else "target.trust_remote_code"
    ]
    assert not canary.exists()
    if trusted:
        with pytest.raises(ModelError):
            tokenizer_of(ModelFiles(path=str(model), trust_remote_code=True))
        assert not canary.exists()


def test_the_message_has_the_line_that_lets_read_code_run(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    coded = tmp_path / "coded"
    save_llama(coded, chatml_tokenizer())
    (coded / "inner").mkdir()
    (coded / "inner" / "layers.py").write_text("LAYERS = 1\n")
    (coded / "modeling_own.py").write_text("OWN = 1\n")
    trusting = [f"target.path={coded}", "target.trust_remote_code=true"]
    with pytest.raises(ConfigError) as caught:
        require_runnable(config_of(folder, *trusting))
    (problem,) = caught.value.problems
    assert problem.code == "WRPO-M019"
    line = problem.fix[problem.fix.index("{") :]
    assert not check_run(config_of(folder, *trusting, f"target.code_sha256={line}"))
    (coded / "modeling_own.py").write_text("OWN = 2\n")
    (problem,) = check_run(config_of(folder, *trusting, f"target.code_sha256={line}"))
    assert "modeling_own.py is not the file that it names" in problem.rule


def test_a_new_file_beside_the_known_ones_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("A = 1\n")
    known = code_files(tmp_path)
    require_known_code(tmp_path, known)
    require_known_code(tmp_path, {**known, "gone.py": "0" * 64})
    (tmp_path / "b.py").write_text("B = 1\n")
    problem = unknown_code(tmp_path, known)
    assert problem is not None
    assert "b.py is not among them" in problem.rule


def test_each_process_that_loads_code_compares_it(tmp_path: Path) -> None:
    """Not the driver alone: an engine on another node may see another folder."""
    path = save_classifier(tmp_path / "reward", chatml_tokenizer())
    (path / "modeling_own.py").write_text("OWN = 1\n")
    from wrpo_ray.config import TransformersRewardConfig

    reward = TransformersRewardConfig(
        type="transformers", path=str(path), dtype="float32", max_model_len=128, trust_remote_code=True,
        code_sha256=code_files(path),
    )  # fmt: skip
    TransformersScorer(reward)
    (path / "modeling_own.py").write_text("OWN = 2\n")
    with pytest.raises(ModelError, match="code of a model runs only when"):
        TransformersScorer(reward)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as server:
        use(server, tmp_path, monkeypatch)
        yield server


def test_code_of_the_hub_is_not_even_fetched_without_trust(hub: HubServer, tmp_path: Path) -> None:
    hub.add("organisation/evil", malicious(tmp_path / "evil", tmp_path / "canary"))
    here = Path(on_node(ModelFiles(path="organisation/evil", revision=COMMIT)).path)
    assert not list(here.rglob("*.py"))
    with pytest.raises(ModelError) as caught:
        on_node(ModelFiles(path="organisation/evil", revision=COMMIT, trust_remote_code=True))
    assert caught.value.code == "WRPO-M019"
    assert not (tmp_path / "canary").exists()


def problems_with(tmp_path: Path, name: str, settings: Any, may_run: bool = False) -> list[Problem]:
    (tmp_path / name).write_text(json.dumps(settings))
    return list(check_settings("target", "path", tmp_path, frozenset({name}), may_run))


@pytest.mark.parametrize(
    ("name", "settings", "may_run"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "other/repository--configuration.Own"}}, True),
        ("config.json", {"vision_config": {"auto_map": {"AutoConfig": "other/repository--configuration.Own"}}}, True),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["other/repository--tok.Own", None]}}, True),
        ("config.json", {"_attn_implementation": "kernels-community/flash-attn"}, True),
        ("config.json", {"_attn_implementation_internal": "evil/kernel"}, False),
        ("config.json", {"text_config": {"attn_implementation": "evil/kernel:main"}}, False),
        ("config.json", {"_experts_implementation": "evil/kernel"}, False),
        ("config.json", {"trust_remote_code": True}, False),
        ("generation_config.json", {"trust_remote_code": True}, False),
        ("adapter_config.json", {"base_model_name_or_path": "other/model"}, False),
    ],
)
def test_settings_that_would_fetch_what_nobody_named(
    tmp_path: Path, name: str, settings: dict[str, Any], may_run: bool
) -> None:
    problems = problems_with(tmp_path, name, settings, may_run)
    assert [problem.code for problem in problems] == ["WRPO-M020"]


@pytest.mark.parametrize(
    "settings",
    [
        {"architectures": ["LlamaForCausalLM"], "_name_or_path": "meta-llama/Llama-3"},
        {"auto_map": {"AutoConfig": "configuration_own.Own"}},
        {"_attn_implementation": "sdpa", "attn_implementation": None},
        {"trust_remote_code": False},
        {"custom_pipelines": {"text": {"impl": "pipeline.Own"}}},
        [1, 2],
        None,
    ],
)
def test_ordinary_settings(tmp_path: Path, settings: Any) -> None:
    assert problems_with(tmp_path, "config.json", settings) == []


@pytest.mark.parametrize("may_run", [True, False])
def test_a_draft_that_names_another_model_to_be_loaded_in_its_place(tmp_path: Path, may_run: bool) -> None:
    named = {"speculators_config": {"algorithm": "eagle3", "verifier": {"name_or_path": "/shared/other"}}}
    (problem,) = problems_with(tmp_path, "config.json", named, may_run)
    assert (problem.code, "in place of this one" in problem.rule) == ("WRPO-M020", True)


def test_settings_that_cannot_be_read_are_not_this_checks_business(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert list(check_settings("target", "path", tmp_path, frozenset(), False)) == []


def test_nothing_of_a_refused_model_is_loaded(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    coded = tmp_path / "coded"
    save_llama(coded, chatml_tokenizer())
    edit(coded / "config.json", _attn_implementation="evil/kernel")
    # A tokenizer that cannot be loaded would be a problem of its own if anybody tried.
    (coded / "tokenizer.json").write_text("{")
    codes = [problem.code for problem in check_run(config_of(folder, f"target.path={coded}"))]
    assert codes == ["WRPO-M020"]


def test_a_model_in_both_forms_is_read_as_safetensors(tmp_path: Path) -> None:
    """A pickle beside the safetensors is never opened: it would leave a mark."""
    path = save_classifier(tmp_path / "reward", chatml_tokenizer())
    canary = tmp_path / "canary"
    pickle = b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
    (path / "pytorch_model.bin").write_bytes(pickle)
    from wrpo_ray.config import SFTConfig, TransformersRewardConfig
    from wrpo_ray.train.model import load_model

    TransformersScorer(
        TransformersRewardConfig(type="transformers", path=str(path), dtype="float32", max_model_len=128)
    )
    target = save_llama(tmp_path / "target", chatml_tokenizer())
    shutil.copy(path / "pytorch_model.bin", target)
    train = SFTConfig(learning_rate=1e-3, precision="fp32")
    load_model(ModelFiles(path=str(target)), train)
    (target / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load_model(ModelFiles(path=str(target)), train)
    assert not canary.exists()
