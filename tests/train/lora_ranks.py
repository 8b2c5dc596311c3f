"""Two ranks that train adapters and go on from a checkpoint, without Ray; started by `two_ranks.start`."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.train.two_ranks import MICRO_BATCHES, NUM_RANKS, SEED, batches, join, loss_of, num_targets, section

LORA = {"rank": 4, "alpha": 8}
TAG = "engine"


def lora_section(**fields: Any) -> Any:
    return section(**{"lora": LORA, **fields})


def start_engine(model_path: str, train: Any) -> tuple[Any, Any]:
    from wrpo_ray.config import ModelFiles
    from wrpo_ray.train import zero
    from wrpo_ray.train.lora import add_adapters
    from wrpo_ray.train.model import load_model

    with zero.sharded_loading(train):
        model = load_model(ModelFiles(path=model_path), train)
    add_adapters(model, train.lora, SEED)
    model.train()
    return zero.start_engine(model, train, len(MICRO_BATCHES)), model


def take_step(engine: Any, step: list[list[torch.Tensor]], found: dict[str, Any]) -> None:
    from wrpo_ray.train import zero

    mine = step[torch.distributed.get_rank()]
    total = torch.zeros(())
    for number, ids in enumerate(mine, start=1):
        loss = loss_of(engine, ids) / num_targets(step)
        total += loss.detach()
        zero.backward(engine, loss * NUM_RANKS, is_last=number == len(mine))
    torch.distributed.all_reduce(total)
    found["losses"].append(total.item())
    found["norms"].append(zero.optimizer_step(engine))


def lora_case(folder: Path, name: str, model_path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Take all steps; then once more from a checkpoint of the first one, which was written after the second."""
    from wrpo_ray.train import zero
    from wrpo_ray.train.lora import count_parameters
    from wrpo_ray.train.snapshot import held

    train = lora_section(**fields)
    first, *others = batches()
    found: dict[str, Any] = {"losses": [], "norms": []}
    engine, model = start_engine(model_path, train)
    found["counts"] = count_parameters(model)
    take_step(engine, first, found)
    # DeepSpeed leaves scripts beside its files, so ranks that share a folder would remove each other's.
    private = folder / f"{name}-rank{torch.distributed.get_rank()}"
    with held(engine) as copies:
        zero.save_checkpoint(engine, private, TAG)
    take_step(engine, others[0], found)
    copies.write()
    shutil.copytree(private, folder / name, dirs_exist_ok=True)
    for step in others[1:]:
        take_step(engine, step, found)
    whole = zero.whole_state(engine, model)
    engine.destroy()
    torch.distributed.barrier()

    again: dict[str, Any] = {"losses": [], "norms": []}
    engine, model = start_engine(model_path, train)
    zero.load_checkpoint(engine, folder / name, TAG)
    for step in others:
        take_step(engine, step, again)
    resumed = zero.whole_state(engine, model)
    engine.destroy()
    found["resumed_losses"] = again["losses"]
    if whole is not None and resumed is not None:
        torch.save(whole, folder / f"{name}.pt")
        found["resumed_is_equal"] = all(torch.equal(resumed[key], value) for key, value in whole.items())
        found["num_checkpoint_bytes"] = sum(path.stat().st_size for path in (folder / name).rglob("*.pt"))
    return found


def main(rank: str, port: str, folder: str) -> None:
    join(rank, port)
    asked = json.loads((Path(folder) / "cases.json").read_text())
    found = {name: lora_case(Path(folder), name, asked["model"], fields) for name, fields in asked["cases"].items()}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
