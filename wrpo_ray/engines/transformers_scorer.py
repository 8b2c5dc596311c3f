"""Raw rewards from transformers, for reward models that vLLM does not have (ArmoRM's gated head)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import TransformersRewardConfig
from wrpo_ray.engines.protocol import Answer, Progress, SetAside, encode_fitting
from wrpo_ray.errors import ModelError
from wrpo_ray.models import local_model, tokenizer_of


def batches_by_tokens(lengths: Sequence[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Yield positions of `lengths` in batches whose padded size is at most `max_batch_tokens`, longest first.

    One sequence longer than the budget makes a batch of its own. [5, 2, 5, 2] with budget 10 gives [0, 2], [1, 3].
    """
    order = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    batch: list[int] = []
    for number in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > max_batch_tokens:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


class TransformersScorer:
    """A reward model in transformers; satisfies engines.protocol.Scorer."""

    def __init__(self, reward: TransformersRewardConfig) -> None:
        from transformers import AutoModelForSequenceClassification

        self.reward = reward = reward.model_copy(update={"path": local_model(reward.path)})
        self.chat = ChatTokenizer(tokenizer_of(reward))
        self.device = torch.device("cuda" if reward.resources.num_gpus > 0 else "cpu")
        self.model = AutoModelForSequenceClassification.from_pretrained(
            reward.path,
            revision=reward.revision,
            trust_remote_code=reward.trust_remote_code,
            dtype=getattr(torch, reward.dtype),
            use_safetensors=True,
        )
        self.model.to(self.device).eval()

    def score(self, answers: Sequence[Answer], progress: Progress) -> list[float | SetAside]:
        """See engines.protocol.Scorer."""
        encoded, refused = encode_fitting(answers, self.chat, self.reward.max_model_len)
        fitting = list(encoded)
        outcomes: dict[int, float | SetAside] = dict(refused)
        lengths = [len(encoded[position]) for position in fitting]
        for batch in batches_by_tokens(lengths, self.reward.max_batch_tokens):
            positions = [fitting[number] for number in batch]
            rewards = self._forward([encoded[position] for position in positions])
            outcomes.update(zip(positions, rewards, strict=True))
            progress()
        return [outcomes[position] for position in range(len(answers))]

    def is_usable(self) -> bool:
        """See engines.protocol.Engine. After a CUDA error nothing more can be done in the same process."""
        return self.device.type == "cpu"

    def close(self) -> None:
        """See engines.protocol.Scorer."""
        del self.model

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> list[float]:
        width = max(len(row) for row in rows)
        # A classifier finds a row's last token by looking for padding. Where the end token doubles as padding it would
        # look one token too far left, so pad with a token that no row of this batch holds.
        pad = _absent_id(rows)
        self.model.config.pad_token_id = pad
        input_ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.device)
        output = self.model(input_ids=input_ids, attention_mask=mask)
        scores = getattr(output, self.reward.score_field, None)
        if scores is None or scores.numel() != len(rows):
            shape = None if scores is None else tuple(scores.shape)
            raise ModelError(
                f"the reward model {self.reward.path} gives {self.reward.score_field} of shape {shape} for {len(rows)} "
                "answers; a reward is one value each: set reward.score_field or use another model"
            )
        return [float(score) for score in scores.reshape(-1).float().cpu()]


def _absent_id(rows: Sequence[Sequence[int]]) -> int:
    """Return the smallest token id that occurs in no row."""
    present = {index for row in rows for index in row}
    return next(index for index in range(len(present) + 1) if index not in present)
