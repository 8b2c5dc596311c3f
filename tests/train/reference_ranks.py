"""The reference pass on two ranks without Ray: this file's main, in each process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest.mock import patch

import ray.train.torch
import torch

from tests.train import two_ranks
from wrpo_ray.train import reference
from wrpo_ray.train.ranks import Ranks


def main(rank: str, port: str, folder: str) -> None:
    """Work off the job in job.json; note how many forward passes there were, and what share of the model was held."""
    two_ranks.join(rank, port)
    found = {"passes": 0, "num_elements": 0}
    forward = reference.own_logps

    def counted(policy, *arguments):
        found["passes"] += 1
        found["num_elements"] = two_ranks.num_elements(getattr(policy, "module", policy))
        return forward(policy, *arguments)

    with (
        patch.object(reference, "current_ranks", lambda: Ranks(int(rank), two_ranks.NUM_RANKS, int(rank), 2)),
        patch.object(ray.train.torch, "get_device", lambda: torch.device("cpu")),
        patch.object(reference, "own_logps", counted),
    ):
        reference.reference_worker(json.loads((Path(folder) / "job.json").read_text()))
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
