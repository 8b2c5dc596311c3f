"""What the driver tells every worker: plain JSON on the way, this type at both ends."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import SerializeAsAny, model_validator

from wrpo_ray.batching import BatchSizes, num_steps_per_epoch
from wrpo_ray.config import Frozen, ModelFiles, SFTConfig, TrackingConfig, TrainConfig, WRPOConfig

Kind = Literal["sft", "reference", "wrpo"]
_FREE_FIELDS = {"max_failures", "log_every_steps", "checkpoint_every_steps"}


class TrainJob(Frozen):
    """One training run, or one pass of the reference model (which takes its batches from the `wrpo` section)."""

    kind: Kind
    run_name: str
    seed: int
    train: SerializeAsAny[TrainConfig]
    model: ModelFiles
    tokens: str
    """Parquet file with the tokenised rows."""
    num_rows: int
    pad_token_id: int
    out: str
    tracking: TrackingConfig

    @model_validator(mode="before")
    @classmethod
    def _read_section(cls, values: dict[str, object]) -> dict[str, object]:
        section = SFTConfig if values["kind"] == "sft" else WRPOConfig
        train = values["train"]
        return values if isinstance(train, TrainConfig) else {**values, "train": section.model_validate(train)}

    @property
    def sizes(self) -> BatchSizes:
        return BatchSizes(self.train.global_batch_size, self.train.micro_batch_size, self.train.num_workers)

    @property
    def steps_per_epoch(self) -> int:
        return num_steps_per_epoch(self.num_rows, self.train.global_batch_size)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.train.num_epochs * self.steps_per_epoch

    @property
    def ray_train_name(self) -> str:
        """Name under which Ray Train keeps its state: another job never resumes from this one's checkpoints.

        What says nothing about the state (how often to log or save, where metrics go) may change between attempts.
        """
        told = self.model_dump_json(exclude={"tracking": True, "train": _FREE_FIELDS})
        return f"{self.kind}-{hashlib.sha256(told.encode('utf-8')).hexdigest()[:12]}"
