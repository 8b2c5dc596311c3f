"""Make the demo's models and prompts: python -m jobs.demo.make_assets --out demo_assets."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

from jobs.demo import facts, tiny_models
from jobs.demo.pretrained import make_smollm2

_VERSION = "4"
_NUM_PROCESSES = 2
_ELEMENTS_RECIPE = tiny_models.Recipe(num_steps=300, seed=11)
_VERBS_RECIPE = tiny_models.Recipe(num_steps=300, seed=12)
# Stopped early: the target has a faint memory of every fact. Of a fact that it never draws right WRPO learns nothing,
# as all its responses then have one reward.
_TARGET_RECIPE = tiny_models.Recipe(num_steps=125, seed=13)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what the command line asks for, unless it is complete already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    make_assets(parser.parse_args(arguments).out)


def make_assets(out: Path) -> None:
    """Make all assets; their marker is written last, so that a broken attempt starts over."""
    marker = out / ".complete"
    if marker.exists() and marker.read_text(encoding="utf-8") == _VERSION:
        print(f"the demo's models and prompts are complete in {out}")
        return
    started = time.monotonic()
    marker.unlink(missing_ok=True)
    run_in_processes(_demo_tasks(out))
    marker.write_text(_VERSION, encoding="utf-8")
    print(f"the demo's models and prompts were made in {time.monotonic() - started:.0f} s")


def run_in_processes(tasks: Sequence[tuple[Callable[[Path], None], Path]]) -> None:
    """Run tasks side by side, the first ones first, one thread each: more threads slow such small models down."""
    os.environ["OMP_NUM_THREADS"] = "1"
    # The reader of GGUF files draws a bar that a log would keep line by line.
    os.environ["TQDM_DISABLE"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=_NUM_PROCESSES, mp_context=context) as pool:
        futures: dict[Future[float], Path] = {pool.submit(_run_task, make, out): out for make, out in tasks}
        for future in as_completed(futures):
            print(f"  {futures[future]} ({future.result():.0f} s)", flush=True)


def _run_task(make: Callable[[Path], None], out: Path) -> float:
    """Make one folder out of nothing and return the seconds that it took."""
    started = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    make(out)
    return time.monotonic() - started


def _demo_tasks(out: Path) -> list[tuple[Callable[[Path], None], Path]]:
    """Return what the demo needs, the slowest first."""
    return [
        (make_smollm2, out / "smollm2"),
        (make_elements_source, out / "qwen2-elements"),
        (make_verbs_source, out / "neox-verbs"),
        (make_target, out / "target"),
        (make_prompts, out / "prompts"),
    ]


def make_elements_source(out: Path) -> None:
    """Train a Qwen2 that knows the chemical elements."""
    _make_source(tiny_models.QWEN2, "elements", _ELEMENTS_RECIPE, out)


def make_verbs_source(out: Path) -> None:
    """Train a GPT-NeoX that knows the past tense of irregular verbs."""
    _make_source(tiny_models.GPT_NEOX, "verbs", _VERBS_RECIPE, out)


def make_target(out: Path) -> None:
    """Train a Llama on all domains and stop early, so that it knows the form of an answer and little else."""
    domains = [facts.load_domain(name) for name in facts.DOMAINS]
    known = [q for domain in domains for q in facts.schooling_questions(domain)]
    tiny_models.make_trained_model(tiny_models.LLAMA, facts.texts(known), known, _TARGET_RECIPE, out)


def make_prompts(out: Path) -> None:
    """Write the training prompts and the held-out ones, which ask for the same facts in other words."""
    domains = [facts.load_domain(name) for name in facts.DOMAINS]
    facts.write_prompts((q for domain in domains for q in facts.train_questions(domain)), out / "train.jsonl")
    facts.write_prompts((q for domain in domains for q in facts.heldout_questions(domain)), out / "heldout.jsonl")


def _make_source(style: tiny_models.Style, domain_name: str, recipe: tiny_models.Recipe, out: Path) -> None:
    known = facts.schooling_questions(facts.load_domain(domain_name))
    tiny_models.make_trained_model(style, facts.texts(known), known, recipe, out)


if __name__ == "__main__":
    main()
