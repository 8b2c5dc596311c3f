"""Raw rewards from a sequence classifier in vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import VllmRewardConfig
from wrpo_ray.engines.protocol import Answer, Progress, SetAside, encode_fitting
from wrpo_ray.engines.vllm_batches import Request, VllmBatches
from wrpo_ray.engines.vllm_engine import start_engine
from wrpo_ray.errors import ModelError
from wrpo_ray.models import on_node, tokenizer_of

_Prepared = tuple[dict[int, list[int]], dict[int, SetAside]]


class VllmScorer(VllmBatches[Answer, _Prepared]):
    """A reward model in vLLM; satisfies engines.protocol.Scorer and StreamingEngine.

    `use_activation=False` keeps the logit as it is: vLLM would squash one label through a sigmoid, which ties good
    answers in low precision. vLLM fills its batches up to max_num_batched_tokens.
    """

    def __init__(self, reward: VllmRewardConfig) -> None:
        self.reward = reward = on_node(reward)
        self.chat = ChatTokenizer(tokenizer_of(reward))
        engine = start_engine(reward, reward.engine, reward.resources.num_gpus, runner="pooling", convert="classify")
        super().__init__(engine, reward.engine.max_num_seqs)

    def score(self, answers: Sequence[Answer], progress: Progress) -> list[float | SetAside]:
        """See engines.protocol.Scorer."""
        return self.run_one(answers, progress)

    def prepared(self, rows: Sequence[Answer]) -> tuple[_Prepared, list[Request]]:
        """See VllmBatches."""
        from vllm import PoolingParams

        fitting, refused = encode_fitting(rows, self.chat, self.reward.engine.max_model_len)
        requests = [
            Request(token_ids, PoolingParams(task="classify", use_activation=False)) for token_ids in fitting.values()
        ]
        return (fitting, refused), requests

    def outcomes(self, prepared: _Prepared, outputs: Sequence[Any]) -> tuple[list[float | SetAside], dict[str, int]]:
        """See VllmBatches."""
        fitting, refused = prepared
        found: dict[int, float | SetAside] = dict(refused)
        for position, output in zip(fitting, outputs, strict=True):
            found[position] = self._one_label(output.outputs.data.tolist())
        return [found[position] for position in range(len(found))], {}

    def _one_label(self, values: Sequence[float]) -> float:
        if len(values) != 1:
            raise ModelError(
                f"the reward model {self.reward.path} gives {len(values)} values, a reward is one; use another"
            )
        return float(values[0])
