"""What loading a model costs each of two ranks, sharded or whole: this file's main, in each process."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.train import two_ranks

INTERVAL_S = 0.001
TOKENS = torch.tensor([[5, 6, 7, 8, 9]])


def _anonymous_bytes() -> int:
    """Memory of this process that is no file's: mapped files are the page cache's, which gives way."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


@contextmanager
def peak_anonymous_bytes(found: dict[str, Any]) -> Iterator[None]:
    """Note in `found` how far this process's memory rose at most inside the block, and how much is left of it."""
    before, done = _anonymous_bytes(), threading.Event()
    peak = [before]

    def watch() -> None:
        while not done.wait(INTERVAL_S):
            peak.append(max(peak[-1], _anonymous_bytes()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        found |= {"peak_bytes": peak[-1] - before, "left_bytes": _anonymous_bytes() - before}


def main(rank: str, port: str, folder: str) -> None:
    """Load the model in `folder` as a training section with the stage in stage.txt says; score TOKENS with it."""
    two_ranks.join(rank, port)
    from wrpo_ray.config import ModelFiles
    from wrpo_ray.train import zero
    from wrpo_ray.train.model import load_model

    train = two_ranks.section(zero_stage=int((Path(folder) / "stage.txt").read_text()))
    found: dict[str, Any] = {}
    with peak_anonymous_bytes(found), zero.sharded_loading(train):
        model = load_model(ModelFiles(path=str(Path(folder) / "model")), train)
    found["num_elements"] = two_ranks.num_elements(model)
    scorer = zero.start_inference_engine(model, train)
    with torch.no_grad():
        logits = scorer(TOKENS).logits
    torch.save(logits.clone(), Path(folder) / f"logits{rank}.pt")
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
