"""A small sampling job with the fake engine, its clean result, and what a test compares."""

from __future__ import annotations

import functools
from pathlib import Path

from tests.faults.fake_engine import FakeGenerator, FakeScorer, FaultFolder
from wrpo_ray.config import EngineConfig, FaultsConfig, ModelConfig, ResourcesConfig, RowsConfig, SamplingConfig
from wrpo_ray.data.sampling import SamplingJob, sample
from wrpo_ray.schema import Prompt, Response, prompt_id
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import Manifest, create_manifest
from wrpo_ray.storage.tables import read_file, write_rows

NUM_PROMPTS, NUM_SAMPLES, PROMPTS_PER_SHARD = 32, 2, 4
IN_FLIGHT = 3
# A resource that only the nodes have on which a test may kill things.
ENGINE_NODE = "ENGINE"
FAULTS = FaultsConfig(
    engine_start_attempts=3, engine_start_timeout_s=20, stall_timeout_s=20, no_progress_timeout_s=120,
    max_replica_restarts=8,
)  # fmt: skip


def all_prompts(count: int = NUM_PROMPTS) -> list[Prompt]:
    messages = [[{"role": "user", "content": f"question {number}"}] for number in range(count)]
    return sorted((Prompt(prompt_id(m), m, "sft", None) for m in messages), key=lambda prompt: prompt.prompt_id)


IDS = [prompt.prompt_id for prompt in all_prompts()]


def finish(folder: Location, result: StepResult, name: str = "step") -> Location:
    """Make a finished step of `result`, as steps.execute does."""
    create_manifest(folder, Manifest(name, "f", {}, {}, result.files, dict(result.summary), {}, 0.0))
    return folder


def prompts_step(folder: Path) -> Location:
    place = locate(folder)
    return finish(place, StepResult((write_rows(place, "data/p.parquet", all_prompts(), Prompt),), {}))


def sampling_job(
    folder: Path,
    faults: FaultsConfig = FAULTS,
    rows: RowsConfig | None = None,
    num_replicas: int = 1,
    accelerator_type: str | None = ENGINE_NODE,
) -> SamplingJob:
    """Return a job whose engines look for their faults in `folder`/fake; its prompts are in `folder`/prompts."""
    resources = ResourcesConfig(
        num_replicas=num_replicas,
        num_cpus=0.5,
        prompts_per_shard=PROMPTS_PER_SHARD,
        accelerator_type=accelerator_type,
    )
    # Makes it IN_FLIGHT shards at a time: see data.in_flight.
    engine = EngineConfig(max_num_seqs=PROMPTS_PER_SHARD * NUM_SAMPLES)
    sampling = SamplingConfig(num_samples=NUM_SAMPLES)
    model = ModelConfig(name="fake", path="./none", engine=engine, sampling=sampling, resources=resources)
    make = functools.partial(FakeGenerator, str(folder / "fake"))
    prompts = prompts_step(folder / "prompts")
    return SamplingJob(model, prompts, ("sft",), 7, "identity", faults, rows or RowsConfig(), make)


def fakes(folder: Path) -> FaultFolder:
    return FaultFolder(folder / "fake")


def make_scorer(folder: Path) -> functools.partial[FakeScorer]:
    return functools.partial(FakeScorer, str(folder / "fake"))


def data_files(result: StepResult) -> dict[str, str]:
    """Return name and hash of the result's data files: equal when the rows are, in order and byte for byte."""
    return {entry.path: entry.sha256 for entry in result.files if entry.num_rows is not None}


def responses(folder: Location, result: StepResult) -> list[Response]:
    return [row for entry in result.files if entry.num_rows is not None for row in read_file(folder, entry, Response)]


def run(folder: Path, job: SamplingJob) -> StepResult:
    return sample(job, locate(folder / "step"))


def num_commits(folder: Path) -> int:
    return len(list((folder / "step" / "commits").glob("*.json")))


def clean_responses() -> list[Response]:
    """Return what an undisturbed engine gives, made without any of the machinery."""
    model = ModelConfig(name="fake", path="./none", sampling=SamplingConfig(num_samples=NUM_SAMPLES))
    engine = FakeGenerator.__new__(FakeGenerator)
    engine.model, engine.run_seed, engine.identity = model, 7, "identity"
    return [engine._response(item, index) for item in IDS for index in range(NUM_SAMPLES)]
