"""Messages to token ids: the one place where prompt and response meet.

A conversation is rendered by the model's chat template and tokenised here, never by the engine, so that
- the template alone decides about BOS (nothing adds a second one);
- a response begins right after the generation prompt and ends with exactly one end token;
- text that only looks like a control token (`<|im_end|>` typed by a user) is cut inside the look-alike before it is
  tokenised, and the control ids of the result are compared with those of the bare template.
The published WRPO code counts the assistant header as response and appends a second end token; we depart from it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wrpo_ray.errors import DataError, ModelError
from wrpo_ray.schema import Message
from wrpo_ray.templates import TemplateRefusedError, TemplateStoppedError, render_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLOT = "Zq7wSlot{}Zq7w"
_SLOT_PATTERN = re.compile(r"Zq7wSlot(\d+)Zq7w")


@dataclass(frozen=True)
class _Skeleton:
    """A conversation's template text around its contents, and the control ids that the template itself brings."""

    parts: tuple[str, ...]
    slots: tuple[int, ...]
    control_ids: tuple[int, ...]


class ChatTokenizer:
    """A tokenizer together with its chat template.

    Raises ModelError when the tokenizer has no chat template, the template begins with two BOS, or nothing ends a turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            rule = f"the tokenizer of {tokenizer.name_or_path} has no chat template"
            raise ModelError(rule, code="WRPO-M004", help="set `chat_template` of the model")
        self.tokenizer = tokenizer
        special = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._template = template = tokenizer.get_chat_template()
        structural = {
            token.content: index
            for index, token in tokenizer.added_tokens_decoder.items()
            if token.content in special or (token.content in template and token.content.strip())
        }
        self._special_ids = self._without_unknown(special)
        self._control_ids = self._without_unknown(structural)
        self._prompt_markers = _any_of(structural)
        self._response_markers = _any_of(special)
        self._skeletons: dict[tuple[tuple[str, ...], bool], _Skeleton] = {}
        self.end_token_id = self._find_end_token()
        pad: Any = tokenizer.pad_token_id
        self.pad_token_id = self.end_token_id if pad is None else int(pad)
        self._refuse_double_bos()

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of `messages` up to and including the header of the answer."""
        return self._encode(messages, add_generation_prompt=True)

    def encode_conversation(self, messages: Sequence[Message], response: str) -> list[int]:
        """Return the ids of `messages` and a finished answer, as a reward model reads them."""
        turns = [*messages, {"role": "assistant", "content": response}]
        return self._encode(turns, add_generation_prompt=False)

    def encode_response(self, text: str, finished: bool = True) -> list[int]:
        """Return the ids of an answer that follows `encode_prompt`, with exactly one end token.

        An answer that was cut before its end (`finished` false) gets none: the model would learn to stop mid-sentence.
        """
        ids = [index for piece in _cut(text, self._response_markers) for index in self._ids(piece)]
        if found := [index for index in ids if index in self._special_ids]:
            rule = f"a response of {len(text)} characters still becomes control tokens {found[:5]}"
            raise DataError(rule, code="WRPO-D022")
        return [*ids, self.end_token_id] if finished else ids

    def _encode(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int]:
        text = self._render(messages, add_generation_prompt)
        contents = [message["content"] for message in messages]
        skeleton = self._skeleton(tuple(message["role"] for message in messages), add_generation_prompt)
        if any(self._prompt_markers.search(content) for content in contents):
            pieces = self._cut_contents(text, skeleton, contents)
        else:
            pieces = [text]
        ids = [index for piece in pieces for index in self._ids(piece)]
        found = tuple(index for index in ids if index in self._control_ids)
        if found != skeleton.control_ids:
            name, expected = self.tokenizer.name_or_path, len(skeleton.control_ids)
            raise DataError(
                f"the text of a conversation ({len(text)} characters) changes the control tokens that the chat "
                f"template of {name} brings: {len(found)} instead of {expected}",
                code="WRPO-D022",
            )
        return ids

    def _cut_contents(self, text: str, skeleton: _Skeleton, contents: Sequence[str]) -> list[str]:
        """Return `text` in pieces of which none holds a look-alike of a control token inside a content."""
        for variant in (list(contents), [content.strip() for content in contents]):
            if _fill(skeleton, variant) == text:
                return _pieces(skeleton, [_cut(content, self._prompt_markers) for content in variant])
        raise DataError(
            "a prompt holds text that looks like a control token, and the chat template of "
            f"{self.tokenizer.name_or_path} rewrites its contents, so the two cannot be told apart",
            code="WRPO-D022",
            help="remove that text from the prompt",
        )

    def _skeleton(self, roles: tuple[str, ...], add_generation_prompt: bool) -> _Skeleton:
        key = (roles, add_generation_prompt)
        if key not in self._skeletons:
            slots = [{"role": role, "content": _SLOT.format(number)} for number, role in enumerate(roles)]
            text = self._render(slots, add_generation_prompt)
            parts = _SLOT_PATTERN.split(text)
            control_ids = tuple(index for index in self._ids(text) if index in self._control_ids)
            self._skeletons[key] = _Skeleton(tuple(parts[0::2]), tuple(int(part) for part in parts[1::2]), control_ids)
        return self._skeletons[key]

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return self._apply(messages, add_generation_prompt)
        except TemplateStoppedError as error:
            rule = f"the chat template of {self.tokenizer.name_or_path} was stopped: {error}"
            raise DataError(rule, code="WRPO-D023", help="name another template in chat_template") from error
        except TemplateRefusedError as error:
            roles = [message["role"] for message in messages]
            reason = self._refusal(roles, add_generation_prompt)
            rule = f"the chat template of {self.tokenizer.name_or_path} refuses {roles}: {reason}"
            raise DataError(rule, code="WRPO-D021", help="correct the template, or leave such prompts out") from error

    def _apply(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        return render_template(self._template, messages, add_generation_prompt, self.tokenizer.special_tokens_map)

    def _refusal(self, roles: Sequence[str], add_generation_prompt: bool) -> str:
        """Return why the template refuses these roles, in its words for other contents: its own may quote a prompt."""
        try:
            self._apply([{"role": role, "content": "..."} for role in roles], add_generation_prompt)
        except (TemplateRefusedError, TemplateStoppedError) as error:
            return str(error)
        return "because of what a message holds"

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])  # pyright: ignore[reportArgumentType]

    def _without_unknown(self, tokens: dict[str, int]) -> frozenset[int]:
        """The unknown token may come from any text; it controls nothing."""
        return frozenset(index for index in tokens.values() if index != self.tokenizer.unk_token_id)

    def _find_end_token(self) -> int:
        """Return the token that closes an answer in the template, or the tokenizer's EOS when the template has none."""
        tail = self._skeleton(("user", "assistant"), False).parts[-1]
        closing = [index for index in self._ids(tail) if index in self._special_ids]
        if closing:
            return closing[0]
        eos: Any = self.tokenizer.eos_token_id
        if eos is None:
            name = self.tokenizer.name_or_path
            raise ModelError(f"{name}: neither its chat template nor an EOS token ends an answer", code="WRPO-M015")
        return int(eos)

    def _refuse_double_bos(self) -> None:
        bos = self.tokenizer.bos_token_id
        if bos is not None and self._skeleton(("user",), True).control_ids[:2] == (bos, bos):
            rule = f"the chat template of {self.tokenizer.name_or_path} begins with two BOS tokens"
            raise ModelError(rule, code="WRPO-M015", help="take one of them out of the template")


