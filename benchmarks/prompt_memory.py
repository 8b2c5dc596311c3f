"""Memory of the driver against the number of prompts: `make bench-prompt-memory`, or
    python -m benchmarks.prompt_memory [--quick]

Reads and checks a file of prompts, writes the step `prompts`, and plans a sampling step, each in a process of its own.
`streamed` is the run's own way. `all in memory` is how it was done before: one list of all prompts, one file, and
shards that hold the prompt_ids. A prompt has 800 characters on average; every tenth row repeats one. Peaks are what
the process holds at most in a stage (VmHWM) over what it held before the first one.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RESULTS = Path(__file__).parent / "results" / "prompt_memory.json"
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (2_000, 20_000)
PROMPTS_PER_SHARD = 256
STAGES = ("read", "write", "plan")
_MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prompt_memory", description="Memory of the driver.")
    parser.add_argument("--quick", action="store_true", help="2,000 and 20,000 prompts")
    parser.add_argument("--prompts", type=int, nargs="+", help="numbers of prompts")
    parser.add_argument("--only", choices=list(VARIANTS), help="leave the other way out")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=3, metavar=("VARIANT", "FILE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        variant, path, folder = options.child
        print(json.dumps(VARIANTS[variant](Path(path), Path(folder))))
        return
    sizes = options.prompts or (QUICK_SIZES if options.quick else SIZES)
    print(f"{'prompts':>10} {'way':<14} " + " ".join(f"{stage + ' s':>8} {stage + ' MiB':>10}" for stage in STAGES))
    records = []
    for size in sizes:
        for record in compared(size, [options.only] if options.only else list(VARIANTS)):
            records.append(record)
            stages = " ".join(f"{record[stage]['s']:8.1f} {record[stage]['peak_mib']:10.0f}" for stage in STAGES)
            print(f"{size:10,} {record['way']:<14} {stages}", flush=True)
    if not options.quick:
        options.out.write_text(json.dumps({"records": records}, indent=1) + "\n", "utf-8")
        print(f"written to {options.out}", file=sys.stderr)


def compared(num_prompts: int, variants: list[str]) -> Iterator[dict[str, Any]]:
    """Yield one record per way, each measured in a new process on the same file."""
    with tempfile.TemporaryDirectory(prefix="wrpo-prompt-memory-") as folder:
        path = Path(folder) / "prompts.jsonl"
        write_prompts_file(path, num_prompts)
        for variant in variants:
            arguments = ["--child", variant, str(path), str(Path(folder) / variant)]
            command = [sys.executable, "-m", "benchmarks.prompt_memory", *arguments]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            yield {"num_prompts": num_prompts, "way": variant.replace("_", " "), **json.loads(done.stdout)}


def write_prompts_file(path: Path, num_prompts: int) -> None:
    """Write prompts as JSON lines, every tenth of them one that was there before."""
    draw = random.Random(7)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(5_000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_prompts):
            draw.seed(number - 1 if number % 10 == 9 else number)
            text = f"{draw.random()} {' '.join(draw.choices(words, k=draw.randint(25, 225)))}"
            file.write(json.dumps({"prompt": text}) + "\n")


def streamed(path: Path, folder: Path) -> dict[str, Any]:
    """Return seconds and peaks of what a run does."""
    from wrpo_ray.config import PromptsConfig
    from wrpo_ray.data.prompt_ranges import lists_of_splits, range_shards
    from wrpo_ray.prompts import load_prompts
    from wrpo_ray.steps import Step, execute
    from wrpo_ray.storage.location import locate
    from wrpo_ray.storage.manifest import RunLayout

    meter = _Meter()
    with meter.stage("read"):
        loaded = load_prompts(PromptsConfig(path=str(path)))
    step = Step("prompts", {"content": loaded.prompts.content}, (), loaded.write)
    layout = RunLayout(locate(folder))
    with meter.stage("write"):
        execute(step, layout, {})
    with meter.stage("plan"):
        lists = lists_of_splits(step.folder(layout), ("sft", "preference"), 5)
        shards, describe = range_shards(locate(folder / "sample"), lists, PROMPTS_PER_SHARD)
        described = [json.dumps(describe(shard)) for shard in shards]
    return meter.told | {"num_shards": len(described), "num_distinct": len(loaded.prompts)}


def all_in_memory(path: Path, folder: Path) -> dict[str, Any]:
    """Return seconds and peaks of the same work on lists of rows."""
    from wrpo_ray.prompts import split_of
    from wrpo_ray.schema import Prompt, prompt_id
    from wrpo_ray.steps import digest
    from wrpo_ray.storage import ledger
    from wrpo_ray.storage.location import locate
    from wrpo_ray.storage.tables import write_rows

    meter = _Meter()
    with meter.stage("read"):
        distinct: dict[str, Prompt] = {}
        for line in path.read_bytes().split(b"\n"):
            if line:
                messages = [{"role": "user", "content": json.loads(line)["prompt"]}]
                identity = prompt_id(messages)
                distinct.setdefault(identity, Prompt(identity, messages, split_of(identity, 1 / 3), None))
        prompts = [prompt for _, prompt in sorted(distinct.items())]
        content = digest([[prompt.prompt_id, prompt.split, prompt.answer] for prompt in prompts])
    with meter.stage("write"):
        write_rows(locate(folder), f"{content}/data/prompts.parquet", prompts, Prompt)
    with meter.stage("plan"):
        pq_rows: list[dict[str, Any]] = pq.read_table(folder / content / "data/prompts.parquet").to_pylist()
        ids = [Prompt(**row).prompt_id for row in pq_rows]
        shards = ledger.planned(locate(folder / "sample"), ids, PROMPTS_PER_SHARD)
        described = [json.dumps({"number": shard.number, "prompt_ids": shard.items}) for shard in shards]
    return meter.told | {"num_shards": len(described), "num_distinct": len(prompts)}


VARIANTS: dict[str, Callable[[Path, Path], dict[str, Any]]] = {"streamed": streamed, "all_in_memory": all_in_memory}


class _Meter:
    """Seconds and peak memory of stages that follow each other."""

    def __init__(self) -> None:
        pa.default_memory_pool().release_unused()
        self.before = _status("VmRSS")
        self.told: dict[str, Any] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        # "5" sets VmHWM back to what is held now: https://www.kernel.org/doc/html/latest/filesystems/proc.html
        Path("/proc/self/clear_refs").write_text("5")
        started = time.monotonic()
        yield
        peak = (_status("VmHWM") - self.before) / _MIB
        self.told[name] = {"s": round(time.monotonic() - started, 2), "peak_mib": round(peak, 1)}


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


if __name__ == "__main__":
    main()
