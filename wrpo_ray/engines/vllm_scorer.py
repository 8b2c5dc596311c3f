"""Raw rewards from a sequence classifier in vLLM."""

from __future__ import annotations

from collections.abc import Sequence

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import VllmRewardConfig
from wrpo_ray.engines.protocol import Answer, Progress, SetAside, encode_fitting
from wrpo_ray.engines.vllm_engine import engine_is_usable, reporting, start_engine, stop_engine
from wrpo_ray.errors import ModelError
from wrpo_ray.models import local_model, tokenizer_of


class VllmScorer:
    """A reward model in vLLM; satisfies engines.protocol.Scorer.

    `use_activation=False` keeps the logit as it is: vLLM would squash one label through a sigmoid, which ties good
    answers in low precision. vLLM fills its batches up to max_num_batched_tokens.
    """

    def __init__(self, reward: VllmRewardConfig) -> None:
        self.reward = reward = reward.model_copy(update={"path": local_model(reward.path)})
        self.chat = ChatTokenizer(tokenizer_of(reward))
        self.engine = start_engine(
            reward, reward.engine, reward.resources.num_gpus, runner="pooling", convert="classify"
        )

    def score(self, answers: Sequence[Answer], progress: Progress) -> list[float | SetAside]:
        """See engines.protocol.Scorer."""
        from vllm import PoolingParams
        from vllm.inputs import TokensPrompt

        fitting, refused = encode_fitting(answers, self.chat, self.reward.engine.max_model_len)
        outcomes: dict[int, float | SetAside] = dict(refused)
        if fitting:
            with reporting(self.engine, progress):
                outputs = self.engine.classify(
                    [TokensPrompt(prompt_token_ids=ids) for ids in fitting.values()],
                    pooling_params=PoolingParams(use_activation=False),
                    use_tqdm=False,
                )
            for position, output in zip(fitting, outputs, strict=True):
                outcomes[position] = self._one_label(output.outputs.probs)
        return [outcomes[position] for position in range(len(answers))]

    def is_usable(self) -> bool:
        """See engines.protocol.Engine."""
        return engine_is_usable(self.engine)

    def close(self) -> None:
        """See engines.protocol.Scorer."""
        stop_engine(self.engine)

    def _one_label(self, values: Sequence[float]) -> float:
        if len(values) != 1:
            raise ModelError(
                f"the reward model {self.reward.path} gives {len(values)} values, a reward is one; use another"
            )
        return float(values[0])