def _any_of(tokens: dict[str, int]) -> re.Pattern[str]:
    """Return a pattern that finds any of the token texts; with none, a pattern that never matches."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(re.escape(text) for text in longest_first) or r"(?!)")


def _cut(text: str, markers: re.Pattern[str]) -> list[str]:
    """Cut `text` behind the first character of every marker in it, so that no piece holds a marker.

    "a<|end|>b" with marker "<|end|>" becomes ["a<", "|end|>b"].
    """
    pieces, start, position = [], 0, 0
    while match := markers.search(text, position):
        if match.end() - match.start() < 2:
            rule = f"the text holds the one-character control token U+{ord(match[0]):04X}"
            raise DataError(rule, code="WRPO-D022", help="remove it from the text")
        position = match.start() + 1
        pieces.append(text[start:position])
        start = position
    return [*pieces, text[start:]]


def _fill(skeleton: _Skeleton, contents: Sequence[str]) -> str:
    return "".join(_pieces(skeleton, [[content] for content in contents]))


def _pieces(skeleton: _Skeleton, cut_contents: Sequence[Sequence[str]]) -> list[str]:
    """Join template parts and contents, keeping only the cuts inside contents."""
    pieces = [skeleton.parts[0]]
    for slot, part in zip(skeleton.slots, skeleton.parts[1:], strict=True):
        first, *others = cut_contents[slot]
        pieces[-1] += first
        pieces.extend(others)
        pieces[-1] += part
    return pieces
