"""The scorer that a reward section describes."""

from __future__ import annotations

from collections.abc import Sequence

from wrpo_ray.config import RewardConfig, TransformersRewardConfig, VerifierRewardConfig, VllmRewardConfig
from wrpo_ray.engines.protocol import Answer, Progress, Scorer, SetAside
from wrpo_ray.errors import DataError
from wrpo_ray.verifier import verify


class VerifierScorer:
    """Rewards by rule; satisfies engines.protocol.Scorer."""

    def __init__(self, reward: VerifierRewardConfig) -> None:
        self.reward = reward

    def score(self, answers: Sequence[Answer], progress: Progress) -> list[float | SetAside]:
        """See engines.protocol.Scorer. Raises DataError when a prompt has no reference answer."""
        rewards: list[float | SetAside] = []
        for answer in answers:
            rewards.append(verify(answer.text, self._reference(answer), self.reward))
            progress()
        return rewards

    def is_usable(self) -> bool:
        """A rule holds no state."""
        return True

    def close(self) -> None:
        """Nothing is held."""

    def _reference(self, answer: Answer) -> str:
        if answer.prompt.answer is None:
            raise DataError(f"prompt {answer.prompt.prompt_id} has no reference answer for the verifier")
        return answer.prompt.answer


def load_scorer(reward: RewardConfig) -> Scorer:
    """Return a started scorer."""
    match reward:
        case VllmRewardConfig():
            from wrpo_ray.engines.vllm_scorer import VllmScorer

            return VllmScorer(reward)
        case TransformersRewardConfig():
            from wrpo_ray.engines.transformers_scorer import TransformersScorer

            return TransformersScorer(reward)
        case VerifierRewardConfig():
            return VerifierScorer(reward)
