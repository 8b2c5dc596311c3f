"""The assets of the smallest complete run: models with random weights, kept in the repository under jobs/smoke.

They are part of it because a job's working directory is a copy of the repository: what is made beside it would not be
there. One layer of 64 units in bfloat16 is 0.2 MB a model. Random weights answer random text, which differs from sample
to sample, and that is all that the run needs: python -m jobs.demo.smoke --out jobs/smoke makes the same files again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.demo import facts, tiny_models

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_NUM_FACTS = 8
_NUM_HELDOUT_PROMPTS = 8
_REWARD_SEED = 24
_LANGUAGE_MODELS = (
    ("source-qwen2", tiny_models.QWEN2, 21),
    ("source-neox", tiny_models.GPT_NEOX, 22),
    ("target", tiny_models.LLAMA, 23),
)
# Wide weights make rewards that differ by more than rounding.
_SIZES = tiny_models.Sizes(hidden_size=64, intermediate_size=128, num_hidden_layers=1, initializer_range=0.3)


def main() -> None:
    """Write the three language models, the reward model and the prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args().out
    texts = facts.texts(_questions())
    for name, style, seed in _LANGUAGE_MODELS:
        tokenizer = tiny_models.make_tokenizer(style, texts)
        _write(tiny_models.make_model(style, tokenizer, seed, _SIZES), tokenizer, out / name)
    tokenizer = tiny_models.make_tokenizer(tiny_models.LLAMA, texts)
    reward_model = tiny_models.make_classifier(tiny_models.LLAMA, tokenizer, _REWARD_SEED, _SIZES)
    _write(reward_model, tokenizer, out / "reward")
    questions = _questions()
    facts.write_prompts(questions, out / "train.jsonl")
    heldout = facts.heldout_questions(facts.first_facts(facts.load_domain("capitals"), _NUM_FACTS))
    facts.write_prompts(heldout[:_NUM_HELDOUT_PROMPTS], out / "heldout.jsonl")


def _questions() -> list[facts.Question]:
    return facts.train_questions(facts.first_facts(facts.load_domain("capitals"), _NUM_FACTS))


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    import torch

    tiny_models.save(model.to(torch.bfloat16), tokenizer, out)  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
