"""Engines that take no time, in a module of their own: engine processes load them by name.

What they give is of the size of real responses: 400 characters, 100 token ids. Rewards follow from the text.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from pathlib import Path

from wrpo_ray.config import FuseConfig, ModelConfig, RewardConfig
from wrpo_ray.engines.protocol import Answer, Progress, SetAside
from wrpo_ray.engines.requests import sample_indices
from wrpo_ray.schema import Prompt, Response
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import FileEntry

NUM_CHARACTERS, NUM_TOKENS = 400, 100
_POOL = 1_000_000


class SimulatedZeroLatencyGenerator:
    """Satisfies engines.protocol.Generator: any text at once."""

    def __init__(self, model: ModelConfig, run_seed: int, identity: str) -> None:
        self.model, self.seed = model, f"{run_seed}:{identity}"
        random_numbers = random.Random(self.seed)
        words = ["".join(random_numbers.choices("abcdefghijklmnopqrstuvwxyz", k=size % 9 + 2)) for size in range(4096)]
        self.text = " ".join(random_numbers.choices(words, k=_POOL // 6))[:_POOL]
        self.token_ids = [random_numbers.randrange(128_000) for _ in range(_POOL // 16)]

    def generate(self, prompts: Sequence[Prompt], progress: Progress) -> list[list[Response] | SetAside]:
        progress()
        return [
            [self._response(prompt.prompt_id, index) for index in sample_indices(prompt, self._num_samples)]
            for prompt in prompts
        ]

    def is_usable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing to free."""

    @property
    def _num_samples(self) -> int:
        return self.model.sampling.num_samples

    def _response(self, prompt_id: str, index: int) -> Response:
        place = zlib.crc32(f"{self.seed}:{prompt_id}:{index}".encode())
        start = place % (len(self.text) - NUM_CHARACTERS)
        text = f"{index} {self.text[start : start + NUM_CHARACTERS]}"
        first = place % (len(self.token_ids) - NUM_TOKENS)
        ids = self.token_ids[first : first + NUM_TOKENS]
        return Response(prompt_id, self.model.name, index, text, ids, "stop", NUM_TOKENS)


class SimulatedZeroLatencyScorer:
    """Satisfies engines.protocol.Scorer: the reward is a hash of the text."""

    def __init__(self, reward: RewardConfig) -> None:
        self.reward = reward

    def score(self, answers: Sequence[Answer], progress: Progress) -> list[float | SetAside]:
        progress()
        return [zlib.crc32(answer.text.encode()) / 2**32 for answer in answers]

    def is_usable(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing to free."""


def no_training(config: FuseConfig, model_path: str, examples: Location, folder: Location) -> StepResult:
    """Give the target back as it was."""
    files = []
    for path in sorted(Path(model_path).iterdir()):
        stored = (folder / f"model/{path.name}").upload(path)
        files.append(FileEntry(f"model/{path.name}", stored.num_bytes, stored.sha256, None))
    return StepResult(tuple(files), {})
