"""Raw rewards from a sequence classifier in vLLM."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import VllmRewardConfig
from wrpo_ray.engines.protocol import Answer, encode_fitting
from wrpo_ray.engines.vllm_engine import start_engine, stop_engine
from wrpo_ray.errors import ModelError
from wrpo_ray.models import tokenizer_of


class VllmScorer:
    """A reward model in vLLM; satisfies engines.protocol.Scorer.

    `use_activation=False` keeps the logit as it is: vLLM would squash one label through a sigmoid, which ties good
    answers in low precision. vLLM fills its batches up to max_num_batched_tokens.
    """

    def __init__(self, reward: VllmRewardConfig) -> None:
        self.reward = reward
        self.chat = ChatTokenizer(tokenizer_of(reward))
        self.engine = start_engine(
            reward, reward.engine, reward.resources.num_gpus, runner="pooling", convert="classify"
        )

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """See engines.protocol.Scorer."""
        from vllm import PoolingParams
        from vllm.inputs import TokensPrompt

        fitting = encode_fitting(answers, self.chat, self.reward.engine.max_model_len)
        rewards = [math.nan] * len(answers)
        if not fitting:
            return rewards
        outputs = self.engine.classify(
            [TokensPrompt(prompt_token_ids=ids) for ids in fitting.values()],
            pooling_params=PoolingParams(use_activation=False),
            use_tqdm=False,
        )
        for number, output in zip(fitting, outputs, strict=True):
            rewards[number] = self._one_label(output.outputs.probs)
        return rewards

    def close(self) -> None:
        """See engines.protocol.Scorer."""
        stop_engine(self.engine)

    def _one_label(self, values: Sequence[float]) -> float:
        if len(values) != 1:
            raise ModelError(
                f"the reward model {self.reward.path} gives {len(values)} values, a reward is one; use another"
            )
        return float(values[0])
