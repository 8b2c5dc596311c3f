"""Assets of the smallest complete run: barely trained models whose answers differ, and a random reward model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jobs.demo import facts, tiny_models

_NUM_FACTS = 8
_NUM_HELDOUT_PROMPTS = 8
_NUM_STEPS = 30
_REWARD_SEED = 24


def tasks(out: Path) -> list[tuple[Callable[[Path], None], Path]]:
    """Return what the smoke run needs."""
    return [
        (make_first_source, out / "source-qwen2"),
        (make_second_source, out / "source-neox"),
        (make_target, out / "target"),
        (make_reward_model, out / "reward"),
        (make_prompts, out / "prompts"),
    ]


def make_first_source(out: Path) -> None:
    """Make a Qwen2 that has seen a few answers."""
    _make_barely_trained(tiny_models.QWEN2, 21, out)


def make_second_source(out: Path) -> None:
    """Make a GPT-NeoX that has seen a few answers."""
    _make_barely_trained(tiny_models.GPT_NEOX, 22, out)


def make_target(out: Path) -> None:
    """Make a Llama that has seen a few answers."""
    _make_barely_trained(tiny_models.LLAMA, 23, out)


def make_reward_model(out: Path) -> None:
    """Make a sequence classifier with one label and random weights: its rewards mean nothing, but they differ."""
    tokenizer = tiny_models.make_tokenizer(tiny_models.QWEN2, facts.texts(_questions()))
    tiny_models.save(tiny_models.make_classifier(tiny_models.LLAMA, tokenizer, _REWARD_SEED), tokenizer, out)


def make_prompts(out: Path) -> None:
    """Write 24 training prompts and 8 held-out ones."""
    facts.write_prompts(_questions(), out / "train.jsonl")
    heldout = facts.heldout_questions(_domain())
    facts.write_prompts(heldout[:_NUM_HELDOUT_PROMPTS], out / "heldout.jsonl")


def _domain() -> facts.Domain:
    return facts.first_facts(facts.load_domain("capitals"), _NUM_FACTS)


def _questions() -> list[facts.Question]:
    return facts.train_questions(_domain())


def _make_barely_trained(style: tiny_models.Style, seed: int, out: Path) -> None:
    questions = _questions()
    recipe = tiny_models.Recipe(num_steps=_NUM_STEPS, seed=seed)
    tiny_models.make_trained_model(style, facts.texts(questions), questions, recipe, out)
