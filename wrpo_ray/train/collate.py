"""Tokenised rows to the batches of a forward pass, and what a row costs there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wrpo_ray.batching import Fit, PaddedBatch, pad_sequences
from wrpo_ray.packing import PackedBatch, best_fit, pack_groups, padded_fit
from wrpo_ray.train.tokens import TokenRow, TokenTable

Batch = PackedBatch | PaddedBatch
Collator = Callable[[Sequence[TokenRow]], Batch]


@dataclass(frozen=True)
class Collate:
    """Makes batches of rows; the sequences of a batch are row 0's `responses`, then row 1's, and so on.

    share_prompts: each prompt once, nothing padded; otherwise each response with its prompt, padded to the longest.
    """

    responses: tuple[str, ...]
    share_prompts: bool
    pad_token_id: int

    def __call__(self, rows: Sequence[TokenRow]) -> Batch:
        prompts = [row["prompt"] for row in rows]
        responses = [[row[name] for name in self.responses] for row in rows]
        if self.share_prompts:
            return pack_groups(prompts, responses)
        repeated = [prompt for prompt in prompts for _ in self.responses]
        return pad_sequences(repeated, [response for group in responses for response in group], self.pad_token_id)

    @property
    def fit(self) -> Fit:
        """How rows are put together: what is padded costs the longest one's tokens for each."""
        return best_fit if self.share_prompts else padded_fit

    def row_tokens(self, table: TokenTable) -> list[int]:
        """Return the tokens that each row of the table takes in a forward pass."""
        lengths = [table.num_tokens[name] for name in self.responses]
        together = zip(table.num_prompt_tokens, *lengths, strict=True)
        if self.share_prompts:
            return [sum(counts) for counts in together]
        return [len(self.responses) * (prompt + max(counts)) for prompt, *counts in together]
