"""torch.compile for a model in training: block by block, since all blocks are one program."""

from __future__ import annotations

import torch
from transformers import AttentionInterface

from wrpo_ray.attention import SHARED_PROMPT, shared_prompt_attention


def compile_blocks(module: torch.nn.Module) -> int:
    """Have the transformer blocks inside `module` compiled when they are first called; return how many there are.

    One program serves all blocks and all lengths of batches. Attention over shared prompts stays outside: it takes the
    lengths of all prompts and responses, which are new in every batch, and would be compiled anew for each. A model
    that does not tell its blocks (transformers' _no_split_modules) is compiled as a whole.
    """
    AttentionInterface.register(SHARED_PROMPT, torch.compiler.disable(shared_prompt_attention))
    names = {name for each in module.modules() for name in getattr(each, "_no_split_modules", None) or ()}
    blocks = [each for each in module.modules() if type(each).__name__ in names] or [module]
    for block in blocks:
        block.compile(dynamic=True)
    return len(blocks)
