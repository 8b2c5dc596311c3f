"""Text that looks like a chat model's control tokens, by its shape: of whatever model, so that no tokenizer is asked.

Neutralised it is harmless: wrpo_ray.chat has it tokenised as the plain text that it is, for engine, reward model and
training alike. A policy may leave such rows out all the same: an endpoint's server cuts text into tokens by its own
rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# <|im_start|>, DeepSeek's with U+FF5C; <s>, </s>, <bos>; <start_of_turn>, <unused99>; [INST], [/INST], [TOOL_CALLS];
# <<SYS>>. <think> is content to all models that write it.
_CONTROL = re.compile(
    r"<[|\uff5c][^<>|\uff5c\s]{1,40}[|\uff5c]>"
    r"|</?(?:s|bos|eos|pad|unk|cls|sep|mask)>"
    r"|<(?:start|end)_of_[a-z_]{1,20}>|<(?:unused|reserved_token_|extra_id_)\d{1,6}>"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|IMG)\]"
    r"|<</?SYS>>"
)


def holds_control_text(texts: Iterable[str]) -> bool:
    """Tell whether one of the texts holds what looks like a control token."""
    return any(_CONTROL.search(text) for text in texts)
