"""Real Ray Data and real vLLM in its child process: every sample is kept and scored, and nothing is left running."""

import contextlib
import shutil
import time
from pathlib import Path

import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from tests.faults.fake_engine import wait_until
from tests.tiny import chatml_tokenizer, headers_tokenizer, save_classifier, save_neox, save_qwen2
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import (
    EngineConfig,
    FaultsConfig,
    ModelConfig,
    ResourcesConfig,
    SamplingConfig,
    TransformersRewardConfig,
    VllmRewardConfig,
)
from wrpo_ray.data.sampling import SamplingJob, sample
from wrpo_ray.data.scoring import score
from wrpo_ray.engines.protocol import Answer
from wrpo_ray.engines.transformers_scorer import TransformersScorer
from wrpo_ray.errors import ModelError
from wrpo_ray.models import tokenizer_of
from wrpo_ray.schema import Prompt, Response, ResponseWithLogps, ScoredResponse, prompt_id
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import Manifest, RunLayout, create_manifest, require_manifest
from wrpo_ray.storage.tables import read_rows, write_rows

ENGINE = EngineConfig(
    dtype="float32", max_model_len=96, max_num_seqs=16, max_num_batched_tokens=512, enforce_eager=True
)
RESOURCES = ResourcesConfig(num_cpus=1.0, prompts_per_shard=3, env_vars={"VLLM_LOGGING_LEVEL": "ERROR"})
# All that stands between the model's log-probs and the draw.
SAMPLING = SamplingConfig(num_samples=3, max_tokens=6, temperature=0.7, top_p=0.9, repetition_penalty=1.2)

SAVED = {"qwen": (save_qwen2, chatml_tokenizer), "neox": (save_neox, headers_tokenizer)}


def model(name: str, path: Path) -> ModelConfig:
    return ModelConfig(name=name, path=str(path), engine=ENGINE, sampling=SAMPLING, resources=RESOURCES)


def all_prompts() -> list[Prompt]:
    texts = [*(f"Say the word number {number}" for number in range(5)), "too long " * 200]
    conversations = [[{"role": "user", "content": text}] for text in texts]
    rows = [Prompt(prompt_id(messages), messages, "preference", None) for messages in conversations]
    return sorted(rows, key=lambda row: row.prompt_id)


def wait_for_all_cpus() -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]:
            return True
        time.sleep(0.2)
    return False


def living_replicas() -> list[str]:
    """Return the names of the replicas that Ray has not declared dead, those of earlier tests included."""
    return [name for name in ray.util.list_named_actors() if name.startswith(("sample ", "score "))]


def engine_processes() -> list[str]:
    """Return the command lines of all engines on this machine that belong to this test's user and tree."""
    lines = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if "wrpo_ray.engines.child" in line or "VLLM::" in line]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("names", [["qwen"], pytest.param(["qwen", "neox"], marks=pytest.mark.slow)], ids="-".join)
def test_sources_in_one_job(names: list[str], tmp_path: Path) -> None:
    before = engine_processes()
    layout = RunLayout(locate(tmp_path / "run"))
    prompts = all_prompts()
    too_long = {row.prompt_id for row in prompts if row.messages[0]["content"].startswith("too long")}
    given = Step(
        "prompts", {}, (), lambda folder: StepResult((write_rows(folder, "data/p.parquet", prompts, Prompt),), {})
    )
    execute(given, layout, {})
    reward_path = save_classifier(tmp_path / "reward", chatml_tokenizer())
    reward = VllmRewardConfig(type="vllm", path=str(reward_path), engine=ENGINE, resources=RESOURCES)
    reference = TransformersScorer(
        TransformersRewardConfig(type="transformers", path=str(reward_path), dtype="float32", max_model_len=96)
    )
    for name in names:
        save, tokenizer = SAVED[name]
        source = model(name, save(tmp_path / name, tokenizer()))
        with_logps = source.name == "qwen"
        job = SamplingJob(source, given.folder(layout), ("preference",), 7, source.name, with_logps=with_logps)
        drawn = Step(f"sample-{source.name}", {}, (), lambda folder, job=job: sample(job, folder))
        summary = execute(drawn, layout, {}).summary
        rows = read_rows(drawn.folder(layout), Response)
        assert summary["quarantined"] == {"prompt_too_long": 1}
        assert summary["engine_starts"] == 1
        assert {(row.prompt_id, row.sample_index) for row in rows} == {
            (row.prompt_id, index) for row in prompts if row.prompt_id not in too_long for index in range(3)
        }
        assert len({row.text for row in rows}) > 10
        assert all(
            row.num_tokens == len(row.token_ids) <= 6 and row.finish_reason in ("stop", "length") for row in rows
        )
        if with_logps:
            _assert_logps_match(read_rows(drawn.folder(layout), ResponseWithLogps), prompts, source)
        _assert_a_lost_shard_comes_back_equal(job, drawn.folder(layout), locate(tmp_path / f"again-{source.name}"))
        scored = Step(
            f"score-{source.name}",
            {},
            (),
            lambda folder, d=drawn: score(reward, given.folder(layout), [d.folder(layout)], folder),
        )
        execute(scored, layout, {})
        _assert_rewards_match(read_rows(scored.folder(layout), ScoredResponse), prompts, reference)
    assert not living_replicas()
    assert wait_for_all_cpus(), f"{ray.available_resources()} of {ray.cluster_resources()}; {living_replicas()}"
    wait_until(lambda: set(engine_processes()) <= set(before), "the engines to be gone", timeout_s=30)


