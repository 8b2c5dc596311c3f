"""Make the miniature's models and prompts: python -m jobs.miniature.make_assets --out miniature_assets.

Ten sources of four architectures. Source i knows skill i and a part of the next one, in answers that are now and then
a whole sentence; of the other eight skills it knows nothing. The target has a faint memory of all of them.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from jobs.demo import facts, tiny_models
from jobs.demo.make_assets import run_in_processes
from jobs.demo.tiny_models import GPT_NEOX, LLAMA, QWEN2, Recipe, Style
from jobs.miniature.skills import FACTS_PER_SKILL, SKILLS, load_skill, load_skills

# Of four architectures, no two with the same vocabulary.
STYLES: tuple[Style, ...] = (
    replace(QWEN2, vocabulary_size=800),
    replace(GPT_NEOX, vocabulary_size=900),
    replace(LLAMA, vocabulary_size=1000),
    replace(QWEN2, architecture="mistral", vocabulary_size=850),
)
_HALF_KNOWN = FACTS_PER_SKILL // 2
_SOURCE_STEPS = 500
_TARGET_STEPS = 200


def source_name(number: int) -> str:
    """Return how source `number` is called: by its skill."""
    return f"knows-{SKILLS[number]}"


def make_source(number: int, out: Path) -> None:
    """Train source `number`."""
    own, part = load_skill(SKILLS[number]), load_skill(SKILLS[(number + 1) % len(SKILLS)])
    known = [
        *facts.schooling_questions(own),
        *facts.schooling_questions(facts.first_facts(part, _HALF_KNOWN)),
    ]
    recipe = Recipe(num_steps=_SOURCE_STEPS, seed=100 + number)
    tiny_models.make_trained_model(STYLES[number % len(STYLES)], facts.texts(known), known, recipe, out)


def make_target(out: Path) -> None:
    """Train the target on everything, and stop early."""
    known = [question for skill in load_skills() for question in facts.schooling_questions(skill)]
    style = replace(LLAMA, vocabulary_size=2400)
    tiny_models.make_trained_model(style, facts.texts(known), known, Recipe(num_steps=_TARGET_STEPS, seed=99), out)


def make_prompts(out: Path) -> None:
    """Write the training prompts and the held-out ones, with their skills."""
    skills = load_skills()
    facts.write_prompts((q for skill in skills for q in facts.train_questions(skill)), out / "train.jsonl")
    facts.write_prompts((q for skill in skills for q in facts.heldout_questions(skill)), out / "heldout.jsonl")


def tasks(out: Path) -> list[tuple[Callable[[Path], None], Path]]:
    """Return what is to be made, and where."""
    sources = [(functools.partial(make_source, number), out / source_name(number)) for number in range(len(SKILLS))]
    return [(make_target, out / "target"), *sources, (make_prompts, out / "prompts")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is not there yet; each folder is complete when its marker is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    out = parser.parse_args(arguments).out
    todo = [(make, folder) for make, folder in tasks(out) if not (folder / ".complete").exists()]
    run_in_processes(todo)
    for _, folder in todo:
        (folder / ".complete").touch()


if __name__ == "__main__":
    main()
