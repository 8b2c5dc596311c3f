"""Attention over rows that share their prompts (packing.py): each response sees its prompt and itself, nothing else.

Three exact ways to compute it, chosen in `_choose` alone. All take queries, keys and values as transformers gives them
to an attention function, [1, heads, tokens, head size], and return [1, tokens, heads, head size].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import accumulate
from typing import Any, Literal

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from wrpo_ray.packing import SharedPromptLayout

SHARED_PROMPT = "wrpo_shared_prompt"
Kernel = Literal["auto", "decomposed", "varlen", "flex"]
_NO_WINDOW = -1


class SharedPrompts:
    """A layout with what the kernels derive from it: made once for a batch, used by every layer.

    kernel: how attention is computed; `auto` takes varlen for 16-bit tensors on CUDA without dropout, else decomposed.
    """

    def __init__(self, layout: SharedPromptLayout, kernel: Kernel = "auto") -> None:
        self.layout = layout
        self.kernel: Kernel = kernel
        self.masks: dict[tuple[Any, ...], Any] = {}

    def derived(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Return what `make` returns, made at the first call for `key`."""
        if key not in self.masks:
            self.masks[key] = make()
        return self.masks[key]


def shared_prompt_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, *,
    shared_prompts: SharedPrompts, scaling: float | None = None, dropout: float = 0.0,
    sliding_window: int | None = None, **_: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention function of transformers; `shared_prompts` is a keyword argument of the model's own call.

    sliding_window: a token sees so many tokens, itself included, as transformers counts them.
    """
    compute = _choose(shared_prompts.kernel, query, dropout)
    return compute(query, key, value, shared_prompts, scaling, dropout, sliding_window), None


def _choose(kernel: Kernel, query: torch.Tensor, dropout: float) -> Callable[..., torch.Tensor]:
    flash = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and not dropout
    automatic = varlen if flash else decomposed
    return {"auto": automatic, "decomposed": decomposed, "varlen": varlen, "flex": flex}[kernel]


def decomposed(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, shared: SharedPrompts, scaling: float | None,
    dropout: float, window: int | None,
) -> torch.Tensor:  # fmt: skip
    """One call of torch's attention for each prompt and each response; runs on any device and in any precision."""
    layout = shared.layout
    # Once for the whole row: torch's own grouped heads take 1.6 times as long on a CPU (2 cores, forward and backward).
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    # One split each: every slice would cost a zero-filled gradient of the whole row.
    pieces = [iter(tensor.split(layout.segment_lengths, dim=2)) for tensor in (query, key, value)]
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout}
    outputs: list[torch.Tensor] = []
    for prompt_length, responses in zip(layout.prompt_lengths, layout.response_lengths, strict=True):
        prompt = [next(piece) for piece in pieces]
        mask = _mask(shared, 0, prompt_length, window, query) if window is not None and prompt_length > window else None
        outputs.append(scaled_dot_product_attention(*prompt, attn_mask=mask, is_causal=mask is None, **options))
        for length in responses:
            own = [next(piece) for piece in pieces]
            keys, values = (torch.cat(pair, dim=2) for pair in zip(prompt[1:], own[1:], strict=True))
            mask = _mask(shared, prompt_length, length, window, query)
            outputs.append(scaled_dot_product_attention(own[0], keys, values, attn_mask=mask, **options))
    return torch.cat(outputs, dim=2).transpose(1, 2)


def _mask(shared: SharedPrompts, before: int, length: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Return what is added to the scores of `length` tokens behind `before` others, [length, before + length]."""

    def make() -> torch.Tensor:
        queries = torch.arange(before, before + length, device=like.device)[:, None]
        keys = torch.arange(before + length, device=like.device)[None, :]
        hidden = (keys > queries) | (False if window is None else queries - keys >= window)
        return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))

    return shared.derived(("mask", before, length, window, like.dtype, like.device), make)


def varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, shared: SharedPrompts, scaling: float | None,
    dropout: float, window: int | None,
) -> torch.Tensor:  # fmt: skip
    """Flash attention with fewer queries than keys: keys and values of a prompt are gathered for each response.

    Queries stand at the end of their keys, which is how flash attention aligns its causal mask. Raises ValueError when
    there is attention dropout: the kernel has none.
    """
    if dropout:
        raise ValueError(f"attention dropout {dropout} is not possible with flash attention over shared prompts")
    gather, ends_q, ends_k, longest_q, longest_k = shared.derived(
        ("varlen", query.device), lambda: varlen_index(shared.layout, query.device)
    )
    rows = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    output = varlen_attn(
        rows[0].contiguous(), rows[1].index_select(0, gather), rows[2].index_select(0, gather),
        ends_q, ends_k, longest_q, longest_k, scale=scaling,
        window_size=(_NO_WINDOW if window is None else window - 1, 0), enable_gqa=key.shape[1] != query.shape[1],
    )  # fmt: skip
    assert isinstance(output, torch.Tensor)
    return output[None]


def varlen_index(
    layout: SharedPromptLayout, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
    """Return the tokens whose keys each segment sees, one segment after another, and how long queries and keys are.

    That is: int64 [keys], cumulative numbers of queries and of keys, int32 [segments + 1], and the longest of each.
    """
    gather: list[int] = []
    num_keys: list[int] = []
    for prompt, responses in layout.groups():
        for seen in ([*prompt], *([*prompt, *response] for response in responses)):
            gather += seen
            num_keys.append(len(seen))
    num_queries = layout.segment_lengths
    ends_q, ends_k = (
        torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device) for lengths in (num_queries, num_keys)
    )
    return torch.tensor(gather, device=device), ends_q, ends_k, max(num_queries), max(num_keys)


def flex(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, shared: SharedPrompts, scaling: float | None,
    dropout: float, window: int | None,
) -> torch.Tensor:  # fmt: skip
    """FlexAttention with a block mask; compiled on CUDA. It has no gradient on a CPU.

    Raises ValueError when there is attention dropout: the kernel has none.
    """
    if dropout:
        raise ValueError(f"attention dropout {dropout} is not possible with FlexAttention")
    mask = shared.derived(("flex", window, query.device), lambda: block_mask(shared.layout, window, query.device))
    compute = _compiled_flex() if query.is_cuda else flex_attention
    output = compute(query, key, value, block_mask=mask, scale=scaling, enable_gqa=key.shape[1] != query.shape[1])
    return output.transpose(1, 2)


@cache
def _compiled_flex() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def block_mask(layout: SharedPromptLayout, window: int | None, device: torch.device) -> BlockMask:
    """Return the mask of FlexAttention: a token sees its own segment and its prompt, nothing later than itself."""
    segment: list[int] = []
    prompt_of: list[int] = []
    position: list[int] = []
    number = 0
    for prompt, responses in layout.groups():
        own_prompt = number
        for place in (prompt, *responses):
            first = 0 if place is prompt else len(prompt)
            segment += [number] * len(place)
            prompt_of += [own_prompt] * len(place)
            position += range(first, first + len(place))
            number += 1
    segments, prompts, positions = (torch.tensor(values, device=device) for values in (segment, prompt_of, position))

    def sees(batch: Any, head: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        visible = ((segments[q] == segments[k]) | (prompts[q] == segments[k])) & (positions[q] >= positions[k])
        return visible if window is None else visible & (positions[q] - positions[k] < window)

    size = layout.num_tokens
    return create_block_mask(sees, None, None, size, size, device=str(device))


AttentionInterface.register(SHARED_PROMPT, shared_prompt_attention)
