"""Two ranks as plain processes over gloo, without Ray: `run_cases` starts them, this file's main runs in each."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

NUM_RANKS = 2
# Micro-batches of each optimizer step on each rank: more and fewer than the step before.
MICRO_BATCHES = (3, 1, 2)
SEED = 11
# Else DeepSpeed would keep all parameters of a tiny model whole.
NOTHING_WHOLE = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
TIMEOUT_S = 300


def section(**fields: Any) -> Any:
    """Return a training section for two ranks in float32."""
    from wrpo_ray.config import SFTConfig

    base = {
        "learning_rate": 1e-2, "num_workers": NUM_RANKS, "global_batch_size": 8, "precision": "fp32", "zero_stage": 0,
        "lr_schedule": "linear", "warmup_ratio": 0.0, "adam_epsilon": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.5,
        "deepspeed": NOTHING_WHOLE,
    }  # fmt: skip
    return SFTConfig.model_validate({**base, **fields})


def batches() -> list[list[list[torch.Tensor]]]:
    """Return token ids [2, length] by step, rank and micro-batch."""
    made = torch.Generator().manual_seed(SEED)
    return [
        [[torch.randint(5, 60, (2, 5 + 3 * micro + rank), generator=made) for micro in range(count)]
         for rank in range(NUM_RANKS)]
        for count in MICRO_BATCHES
    ]  # fmt: skip


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the negative log-prob of all tokens but the first ones, summed."""
    return torch.nn.functional.cross_entropy(
        model(ids).logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )


def num_targets(step: list[list[torch.Tensor]]) -> int:
    return sum(ids[:, 1:].numel() for micros in step for ids in micros)


def plain_run(folder: Path, train: Any) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return losses and gradient norms of the same steps in plain torch, and the weights after them."""
    from wrpo_ray.schedules import learning_rate_factor

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=train.learning_rate, eps=train.adam_epsilon)
    found: dict[str, Any] = {"losses": [], "norms": []}
    for number, step in enumerate(batches()):
        factor = learning_rate_factor(number, len(MICRO_BATCHES), train.warmup_ratio, train.lr_schedule)
        for group in optimizer.param_groups:
            group["lr"] = train.learning_rate * factor
        optimizer.zero_grad()
        loss = sum(loss_of(model, ids) for micros in step for ids in micros) / num_targets(step)
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        found["losses"].append(loss.item())
        found["norms"].append(torch.nn.utils.clip_grad_norm_(model.parameters(), train.max_grad_norm).item())
        optimizer.step()
    return found, dict(model.state_dict())


def start(program: str, folder: Path, **environment: str) -> list[Any]:
    """Run module `program`, which calls `join`, on each rank; return the rank<n>.json that each left in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen([sys.executable, "-m", program, str(rank), str(port), str(folder)], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        for rank in range(NUM_RANKS)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=TIMEOUT_S)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(said)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(NUM_RANKS)]


def join(rank: str, port: str) -> None:
    """Enter the process group of all ranks."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "WORLD_SIZE": str(NUM_RANKS), "LOCAL_RANK": "0",
        "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=int(rank), world_size=NUM_RANKS)


def run_cases(folder: Path, model: Path, cases: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return, by case (fields of its training section), what `train_case` found on each rank."""
    (folder / "cases.json").write_text(json.dumps({"model": str(model), "cases": cases}))
    found = start("tests.train.two_ranks", folder)
    return {name: [of_rank[name] for of_rank in found] for name in cases}


def weights_of(folder: Path, case: str) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"{case}.pt")


def train_case(folder: Path, name: str, model_path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Take the steps of `batches` with one section; return this rank's losses, norms and share of the model."""
    from wrpo_ray.config import ModelFiles
    from wrpo_ray.train import zero
    from wrpo_ray.train.model import load_model

    train = section(**fields)
    rank = torch.distributed.get_rank()
    with zero.sharded_loading(train):
        model = load_model(ModelFiles(path=model_path), train)
    found: dict[str, Any] = {"losses": [], "norms": [], "num_elements": num_elements(model)}
    model.train()
    engine = zero.start_engine(model, train, len(MICRO_BATCHES))
    for step in batches():
        total = torch.zeros(())
        for number, ids in enumerate(step[rank], start=1):
            loss = loss_of(engine, ids) / num_targets(step)
            total += loss.detach()
            zero.backward(engine, loss * NUM_RANKS, is_last=number == len(step[rank]))
        copies = [getattr(parameter, "ds_secondary_tensor", None) for parameter in model.parameters()]
        found["num_copies"] = sum(copy is not None for copy in copies)
        torch.distributed.all_reduce(total)
        found["losses"].append(total.item())
        found["norms"].append(zero.optimizer_step(engine))
    found["num_graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    state = zero.whole_state(engine, model)
    if state is not None:
        torch.save(state, folder / f"{name}.pt")
    engine.destroy()
    return found


def num_elements(model: torch.nn.Module) -> int:
    """Return how many elements of parameters this rank holds."""
    held = [parameter.untyped_storage().size() // parameter.element_size() for parameter in model.parameters()]
    shares = [parameter.ds_tensor.numel() for parameter in model.parameters() if hasattr(parameter, "ds_tensor")]  # pyright: ignore[reportAttributeAccessIssue]
    return sum(held) + sum(shares)


def main(rank: str, port: str, folder: str) -> None:
    join(rank, port)
    asked = json.loads((Path(folder) / "cases.json").read_text())
    found = {name: train_case(Path(folder), name, asked["model"], fields) for name, fields in asked["cases"].items()}
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(found))
    torch.distributed.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
