"""Real, tiny models made on the spot: random weights, real architectures, real byte-level BPE tokenizers."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Like Llama 3: BOS in the template, contents trimmed, no newline behind the end token.
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "<|head|>{{ m['role'] }}<|/head|>\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|/head|>\n\n{% endif %}"
)
CORPUS = [
    "What is the capital of France? Answer with one word.",
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "user assistant system Paris London Rome gold silver went gone",
    "0 1 2 3 4 5 6 7 8 9",
] * 5


def chatml_tokenizer(vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer with a ChatML template, no BOS, and its own padding token."""
    tokens = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(vocab_size, tokens), eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def headers_tokenizer(vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """Return a tokenizer like Llama 3's: BOS from the template, end of turn is not the EOS, no padding token."""
    tokens = ["<|bos|>", "<|eos|>", "<|head|>", "<|/head|>", "<|eot|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_byte_level_bpe(vocab_size, tokens), bos_token="<|bos|>", eos_token="<|eos|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": tokens[2:]})
    tokenizer.chat_template = HEADERS
    return tokenizer


def _byte_level_bpe(vocab_size: int, special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special_tokens, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _sizes(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | float | bool]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
    }


def save_llama(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Path:
    """Write a tiny Llama and return its folder."""
    torch.manual_seed(seed)
    return _save(LlamaForCausalLM(LlamaConfig(**_sizes(tokenizer), **_ends(tokenizer))), tokenizer, folder)


def save_qwen2(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Path:
    """Write a tiny Qwen2 and return its folder."""
    torch.manual_seed(seed)
    config = Qwen2Config(**_sizes(tokenizer), num_key_value_heads=2, **_ends(tokenizer))
    return _save(Qwen2ForCausalLM(config), tokenizer, folder)


def save_neox(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Path:
    """Write a tiny GPT-NeoX and return its folder."""
    torch.manual_seed(seed)
    return _save(GPTNeoXForCausalLM(GPTNeoXConfig(**_sizes(tokenizer), **_ends(tokenizer))), tokenizer, folder)


def save_classifier(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Path:
    """Write a tiny Llama reward model with one label and return its folder."""
    torch.manual_seed(seed)
    config = LlamaConfig(**_sizes(tokenizer), num_labels=1, **_ends(tokenizer))
    return _save(LlamaForSequenceClassification(config), tokenizer, folder)


def _ends(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
