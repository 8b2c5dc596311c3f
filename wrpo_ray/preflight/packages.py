"""Packages that only some settings need."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import Problem
from wrpo_ray.preflight.benchmarks import wanted_packages


def check_packages(config: FuseConfig) -> Iterator[Problem]:
    """Yield a problem for every setting whose package is not installed."""
    for place, value, module, extra in _wanted(config):
        if find_spec(module) is None:
            rule = f"needs the package {module}, which is not installed"
            what = f"'wrpo-ray[{extra}]'" if extra else module.replace("_", "-")
            yield Problem(place, value, rule, f"pip install {what} on all nodes", "WRPO-C036")


def _wanted(config: FuseConfig) -> Iterator[tuple[str, str, str, str]]:
    """Yield field, value, module and the extra of ours that brings it, if one does."""
    tracking = config.tracking
    if tracking.tensorboard:
        yield "tracking.tensorboard", "true", "tensorboard", "tensorboard"
    if tracking.wandb_project is not None:
        yield "tracking.wandb_project", tracking.wandb_project, "wandb", "wandb"
    if tracking.mlflow_tracking_uri is not None:
        yield "tracking.mlflow_tracking_uri", tracking.mlflow_tracking_uri, "mlflow", "mlflow"
    yield from wanted_packages(config.evaluation.lm_eval if config.evaluation else None)
    for place, train in (("sft", config.sft), ("wrpo", config.wrpo)):
        if train.attention == "flash_attention_2":
            yield f"{place}.attention", train.attention, "flash_attn", ""
        if train.head_kernel == "cut_cross_entropy":
            yield f"{place}.head_kernel", train.head_kernel, "cut_cross_entropy", "cce"
        if train.lora is not None:
            yield f"{place}.lora", f"rank {train.lora.rank}", "peft", "lora"
