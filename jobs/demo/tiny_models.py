"""Tiny language models of three architectures, each trained on the spot on what it shall know.

Untied embeddings and a wide initialisation are what lets half a million weights memorise fifty facts in seconds: with
the libraries' defaults (tied, 0.02) the same number of steps reaches a fifth of the accuracy.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.demo.facts import Question

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from wrpo_ray.chat import ChatTokenizer

TEMPLATES_FOLDER = Path(__file__).parent / "templates"
NUM_POSITIONS = 256
# vLLM has no attention kernel for narrower heads.
_HEAD_SIZE = 32
_IGNORED_LABEL = -100


@dataclass(frozen=True)
class Sizes:
    """Size and spread of a tiny model's weights."""

    hidden_size: int = 128
    intermediate_size: int = 256
    num_hidden_layers: int = 2
    initializer_range: float = 0.05


@dataclass(frozen=True)
class Style:
    """Architecture, vocabulary and chat format of one tiny model."""

    architecture: str
    vocabulary_size: int
    template: str
    end_token: str
    begin_token: str | None = None
    other_tokens: tuple[str, ...] = ()
    prefix_space: bool = False


QWEN2 = Style("qwen2", 512, "chatml", "<|im_end|>", other_tokens=("<|im_start|>",))
GPT_NEOX = Style("gpt_neox", 640, "question_answer", "<|endoftext|>")
# With a space before the first word and a vocabulary that holds every answer, an answer is one token, alone or in a
# sentence: what the target learns in one form it knows in the other, and WRPO weighs answers instead of word pieces.
LLAMA = Style(
    "llama",
    1600,
    "header",
    "<|eot_id|>",
    "<|begin_of_text|>",
    ("<|start_header_id|>", "<|end_header_id|>"),
    prefix_space=True,
)


@dataclass(frozen=True)
class Recipe:
    """How long and on which share of sentence answers a tiny model is trained; steps are counted, never timed."""

    num_steps: int
    seed: int
    sentence_share: float = 0.15
    batch_size: int = 32
    learning_rate: float = 3e-3


def make_tokenizer(style: Style, texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on `texts`, with the style's chat template and control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # Byte-level only: for some architectures transformers rebuilds the tokenizer and drops any other pre-tokenizer.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=style.prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token in (style.begin_token, style.end_token, *style.other_tokens) if token]
    trainer = trainers.BpeTrainer(
        vocab_size=style.vocabulary_size,
        special_tokens=control,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=style.begin_token,
        eos_token=style.end_token,
        pad_token=style.end_token,
        additional_special_tokens=list(style.other_tokens),
    )
    fast.chat_template = (TEMPLATES_FOLDER / f"{style.template}.jinja").read_text(encoding="utf-8")
    return fast


def make_model(style: Style, tokenizer: PreTrainedTokenizerFast, seed: int, sizes: Sizes = Sizes()) -> PreTrainedModel:
    """Return a tiny model of the style's architecture with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(model_config(style, tokenizer, sizes))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def make_classifier(
    style: Style, tokenizer: PreTrainedTokenizerFast, seed: int, sizes: Sizes = Sizes()
) -> PreTrainedModel:
    """Return a tiny sequence classifier with one label and random weights."""
    import torch
    from transformers import AutoModelForSequenceClassification

    config = model_config(style, tokenizer, sizes)
    config.num_labels = 1
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(config)


def model_config(style: Style, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PretrainedConfig:
    """Return the transformers config of a tiny model."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        style.architecture,
        vocab_size=len(tokenizer),
        num_attention_heads=sizes.hidden_size // _HEAD_SIZE,
        num_key_value_heads=sizes.hidden_size // _HEAD_SIZE,
        max_position_embeddings=NUM_POSITIONS,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **asdict(sizes),
    )


def make_trained_model(
    style: Style, texts: Sequence[str], known: Sequence[Question], recipe: Recipe, out: Path
) -> None:
    """Train a tiny model on the questions in `known` and write it with its tokenizer as a Hugging Face folder."""
    from transformers import AutoTokenizer

    from wrpo_ray.chat import ChatTokenizer

    tokenizer = make_tokenizer(style, texts)
    model = make_model(style, tokenizer, recipe.seed)
    model.config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    # As its users read it: for Qwen2 transformers cuts numbers into digits then, whatever was saved.
    read = ChatTokenizer(AutoTokenizer.from_pretrained(out))
    train(model, read, known, recipe)
    save(model, tokenizer, out)


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write model and tokenizer as a Hugging Face folder."""
    from transformers.utils import logging

    from wrpo_ray.train.model import share_as

    logging.disable_progress_bar()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    share_as(out / "config.json", *out.glob("*.safetensors"))


def train(model: PreTrainedModel, chat: ChatTokenizer, known: Sequence[Question], recipe: Recipe) -> None:
    """Minimise the cross-entropy of the answers for a fixed number of steps."""
    import torch

    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, recipe.num_steps))
    for batch in _batches(chat, known, recipe):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


def _learning_rate_factor(step: int, num_steps: int) -> float:
    warm_up = min(1.0, (step + 1) / 10)
    return warm_up * 0.5 * (1.0 + math.cos(math.pi * step / num_steps))


def _batches(chat: ChatTokenizer, known: Sequence[Question], recipe: Recipe) -> Iterator[dict[str, torch.Tensor]]:
    """Yield one batch per step; a share of the answers is a whole sentence, as models like to say too much."""
    rng = random.Random(recipe.seed)
    for _ in range(recipe.num_steps):
        questions = rng.choices(known, k=recipe.batch_size)
        answers = [q.sentence if rng.random() < recipe.sentence_share else q.answer for q in questions]
        yield _collate(chat, [q.prompt for q in questions], answers)


def _collate(chat: ChatTokenizer, prompts: Sequence[str], answers: Sequence[str]) -> dict[str, torch.Tensor]:
    from wrpo_ray.batching import pad_sequences

    asked = [chat.encode_prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    batch = pad_sequences(asked, [chat.encode_response(answer) for answer in answers], chat.pad_token_id)
    labels = batch.input_ids.masked_fill(~batch.response_mask, _IGNORED_LABEL)
    return {"input_ids": batch.input_ids, "labels": labels, "attention_mask": batch.attention_mask}
