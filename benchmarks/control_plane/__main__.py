"""A million responses through the real run with engines that take no time: `make bench-control-plane`, or
    python -m benchmarks.control_plane [--quick]

All but the models is real: prompts, Ray Data, engines in processes of their own, ledger, scoring, selection, fusion.
What is measured is what the run costs besides the models (responses per second on this machine), and whether the
memory of the driver grows with the rows. Texts have 400 characters and 100 token ids.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.control_plane.engines import SimulatedZeroLatencyGenerator, SimulatedZeroLatencyScorer, no_training
from benchmarks.control_plane.watch import Watch, memory_mib
from wrpo_ray.config import FuseConfig
from wrpo_ray.console import start_logging
from wrpo_ray.events import listening
from wrpo_ray.pipeline import Engines, Pipeline
from wrpo_ray.run import driving, run

RESULTS = Path(__file__).parents[1] / "results" / "control_plane.json"
NUM_SAMPLES = 5
GOAL_PER_S = 3000
_MARKS = (0.25, 0.5, 0.75, 1.0)


class UpToQuadruples(Pipeline):
    """The steps of a run until the quadruples are there."""

    def _build(self) -> None:
        super()._build()
        names = [step.name for step in self.steps]
        self.steps = self.steps[: names.index("fuse") + 1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control_plane", description="The run without models.")
    parser.add_argument("--sources", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--shard", type=int, default=256, help="prompts per shard")
    parser.add_argument("--replicas", type=int, default=1, help="engines per source")
    parser.add_argument("--quick", action="store_true", help="4 sources and 2,500 prompts: 50,000 responses")
    parser.add_argument("--keep", type=Path, help="folder for the run, kept afterwards")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.quick:
        options.sources, options.prompts = 4, 2_500
    root = options.keep or Path(tempfile.mkdtemp(prefix="wrpo-control-plane-"))
    try:
        record = measured(root, options)
    finally:
        if options.keep is None:
            shutil.rmtree(root, ignore_errors=True)
    print(shown(record))
    if not options.quick:
        options.out.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        print(f"written to {options.out}", file=sys.stderr)


def measured(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run everything below `root` and return what was seen."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    start_logging()
    config = written_config(root, options)
    watch = Watch(NUM_SAMPLES)
    engines = Engines(SimulatedZeroLatencyGenerator, SimulatedZeroLatencyScorer, no_training)
    before = memory_mib()
    watch.start()
    started = time.monotonic()
    with listening(watch.hear), driving(config) as lease:
        manifests = run(UpToQuadruples(config, engines), lease)
    seconds = time.monotonic() - started
    watch.stop()
    num_responses = sum(
        manifest.summary["num_responses"] for name, manifest in manifests.items() if name.startswith("sample-")
    )
    files = list(root.rglob("*.parquet"))
    return {
        "engines": "SimulatedZeroLatencyGenerator, SimulatedZeroLatencyScorer",
        "num_cpus": os.cpu_count(), "num_sources": options.sources, "num_prompts": options.prompts,
        "num_samples": NUM_SAMPLES, "prompts_per_shard": options.shard, "num_responses": num_responses,
        "num_quadruples": manifests["fuse"].summary["num_quadruples"],
        "num_sft_examples": manifests["select_sft"].summary["num_examples"],
        "seconds": round(seconds, 2), "responses_per_s": round(num_responses / seconds, 1),
        "stages": watch.stages(), "num_parquet_files": len(files),
        "parquet_mib": round(sum(path.stat().st_size for path in files) / 2**20, 1),
        "memory_before_mib": {name: round(value, 1) for name, value in before.items()},
        "memory_at": marks(watch, num_responses), "memory": rounded(watch.memory),
        "steps": {name: [round(value, 2) for value in span] for name, span in watch.spans.items()},
    }  # fmt: skip


def written_config(root: Path, options: argparse.Namespace) -> FuseConfig:
    """Write prompts and folders that pass for models, and return the config."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "prompts.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(options.prompts):
            stream.write(json.dumps({"prompt": f"Question {number}: {'why is it so, and not otherwise? ' * 6}"}) + "\n")
    names = [f"source{number:02d}" for number in range(options.sources)]
    for name in (*names, "target"):
        (root / name).mkdir(exist_ok=True)
        (root / name / "config.json").write_text(json.dumps({"model_type": "simulated", "name": name}))
    resources = {"num_cpus": 1, "num_replicas": options.replicas, "prompts_per_shard": options.shard}
    training = {"learning_rate": 1e-5, "max_length": 2048, "max_prompt_length": 1024}
    return FuseConfig.model_validate(
        {
            "run": {"name": "control_plane", "root": str(root / "runs")},
            "prompts": {"path": str(root / "prompts.jsonl")},
            "sources": [model(root, name, resources) for name in names],
            "target": model(root, "target", resources),
            "reward": {"type": "transformers", "path": str(root / "target"), "resources": resources},
            "sft": training,
            "wrpo": training,
            "ray": {"num_cpus": 4},
        }
    )


def model(root: Path, name: str, resources: dict[str, Any]) -> dict[str, Any]:
    sampling = {"num_samples": NUM_SAMPLES, "max_tokens": 128}
    return {"name": name, "path": str(root / name), "sampling": sampling, "resources": resources}


def marks(watch: Watch, num_responses: int) -> list[dict[str, float]]:
    """Return the memory of the driver when so much of the work was committed."""
    found = []
    for mark in _MARKS:
        at = next((each for each in watch.memory if each["num_responses"] >= mark * num_responses), watch.memory[-1])
        found.append({name: round(value, 1) for name, value in at.items()})
    return found


def rounded(memory: list[dict[str, float]]) -> list[list[float]]:
    return [[round(each[name], 1) for name in ("seconds", "num_responses", "anonymous", "resident")] for each in memory]


def shown(record: dict[str, Any]) -> str:
    """Return the table."""
    lines = [
        f"{record['num_responses']:,} responses of {record['num_sources']} sources and the target,"
        f" {record['seconds']:.0f} s, {record['num_cpus']} cores, no model:"
        f" {record['responses_per_s']:,.0f} responses/s end to end (goal {GOAL_PER_S:,})",
        f"{record['num_parquet_files']} Parquet files, {record['parquet_mib']:,.0f} MiB;"
        f" {record['num_quadruples']:,} quadruples, {record['num_sft_examples']:,} SFT examples",
        "",
        f"{'stage':<12}{'steps':>6}{'seconds':>10}{'rows':>12}{'rows/s':>10}",
    ]
    for stage in record["stages"]:
        rate = stage["rows"] / stage["seconds"] if stage["seconds"] else 0.0
        told = f"{stage['rows']:>12,}{rate:>10,.0f}" if stage["rows"] else ""
        lines.append(f"{stage['stage']:<12}{stage['num_steps']:>6}{stage['seconds']:>10.1f}{told}")
    lines += ["", f"{'responses':>12}{'driver MiB':>12}{'with shared':>13}"]
    for each in record["memory_at"]:
        lines.append(f"{each['num_responses']:>12,.0f}{each['anonymous']:>12.0f}{each['resident']:>13.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
