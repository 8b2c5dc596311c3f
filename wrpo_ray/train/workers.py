"""Entry points of Ray Train workers: plain dictionaries in, files out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import FuseConfig
from wrpo_ray.models import load_tokenizer, tokenizer_of
from wrpo_ray.train.loop import Job, Worker
from wrpo_ray.train.reference import reference_by_prompt, reference_rows, write_part
from wrpo_ray.train.rows import load_quadruple_rows, load_sft_rows
from wrpo_ray.train.stages import SFTStage, WRPOStage


def sft_worker(arguments: dict[str, Any]) -> None:
    """Fine-tune the target on the best source responses."""
    config = FuseConfig.model_validate_json(arguments["config"])
    job = Job("sft", config, config.sft, arguments["model_path"], Path(arguments["out"]))
    chat = _chat(config, job.model_path)
    data = load_sft_rows(Path(arguments["examples"]), chat, config.sft)
    Worker(job, chat, data, lambda _: SFTStage()).run()


def wrpo_worker(arguments: dict[str, Any]) -> None:
    """Train Target-SFT on quadruples."""
    config = FuseConfig.model_validate_json(arguments["config"])
    job = Job("wrpo", config, config.wrpo, arguments["model_path"], Path(arguments["out"]))
    chat = _chat(config, job.model_path)
    data = load_quadruple_rows(Path(arguments["quadruples"]), chat, config.wrpo)
    reference = reference_by_prompt(Path(arguments["reference"]), [row.prompt_id for row in data.rows])
    Worker(job, chat, data, lambda num_steps: WRPOStage(config.wrpo, num_steps, reference)).run()


def reference_worker(arguments: dict[str, Any]) -> None:
    """Write this rank's share of the reference log-probs."""
    config = FuseConfig.model_validate_json(arguments["config"])
    chat = _chat(config, arguments["model_path"])
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rows = load_quadruple_rows(Path(arguments["quadruples"]), chat, config.wrpo).rows[rank::world_size]
    device = torch.device("cuda" if config.wrpo.num_gpus_per_worker else "cpu")
    write_part(
        Path(arguments["out"]), reference_rows(config, arguments["model_path"], rows, chat, device), rank, world_size
    )


def _chat(config: FuseConfig, model_path: str) -> ChatTokenizer:
    """The target's own tokenizer with the config's template, or what an earlier step saved beside its weights."""
    return ChatTokenizer(
        tokenizer_of(config.target) if model_path == config.target.path else load_tokenizer(model_path)
    )
