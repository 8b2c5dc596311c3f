"""Log-probs of response tokens, without the logits of the whole vocabulary for all of them at once.

With shared prompts `token_logps` is the one path from hidden states to log-probs: SFT, WRPO and all baselines, the
reference. WRPO's gradient is a negative log-likelihood with a weight for each response, so nothing more is needed.
Padded batches are for models whose head is not known: they go through its own logits (`padded_sequence_logps`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch

from wrpo_ray.batching import PaddedBatch

# Logits in memory at a time, in elements of float32: 32 MiB on a CPU, where caches are small; 512 MiB on a GPU, where
# the head's weights should be read for a thousand tokens at once.
_CHUNK_ELEMENTS = {"cpu": 2**23, "cuda": 2**27}
# What is kept for the gradient instead of being computed again: 64 MiB and 1 GiB, whatever the vocabulary.
_KEPT_ELEMENTS = {"cpu": 2**24, "cuda": 2**28}


def token_logps(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
) -> torch.Tensor:
    """Return log softmax(hidden @ weight.T + bias)[target], float32 [tokens], without the logits of all tokens.

    hidden: [tokens, hidden size]; weight: [vocabulary, hidden size]; bias: [vocabulary]; targets: int64 [tokens].
    Logits are computed chunk by chunk, those beyond a fixed budget once more for the gradient: they take the same
    memory for every vocabulary. The gradient of `weight` is as large as it is. It and all sums are float32.
    """
    logps: torch.Tensor = _TokenLogps.apply(hidden, weight, bias, targets)  # pyright: ignore[reportAssignmentType]
    return logps


def cut_cross_entropy_logps(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, *, impl: str = "cce"
) -> torch.Tensor:
    """Return what `token_logps` does, from Apple's fused kernel, which never writes a logit to memory.

    Small gradients are not filtered away, but gradients are added up in the precision of `hidden` and `weight`. Raises
    ValueError when the head has a bias: the kernel knows none.
    Source: https://arxiv.org/abs/2411.09009.
    """
    from cut_cross_entropy import linear_cross_entropy  # pyright: ignore[reportMissingImports]

    if bias is not None:
        raise ValueError("the language model head has a bias; set head_kernel: chunked")
    return -linear_cross_entropy(hidden, weight, targets, reduction="none", filter_eps=None, impl=impl).float()


HeadKernel = Literal["chunked", "cut_cross_entropy"]
HEAD_KERNELS: Mapping[HeadKernel, Callable[..., torch.Tensor]] = {
    "chunked": token_logps,
    "cut_cross_entropy": cut_cross_entropy_logps,
}


def sum_by_sequence(values: torch.Tensor, sequence_of: torch.Tensor, num_sequences: int) -> torch.Tensor:
    """Return the sums of `values` [tokens] over the tokens of each sequence, [sequences]."""
    return torch.zeros(num_sequences, dtype=values.dtype, device=values.device).index_add(0, sequence_of, values)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor
    ) -> torch.Tensor:
        logps = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        kept: dict[int, _Chunk] = {}
        room = _limit(_KEPT_ELEMENTS, weight) if any(ctx.needs_input_grad) else 0
        for part in _chunks(len(hidden), weight):
            chunk = _chunk(hidden[part], weight, bias, targets[part])
            logps[part] = chunk.shifted - chunk.sums.log()
            if chunk.exponentials.numel() <= room:
                room -= chunk.exponentials.numel()
                kept[part.start] = chunk
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.kept = kept
        return logps

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = gradients
        hidden, weight, bias, targets = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wants_weight else None
        grad_bias = torch.zeros(weight.shape[0], dtype=torch.float32, device=weight.device) if wants_bias else None
        for part in _chunks(len(hidden), weight):
            # Taken out, since it is overwritten: a second backward through the same graph computes it again.
            chunk = ctx.kept.pop(part.start, None) or _chunk(hidden[part], weight, bias, targets[part])
            # d logp[t] / d logits[t] = onehot(target) - softmax(logits)
            rows = chunk.exponentials.mul_((-grad[part] / chunk.sums)[:, None])
            rows.scatter_add_(-1, targets[part, None], grad[part, None])
            if grad_bias is not None:
                grad_bias += rows.sum(dim=0)
            low = rows.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = low @ weight
            if grad_weight is not None:
                _add_product(grad_weight, low, hidden[part])
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(weight.dtype),
            None,
        )


class _Chunk(NamedTuple):
    """Of some tokens: exp(logit - largest) [tokens, vocabulary], the sums of that, and the target's logit - largest."""

    exponentials: torch.Tensor
    sums: torch.Tensor
    shifted: torch.Tensor


def _chunk(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor) -> _Chunk:
    logits = _logits(hidden, weight, bias)
    logits -= logits.amax(dim=-1, keepdim=True)
    shifted = logits.gather(-1, targets[:, None]).squeeze(-1)
    exponentials = logits.exp_()
    return _Chunk(exponentials, exponentials.sum(dim=-1), shifted)


def _limit(elements: Mapping[str, int], like: torch.Tensor) -> int:
    return elements.get(like.device.type, elements["cpu"])


def _chunks(num_tokens: int, weight: torch.Tensor) -> Iterator[slice]:
    size = max(1, _limit(_CHUNK_ELEMENTS, weight) // weight.shape[0])
    return (slice(first, first + size) for first in range(0, num_tokens, size))


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return the logits in float32, never rounded to 16 bits in between where the device can do without."""
    logits = _float32_product(hidden, weight.t())
    return logits if bias is None else logits.add_(bias)


def _float32_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    if left.dtype == torch.float32:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add left.T @ right to the float32 `total`."""
    if left.dtype == torch.float32:
        total.addmm_(left.t(), right)
    else:
        total += _float32_product(left.t(), right)


def padded_sequence_logps(model: Any, batch: PaddedBatch) -> torch.Tensor:
    """Return the summed log-probs of each sequence's response tokens, float32 [sequences], from a model's own logits.

    model: a causal language model of transformers, of any architecture. The logit at position p predicts p + 1.
    """
    targets = batch.response_mask[:, 1:]
    # Columns in which at least one sequence predicts a response token: the language model head runs on these only.
    columns = targets.any(dim=0).nonzero().squeeze(1)
    logits: torch.Tensor = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, logits_to_keep=columns
    ).logits
    if logits.shape[1] == batch.input_ids.shape[1]:
        # A model that does not know logits_to_keep gives all positions.
        logits = logits[:, columns]
    kept = targets[:, columns]
    logps = selected_logps(logits[kept], batch.input_ids[:, 1:][:, columns][kept])
    return torch.zeros(kept.shape, dtype=torch.float32, device=kept.device).masked_scatter(kept, logps).sum(dim=1)


def selected_logps(logits: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """Return log softmax(logits)[token]: logits [tokens, vocabulary] of any float type, token_ids [tokens]; float32."""
    logits = logits.float()
    return logits.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)