def _assert_a_lost_shard_comes_back_equal(job: SamplingJob, folder: Location, again: Location) -> None:
    """Half of the shards are committed: only the other half is drawn, byte for byte what it was."""
    for name in ("plan.json", "commits", "data"):
        source, target = Path(folder.key) / name, Path(again.key) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    lost = sorted((Path(again.key) / "commits").iterdir())[1]
    lost.unlink()
    for path in (Path(again.key) / "data").glob(f"{lost.stem}*"):
        path.unlink()
    result = sample(job, again)
    expected = [entry for entry in require_manifest(folder).files if entry.num_rows is not None]
    assert [entry for entry in result.files if entry.num_rows is not None] == expected


def _assert_rewards_match(rows: list[ScoredResponse], prompts: list[Prompt], reference: TransformersScorer) -> None:
    """vLLM's raw scores are those of transformers on the same model."""
    by_id = {row.prompt_id: row for row in prompts}
    expected = reference.score([Answer(by_id[row.prompt_id], row.text) for row in rows], lambda: None)
    assert [row.reward for row in rows] == pytest.approx(expected, abs=1e-4)
    # A sigmoid would keep them in (0, 1).
    assert min(row.reward for row in rows) < 0 or max(row.reward for row in rows) > 1


@torch.no_grad()
def _assert_logps_match(rows: list[ResponseWithLogps], prompts: list[Prompt], source: ModelConfig) -> None:
    """What vLLM says of the ids that it drew, end token included, is what transformers computes without sampling."""
    network = AutoModelForCausalLM.from_pretrained(source.path).eval()
    chat = ChatTokenizer(tokenizer_of(source))
    asked = {row.prompt_id: chat.encode_prompt(row.messages) for row in prompts}
    expected = []
    for row in rows:
        prompt = asked[row.prompt_id]
        logits = network(torch.tensor([prompt + row.token_ids])).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(-1).double().gather(1, torch.tensor(row.token_ids)[:, None])
        expected.append(float(logps.sum()))
    assert [row.logps for row in rows] == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("local_ray")
def test_a_broken_model_fails_within_a_minute_with_its_own_error(tmp_path: Path) -> None:
    path = save_qwen2(tmp_path / "qwen", chatml_tokenizer())
    (path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0 no json ")
    prompts = locate(tmp_path / "prompts")
    files = (write_rows(prompts, "data/p.parquet", all_prompts(), Prompt),)
    create_manifest(prompts, Manifest("prompts", "f", {}, {}, files, {}, {}, 0.0))
    faults = FaultsConfig(engine_start_attempts=2)
    job = SamplingJob(model("broken", path), prompts, ("preference",), 7, "broken", faults)
    started = time.monotonic()
    with pytest.raises(ModelError, match=r"failed to start 2 times in a row; last error: .*SafetensorError") as raised:
        sample(job, locate(tmp_path / "step"))
    assert time.monotonic() - started < 60
    assert raised.value.code == "WRPO-E001"
