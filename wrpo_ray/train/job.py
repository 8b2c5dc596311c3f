"""What the driver tells every worker: plain JSON on the way, this type at both ends."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import SerializeAsAny, model_validator

from wrpo_ray.batching import BatchSizes, num_steps_per_epoch
from wrpo_ray.config import (
    EXECUTION_FIELDS,
    REFERENCE_FIELDS,
    Frozen,
    ModelFiles,
    SFTConfig,
    TrackingConfig,
    TrainConfig,
    WRPOConfig,
)
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry

Kind = Literal["sft", "reference", "wrpo"]
# Of a step's folder; goes once the step's manifest is written.
SCRATCH = "scratch"
CHECKPOINTS = "checkpoints"


class TrainJob(Frozen):
    """One training run, or one pass of the reference model (which takes its batches from the `wrpo` section)."""

    kind: Kind
    run_name: str
    seed: int
    train: SerializeAsAny[TrainConfig]
    model: ModelFiles
    tokens: FileEntry
    """Parquet file with the tokenised rows, below the scratch folder."""
    num_rows: int
    pad_token_id: int
    out: str
    """The step's folder, as `locate` reads it."""
    tracking: TrackingConfig

    @model_validator(mode="before")
    @classmethod
    def _read_section(cls, values: dict[str, object]) -> dict[str, object]:
        section = SFTConfig if values["kind"] == "sft" else WRPOConfig
        train = values["train"]
        return values if isinstance(train, TrainConfig) else {**values, "train": section.model_validate(train)}

    @property
    def folder(self) -> Location:
        """The step's folder."""
        return locate(self.out)

    @property
    def scratch(self) -> Location:
        """Working state: tokens, checkpoints, attempts."""
        return self.folder / SCRATCH

    @property
    def checkpoints(self) -> Location:
        """Where the checkpoints of this trajectory lie."""
        return self.scratch / CHECKPOINTS / self.digest

    @property
    def sizes(self) -> BatchSizes:
        return BatchSizes(self.train.global_batch_size, self.train.micro_batch_tokens, self.train.num_workers)

    @property
    def steps_per_epoch(self) -> int:
        return num_steps_per_epoch(self.num_rows, self.train.global_batch_size)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.train.num_epochs * self.steps_per_epoch

    @property
    def digest(self) -> str:
        """12 hex digits that name the trajectory: rows, their order, objective and optimizer.

        A checkpoint of another one is never loaded. The model needs no place in it: the step's folder is its own.
        """
        fields = {"kind", "seed", "tokens", "num_rows", "pad_token_id", "train"}
        left_out = {"train": EXECUTION_FIELDS | REFERENCE_FIELDS, "tokens": {"key_range"}}
        told = self.model_dump_json(include=fields, exclude=left_out)
        return hashlib.sha256(told.encode("utf-8")).hexdigest()[:12]
