"""What looks like a control token, of models that are and that are not in a run; and what is no such text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.tiny import chatml_tokenizer, headers_tokenizer
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import PromptsConfig, RowsConfig
from wrpo_ray.control_text import holds_control_text
from wrpo_ray.prompts import read_prompts
from wrpo_ray.schema import ScoredResponse
from wrpo_ray.selection import best_source, response_codes

REPOSITORY = Path(__file__).parents[2]
# Of Llama 2 and 3, ChatML and Qwen2-VL, Gemma, Mistral, Phi, DeepSeek, GPT-NeoX, Falcon, BERT, T5.
TOKENS = [
    "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>",
    "<|reserved_special_token_17|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<bos>",
    "<eos>", "<start_of_turn>", "<end_of_turn>", "<unused99>", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]",
    "<|user|>", "<|end|>",
    "<\uff5cUser\uff5c>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<|endoftext|>", "<|padding|>",
    "<pad>", "<unk>", "<extra_id_0>",
]  # fmt: skip
PLAIN = [
    "a < b and c > d",
    "<p>text</p>",
    "<|",
    "|>",
    "<| two words |>",
    "if (a||b)",
    "[1, 2]",
    "<think>hm</think>",
    "x<sup>2</sup>",
]


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_of_known_families(token: str) -> None:
    assert holds_control_text(["fine", f"before{token}after"])


@pytest.mark.parametrize("text", PLAIN)
def test_text_that_is_none(text: str) -> None:
    assert not holds_control_text([text])


SMOKE = sorted(path.parent for path in (REPOSITORY / "jobs" / "smoke").glob("*/tokenizer.json"))
TOKENIZERS = {
    "chatml": chatml_tokenizer(),
    "headers": headers_tokenizer(),
    **{folder.name: AutoTokenizer.from_pretrained(folder) for folder in SMOKE},
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_added_token_in_a_text_is_read_as_text(name: str) -> None:
    """By engine, reward model and training alike: the ids of control tokens are those of the bare template."""
    tokenizer = TOKENIZERS[name]
    chat = ChatTokenizer(tokenizer)
    control = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special} - {
        tokenizer.unk_token_id
    }

    def of_template(ids: list[int]) -> list[int]:
        return [index for index in ids if index in control]

    plain_prompt, plain_pair = [{"role": "user", "content": "hi"}], "yes"
    for token in [token.content for token in tokenizer.added_tokens_decoder.values()]:
        attack = f"a{token}{token} b"
        prompt = [{"role": "user", "content": attack}]
        assert of_template(chat.encode_prompt(prompt)) == of_template(chat.encode_prompt(plain_prompt))
        expected = of_template(chat.encode_conversation(plain_prompt, plain_pair))
        assert of_template(chat.encode_conversation(prompt, attack)) == expected
        assert of_template(chat.encode_response(attack)) == [chat.end_token_id]


def scored(text: str, reward: float, finish_reason: str = "stop") -> ScoredResponse:
    return ScoredResponse("p", "s", 0, text, finish_reason, 5, reward)


def test_a_response_with_control_tokens_is_chosen_unless_it_is_to_be_left_out() -> None:
    attack, fine = scored("I won.<|im_end|>", 9.0), scored("fine", 1.0)
    assert response_codes(attack) == ["response_control_tokens"]
    assert best_source([attack, fine], ["s"], RowsConfig()) == attack
    for policy in ("drop", "quarantine"):
        assert best_source([attack, fine], ["s"], RowsConfig(response_control_tokens=policy)) == fine


def test_a_response_may_be_odd_in_two_ways() -> None:
    attack, fine = scored("I won.<|im_end|>", 9.0, "length"), scored("fine", 1.0)
    assert response_codes(attack) == ["response_cut", "response_control_tokens"]
    assert best_source([attack, fine], ["s"], RowsConfig(response_control_tokens="drop")) == fine
    assert best_source([attack, fine], ["s"], RowsConfig(response_cut="drop")) == fine


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    turns = [
        {"role": "user", "content": "a<|im_end|>"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    rows = [{"prompt": "plain"}, {"prompt": "x </s> y"}, {"prompt": turns}, {"prompt": "plain"}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_prompts_are_kept_dropped_or_refused(prompts: Path) -> None:
    kept, problems = read_prompts(PromptsConfig(path=str(prompts)))
    assert (len(kept.prompts), kept.num_duplicates, kept.num_dropped, problems) == (3, 1, None, [])
    dropped, problems = read_prompts(PromptsConfig(path=str(prompts), control_tokens="drop"))
    assert (len(dropped.prompts), dropped.num_rows, dropped.num_duplicates, dropped.num_dropped) == (1, 4, 1, 2)
    assert problems == []
    _, problems = read_prompts(PromptsConfig(path=str(prompts), control_tokens="refuse"))
    assert [(problem.place, problem.code) for problem in problems] == [
        (f"{prompts}, row 2", "WRPO-D052"),
        (f"{prompts}, row 3", "WRPO-D052"),
    ]
    assert "im_end" not in str(problems)


def test_nothing_left_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text('{"prompt": "<|im_end|>"}\n')
    _, problems = read_prompts(PromptsConfig(path=str(path), control_tokens="drop"))
    assert [(problem.code, problem.value) for problem in problems] == [("WRPO-D009", "1 rows")]
