"""A real vLLM in its child process: batches that are in it together come out as they do one by one."""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
from vllm import LLM, SamplingParams

from tests.tiny import chatml_tokenizer, save_qwen2
from wrpo_ray.config import EngineConfig, FaultsConfig, ModelConfig, SamplingConfig
from wrpo_ray.engines.protocol import BatchDone, BatchRefused, SetAside
from wrpo_ray.engines.requests import tempered
from wrpo_ray.engines.supervisor import SupervisedEngine
from wrpo_ray.engines.vllm_batches import Request, VllmBatches
from wrpo_ray.engines.vllm_generator import VllmGenerator
from wrpo_ray.schema import Prompt, prompt_id

NUM_SAMPLES, NUM_PROMPTS = 3, 24
ENGINE = EngineConfig(
    dtype="float32",
    max_model_len=192,
    # Few: requests of several batches wait for each other and share steps.
    max_num_seqs=8,
    max_num_batched_tokens=512,
    enforce_eager=True,
    extra_args={"block_size": 32},
)


def prompts() -> list[Prompt]:
    texts = [f"number {number} " + "of many words " * 8 for number in range(NUM_PROMPTS)]
    texts[7] = "too long " * 200
    conversations = [[{"role": "user", "content": text}] for text in texts]
    return [Prompt(prompt_id(messages), messages, "sft", None) for messages in conversations]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SupervisedEngine]:
    path = save_qwen2(tmp_path_factory.mktemp("model"), chatml_tokenizer())
    sampling = SamplingConfig(num_samples=NUM_SAMPLES, max_tokens=12, temperature=0.7)
    model = ModelConfig(name="tiny", path=str(path), engine=ENGINE, sampling=sampling)
    made = SupervisedEngine(
        functools.partial(VllmGenerator, model, 7, "identity"), "generate", "sample tiny", FaultsConfig()
    )
    yield made
    made.close()


def test_together_and_one_by_one_are_the_same_and_prompts_are_computed_once(engine: SupervisedEngine) -> None:
    rows, counts = prompts(), Counter[str]()
    together = engine.run(rows, counts)
    assert counts["engine_starts"] == 1
    with ThreadPoolExecutor(6) as pool:
        in_six = list(pool.map(engine.run, [rows[start : start + 4] for start in range(0, NUM_PROMPTS, 4)]))
    assert [outcome for batch in in_six for outcome in batch] == together
    (too_long,) = [outcome for outcome in together if isinstance(outcome, SetAside)]
    assert together[7] is too_long
    drawn = [outcome for outcome in together if not isinstance(outcome, SetAside)]
    assert all([row.sample_index for row in group] == list(range(NUM_SAMPLES)) for group in drawn)
    # Whole blocks of 32 tokens are found again by all but the first sample of each prompt.
    share = counts["num_cached_prompt_tokens"] / counts["num_prompt_tokens"]
    assert 0.4 < share < (NUM_SAMPLES - 1) / NUM_SAMPLES


def test_a_prompt_with_a_temperature_of_its_own_among_others(engine: SupervisedEngine) -> None:
    """At 0 all samples are the most likely one; what stands beside it is drawn as without it."""
    rows = prompts()[:6]
    plain = engine.run(rows, Counter[str]())
    mixed = engine.run([tempered(row, 0.0) if number % 2 else row for number, row in enumerate(rows)], Counter[str]())
    distinct = [len({tuple(sample.token_ids) for sample in group}) for group in cast("Any", mixed)]
    assert distinct[1::2] == [1, 1, 1]
    assert max(distinct[0::2]) > 1
    assert mixed[0::2] == plain[0::2]


class Core:
    """An engine without a model that answers two requests per step, the oldest first, and refuses token 99."""

    def __init__(self) -> None:
        self.there: list[str] = []
        self.engine_core = None
        self.llm_engine = self

    def add_request(self, request_id: str, prompt: dict[str, Any], params: object) -> None:
        if 99 in prompt["prompt_token_ids"]:
            raise ValueError("no token 99")
        self.there.append(request_id)

    def abort_request(self, request_ids: list[str]) -> None:
        self.there = [name for name in self.there if name not in request_ids]

    def get_num_unfinished_requests(self) -> int:
        return len(self.there)

    def has_unfinished_requests(self) -> bool:
        return bool(self.there)

    def step(self) -> list[SimpleNamespace]:
        ended, self.there = self.there[:2], self.there[2:]
        return [SimpleNamespace(request_id=name, finished=True) for name in reversed(ended)]


class Echo(VllmBatches[list[int], None]):
    def prepared(self, rows: Sequence[list[int]]) -> tuple[None, list[Request]]:
        return None, [Request(row, SamplingParams()) for row in rows]

    def outcomes(self, prepared: None, outputs: Sequence[Any]) -> tuple[list[Any], dict[str, int]]:
        return [output.request_id for output in outputs], {}


def test_requests_are_fed_in_order_and_what_vllm_refuses_concerns_its_batch_alone() -> None:
    core = Core()
    batches = Echo(cast(LLM, core), max_num_seqs=2)
    for number, rows in enumerate([[[1]] * 3, [[1], [99], [1]], [[1]] * 3, []]):
        batches.add(number, batches.prepared(rows))
    assert batches.step() == [BatchDone(3, [], {})]
    # Twice as many as it decodes side by side were there, never more.
    assert core.there == ["0:2", "1:0"]
    assert batches.step() == [
        BatchDone(0, ["0:0", "0:1", "0:2"], {}),
        BatchRefused(1, "ValueError: no token 99"),
    ]
    assert core.there == []
    assert batches.step() == [BatchDone(2, ["2:0", "2:1", "2:2"], {})]
    assert not batches.is_busy()
