"""Raw rewards from transformers, for reward models that vLLM does not have (ArmoRM's gated head)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import torch

from wrpo_ray.attention import SHARED_PROMPT
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import TransformersRewardConfig
from wrpo_ray.engines.answer_groups import AnswerGroup, group_answers
from wrpo_ray.engines.protocol import Answer, Progress, SetAside, encode_fitting
from wrpo_ray.errors import ModelError
from wrpo_ray.models import on_node, tokenizer_of
from wrpo_ray.packing import best_fit, pack_groups, padded_fit
from wrpo_ray.policy import shared_prompt_logits, why_padded

log = logging.getLogger(__name__)


class TransformersScorer:
    """A reward model in transformers; satisfies engines.protocol.Scorer."""

    def __init__(self, reward: TransformersRewardConfig) -> None:
        from transformers import AutoModelForSequenceClassification

        self.reward = reward = on_node(reward)
        self.chat = ChatTokenizer(tokenizer_of(reward))
        self.device = torch.device("cuda" if reward.resources.num_gpus > 0 else "cpu")
        self.model = AutoModelForSequenceClassification.from_pretrained(
            reward.path,
            trust_remote_code=reward.trust_remote_code,
            dtype=getattr(torch, reward.dtype),
            use_safetensors=True,
        )
        self.model.to(self.device).eval()
        self.share_prompts = self._shares_prompts()
        if self.share_prompts:
            self.model.set_attn_implementation(SHARED_PROMPT)

    def _shares_prompts(self) -> bool:
        if not self.reward.share_prompts or self.reward.score_field != "logits":
            return False
        reason = why_padded(self.model)
        if reason:
            log.warning("%s: prompts are not shared, batches are padded: %s", self.reward.path, reason)
        return reason is None

    def score(self, answers: Sequence[Answer], progress: Progress) -> list[float | SetAside]:
        """See engines.protocol.Scorer."""
        encoded, refused = encode_fitting(answers, self.chat, self.reward.max_model_len)
        outcomes: dict[int, float | SetAside] = dict(refused)
        batches = self._shared_batches(encoded, answers) if self.share_prompts else self._padded_batches(encoded)
        for positions, rewards in batches:
            outcomes.update(zip(positions, rewards, strict=True))
            progress()
        return [outcomes[position] for position in range(len(answers))]

    def is_usable(self) -> bool:
        """See engines.protocol.Engine. After a CUDA error nothing more can be done in the same process."""
        return self.device.type == "cpu"

    def close(self) -> None:
        """See engines.protocol.Scorer."""
        del self.model

    def _shared_batches(
        self, encoded: dict[int, list[int]], answers: Sequence[Answer]
    ) -> Iterator[tuple[list[int], list[float]]]:
        max_tokens = self.reward.max_batch_tokens
        prompt_of = {position: answers[position].prompt.prompt_id for position in encoded}
        groups = group_answers(encoded, prompt_of, max_tokens)
        for numbers in best_fit([group.num_tokens for group in groups], max_tokens):
            batch = [groups[number] for number in numbers]
            yield [position for group in batch for position in group.positions], self._forward_shared(batch)

    def _padded_batches(self, encoded: dict[int, list[int]]) -> Iterator[tuple[list[int], list[float]]]:
        fitting = list(encoded)
        for numbers in padded_fit([len(ids) for ids in encoded.values()], self.reward.max_batch_tokens):
            positions = [fitting[number] for number in numbers]
            yield positions, self._forward_padded([encoded[position] for position in positions])

    @torch.inference_mode()
    def _forward_shared(self, groups: Sequence[AnswerGroup]) -> list[float]:
        packed = pack_groups([group.prefix for group in groups], [group.rests for group in groups])
        scores = shared_prompt_logits(self.model, packed.to(self.device))
        return self._rewards(scores, packed.num_sequences)

    @torch.inference_mode()
    def _forward_padded(self, rows: list[list[int]]) -> list[float]:
        width = max(len(row) for row in rows)
        # A classifier finds a row's last token by looking for padding. Where the end token doubles as padding it would
        # look one token too far left, so pad with a token that no row of this batch holds.
        pad = _absent_id(rows)
        self.model.config.pad_token_id = pad
        input_ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        output = self.model(input_ids=input_ids, attention_mask=mask)
        return self._rewards(getattr(output, self.reward.score_field, None), len(rows))

    def _rewards(self, scores: torch.Tensor | None, num_answers: int) -> list[float]:
        if scores is None or scores.numel() != num_answers:
            shape = None if scores is None else tuple(scores.shape)
            raise ModelError(
                f"the reward model {self.reward.path} gives {self.reward.score_field} of shape {shape} for "
                f"{num_answers} answers; a reward is one value each: set reward.score_field or use another model"
            )
        return [float(score) for score in scores.reshape(-1).float().cpu()]


def _absent_id(rows: Sequence[Sequence[int]]) -> int:
    """Return the smallest token id that occurs in no row."""
    present = {index for row in rows for index in row}
    return next(index for index in range(len(present) + 1) if index not in present)
