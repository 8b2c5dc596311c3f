"""A reward table of real models: twelve tiny character models, each schooled on its own mix of tasks.

python -m benchmarks.allocation_recorded    (three minutes on one core; writes results/allocation_letters.npz)

Toy models, but nothing is put in by hand: how good a source is at a prompt, how much its samples differ and how both
hang together is what training made of it. Tasks: reverse, sort, shift each letter by one, drop the vowels, double each
letter, swap the halves, on words of random letters. Reward: similarity of the response to the right answer (difflib).
Sampling: K = 5, temperature 0.8, every prompt, every source.
"""

from __future__ import annotations

import argparse
import difflib
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wrpo_ray.allocation.table import RewardTable

LETTERS = "abcdefghij"
TASKS: dict[str, Callable[[str], str]] = {
    "R": lambda word: word[::-1],
    "S": lambda word: "".join(sorted(word)),
    "N": lambda word: "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in word),
    "V": lambda word: "".join(letter for letter in word if letter not in "aei"),
    "D": lambda word: "".join(letter * 2 for letter in word[:4]),
    "H": lambda word: word[len(word) // 2 :] + word[: len(word) // 2],
}
RECORDED = Path(__file__).parent / "results" / "allocation_letters.npz"
VOCABULARY = "\0>\n" + "".join(TASKS) + LETTERS
END = VOCABULARY.index("\n")
NUM_SAMPLES, TEMPERATURE, MAX_TOKENS, MAX_WORD = 5, 0.8, 12, 8
# (tasks that the source is schooled on, training steps, hidden size): generalists, specialists, early stops.
SOURCES = (
    ("RSNVDH", 1200, 96), ("RSNVDH", 800, 96), ("RSNVDH", 500, 96), ("RSNVDH", 500, 64), ("RSNVDH", 250, 64),
    ("R", 400, 64), ("S", 400, 64), ("NV", 400, 64), ("DH", 400, 64), ("RH", 600, 64), ("SNV", 600, 96), ("D", 200, 48),
)  # fmt: skip


class CharacterModel(nn.Module):
    """Two GRU layers over characters."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(VOCABULARY), 32)
        self.layers = nn.GRU(32, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, len(VOCABULARY))

    def forward(
        self, ids: torch.Tensor, state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # [rows, length] -> [rows, length, characters]
        output, state = self.layers(self.embed(ids), state)
        return self.head(output), state


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allocation_recorded")
    parser.add_argument("--out", type=Path, default=RECORDED)
    parser.add_argument("--prompts", type=int, default=4000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    prompts = make_prompts(options.prompts, seed=3)
    rewards = np.zeros((len(prompts), len(SOURCES), NUM_SAMPLES))
    tokens = np.zeros(rewards.shape, dtype=np.int32)
    for number, (tasks, num_steps, hidden) in enumerate(SOURCES):
        started = time.monotonic()
        model = trained(tasks, num_steps, hidden, seed=number)
        for sample in range(NUM_SAMPLES):
            texts, tokens[:, number, sample] = draw(model, prompts, seed=1000 * number + sample)
            rewards[:, number, sample] = [similarity(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        mean = rewards[:, number].mean()
        print(f"{tasks} {num_steps}: mean reward {mean:.3f}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    np.savez_compressed(
        options.out, prompts=np.array(prompts), rewards=rewards.astype(np.float32), tokens=tokens.astype(np.uint8)
    )


def load(path: Path, first_source: int = 0) -> RewardTable:
    """Return a recorded table of the sources from `first_source` on."""
    with np.load(path) as stored:
        prompts, rewards, tokens = stored["prompts"], stored["rewards"].astype(np.float64), stored["tokens"]
    rewards, tokens = rewards[:, first_source:], tokens[:, first_source:].astype(np.int32)
    names = [f"{number:02d}-{tasks}-{steps}" for number, (tasks, steps, _) in enumerate(SOURCES)]
    sources = tuple(names[first_source:])
    drawn = np.ones(rewards.shape, dtype=bool)
    ids = tuple(str(prompt) for prompt in prompts)
    return RewardTable(ids, sources, (NUM_SAMPLES,) * len(sources), rewards, tokens, drawn, drawn)


def make_prompts(count: int, seed: int) -> list[str]:
    """Return distinct prompts such as `Rbadge>`, in order."""
    generator = random.Random(seed)
    found: set[str] = set()
    while len(found) < count:
        found.add(f"{generator.choice(tuple(TASKS))}{word(generator)}>")
    return sorted(found)


def word(generator: random.Random) -> str:
    """Return 3 to 8 random letters."""
    return "".join(generator.choices(LETTERS, k=generator.randint(3, MAX_WORD)))


def answer(prompt: str) -> str:
    """Return the right response."""
    return TASKS[prompt[0]](prompt[1:-1])


def similarity(prompt: str, text: str) -> float:
    """Return 2 * matching characters / all characters of response and answer: 0 to 1."""
    return difflib.SequenceMatcher(None, answer(prompt), text, autojunk=False).ratio()


def encoded(texts: list[str]) -> torch.Tensor:
    """Return ids, filled up on the right with 0: [texts, length]."""
    ids = [[VOCABULARY.index(letter) for letter in text] for text in texts]
    longest = max(map(len, ids))
    return torch.tensor([row + [0] * (longest - len(row)) for row in ids])


def trained(tasks: str, num_steps: int, hidden: int, seed: int) -> CharacterModel:
    """Return a model schooled on random words of `tasks`."""
    torch.manual_seed(seed)
    generator = random.Random(seed)
    model = CharacterModel(hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(num_steps):
        prompts = [f"{generator.choice(tasks)}{word(generator)}>" for _ in range(128)]
        ids = encoded([f"{prompt}{answer(prompt)}\n" for prompt in prompts])
        scores, _ = model(ids[:, :-1])
        position = torch.arange(1, ids.shape[1])
        is_answer = (position >= torch.tensor([len(prompt) for prompt in prompts])[:, None]) & (ids[:, 1:] != 0)
        loss = nn.functional.cross_entropy(scores[is_answer], ids[:, 1:][is_answer])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def draw(model: CharacterModel, prompts: list[str], seed: int) -> tuple[list[str], np.ndarray]:
    """Return one response to each prompt, and their numbers of tokens."""
    generator = torch.Generator().manual_seed(seed)
    texts, counts = [""] * len(prompts), np.zeros(len(prompts), dtype=np.int32)
    for length in {len(prompt) for prompt in prompts}:
        rows = [number for number, prompt in enumerate(prompts) if len(prompt) == length]
        scores, state = model(encoded([prompts[number] for number in rows]))
        drawn = []
        for _ in range(MAX_TOKENS):
            last = torch.multinomial((scores[:, -1] / TEMPERATURE).softmax(-1), 1, generator=generator)
            drawn.append(last)
            scores, state = model(last, state)
        for number, ids in zip(rows, torch.cat(drawn, dim=1).tolist(), strict=True):
            stop = ids.index(END) if END in ids else MAX_TOKENS
            texts[number] = "".join(VOCABULARY[i] for i in ids[:stop])
            counts[number] = min(stop + 1, MAX_TOKENS)
    return texts, counts


if __name__ == "__main__":
    main()
