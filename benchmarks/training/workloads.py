"""Seeded batches of token ids: prompts with responses of realistic, spread-out lengths."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

PAD_ID, EOS_ID = 0, 1
_FIRST_WORD_ID = 2
# Standard deviation of the logarithm of a length: nine of ten lie between 0.48 and 1.8 times the mean. Batches of two
# quadruples, padded to their longest sequence, then have 1.40 (uf) and 1.27 (long) times the tokens.
SPREAD = 0.4
RESPONSES_PER_QUADRUPLE = 3


class Row(NamedTuple):
    """One prompt and its responses, as token ids; of a quadruple: y_ws, y_wt, y_l. Every response ends with EOS."""

    prompt: list[int]
    responses: list[list[int]]


Batch = list[Row]


class Workload(NamedTuple):
    """Mean lengths in tokens."""

    prompt_tokens: int
    response_tokens: int


WORKLOADS = {"uf": Workload(100, 180), "long": Workload(350, 110)}


def spread_lengths(mean: int, count: int, generator: random.Random) -> list[int]:
    """Return `count` log-normal lengths of exactly that mean (up to rounding), in random order.

    They are the quantiles of the distribution, so a small sample is as spread as a large one.
    """
    quantiles = [math.exp(SPREAD * NormalDist().inv_cdf((index + 0.5) / count)) for index in range(count)]
    scale = mean * count / sum(quantiles)
    lengths = [max(2, round(quantile * scale)) for quantile in quantiles]
    generator.shuffle(lengths)
    return lengths


def make_batches(
    workload: Workload, vocab_size: int, num_batches: int, rows_per_batch: int, seed: int = 0
) -> list[Batch]:
    """Return batches of quadruples whose lengths spread around the workload's means."""
    generator = random.Random(seed)
    num_rows = num_batches * rows_per_batch
    prompts = spread_lengths(workload.prompt_tokens, num_rows, generator)
    responses = spread_lengths(workload.response_tokens, num_rows * RESPONSES_PER_QUADRUPLE, generator)
    rows = [
        make_row(
            prompts[number],
            responses[number * RESPONSES_PER_QUADRUPLE :][:RESPONSES_PER_QUADRUPLE],
            vocab_size,
            generator,
        )
        for number in range(num_rows)
    ]
    return [rows[first : first + rows_per_batch] for first in range(0, num_rows, rows_per_batch)]


def make_row(prompt_tokens: int, response_tokens: Sequence[int], vocab_size: int, generator: random.Random) -> Row:
    """Return random token ids of the given lengths; the last token of each response is EOS."""

    def words(count: int) -> list[int]:
        return [generator.randrange(_FIRST_WORD_ID, vocab_size) for _ in range(count)]

    return Row(words(prompt_tokens), [[*words(length - 1), EOS_ID] for length in response_tokens])


def fixed_batch(prompt_tokens: int, response_tokens: int, responses: int, vocab_size: int, seed: int = 0) -> Batch:
    """Return a batch of one row whose lengths are exactly those."""
    return [make_row(prompt_tokens, [response_tokens] * responses, vocab_size, random.Random(seed))]


def unique_tokens(batch: Batch) -> int:
    """Return P + the tokens of all responses: what a step cannot do without."""
    return sum(len(row.prompt) + sum(map(len, row.responses)) for row in batch)


def num_responses(batch: Batch) -> int:
    """Return the responses of all rows."""
    return sum(len(row.responses) for row in batch)
