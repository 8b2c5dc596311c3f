"""What is scheduled: sampling and scoring steps of sources as large as the paper's, as long as the planner says."""

from __future__ import annotations

from dataclasses import dataclass

from wrpo_ray.config import FuseConfig
from wrpo_ray.planning.plan import plan_run
from wrpo_ray.planning.schedule import Job

# Four sizes in turn, by GPUs per replica: the paper's sources have 9 to 236 billion parameters.
_MODELS = {
    1: "google/gemma-2-9b-it",
    2: "google/gemma-2-27b-it",
    4: "meta-llama/Meta-Llama-3-70B-Instruct",
    8: "mistralai/Mistral-Large-Instruct-2407",
}
NUM_PROMPTS = 60_000
_TARGET = "meta-llama/Meta-Llama-3-8B-Instruct"


@dataclass(frozen=True)
class Workload:
    """jobs: of the plan, sampling and scoring of each source, in simulated seconds. replaced: sources made smaller."""

    num_sources: int
    num_gpus: int
    jobs: tuple[Job, ...]
    replaced: int

    @property
    def ideal_s(self) -> float:
        """Simulated seconds of all work, without a start, on all GPUs at once."""
        return sum(job.gpu_seconds for job in self.jobs) / self.num_gpus


def workload(num_sources: int, num_gpus: int) -> Workload:
    """Return the work on so many H100; a source that needs more GPUs than there are is the largest that fits."""
    sizes = [list(_MODELS)[number % len(_MODELS)] for number in range(num_sources)]
    fitting = [min(size, num_gpus) for size in sizes]
    config = _config(fitting, num_gpus)
    jobs = [planned.stage.job for planned in plan_run(config).stages]
    own = {f"{kind}-s{number}" for number in range(num_sources) for kind in ("sample", "score")}
    replaced = sum(size != fits for size, fits in zip(sizes, fitting, strict=True))
    return Workload(num_sources, num_gpus, tuple(job for job in jobs if job.name in own), replaced)


def _config(sizes: list[int], num_gpus: int) -> FuseConfig:
    sources = [
        {
            "name": f"s{number}",
            "path": _MODELS[size],
            "engine": {"tensor_parallel_size": size, "max_num_seqs": 1024},
            "resources": {"num_gpus": size, "num_replicas": num_gpus // size},
        }
        for number, size in enumerate(sizes)
    ]
    training = {"learning_rate": 1e-6, "num_gpus_per_worker": 1, "num_workers": min(8, num_gpus)}
    values = {
        "run": {"name": "scaling"},
        "prompts": {"path": "none.jsonl"},
        "sources": sources,
        "target": {"name": "target", "path": _TARGET, "resources": {"num_gpus": 1}},
        "reward": {
            "type": "transformers",
            "path": "RLHFlow/ArmoRM-Llama3-8B-v0.1",
            "resources": {"num_gpus": 1, "num_replicas": num_gpus},
        },
        "sft": training,
        "wrpo": training,
        "planning": {"num_prompts": NUM_PROMPTS, "mean_prompt_tokens": 200, "cluster": {"H100": num_gpus}},
    }
    return FuseConfig.model_validate(values)
