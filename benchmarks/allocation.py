"""What adaptive allocation keeps and spends, on reward tables of known make: `make bench-allocation`, or
    python -m benchmarks.allocation [--prompts 10000]

Each policy is shown nothing but what it asks for. `tokens`: share of the full grid's, pilot and audit included. `gain`:
(mean best reward - mean of one random response) over the same of the full grid. `regret`: mean loss of the best reward;
in made tables 1 is the standard deviation of what sources make of one prompt. `loads`: of one source's model, at most.
Tables with a * are recorded from real (tiny) models: benchmarks.allocation_recorded; the others are made:
benchmarks.allocation_tables. Goal: 99 % of the gain for at most half of the tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.allocation_recorded import RECORDED, load
from benchmarks.allocation_tables import REGIMES, make
from wrpo_ray.allocation.replay import replay
from wrpo_ray.allocation.report import findings, target_kept
from wrpo_ray.allocation.table import RewardTable
from wrpo_ray.config_allocation import AllocationConfig

RESULTS = Path(__file__).parent / "results" / "allocation.json"
TABLE_SEED, POLICY_SEED = 1, 7
GAIN_GOAL, TOKEN_GOAL = 0.99, 0.5
_COLUMNS = (
    ("regime", 27), ("policy", 13), ("costs", 10), ("tokens", 7), ("cost", 7), ("gain", 7), ("audit: gain", 16),
    ("same y_ws", 9), ("source", 7), ("regret", 7), ("loads", 5), ("goal", 4),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allocation", description="Adaptive allocation.")
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    records = []
    print(" ".join(name.ljust(width) for name, width in _COLUMNS))
    for record in measured(options.prompts):
        records.append(record)
        print(shown(record), flush=True)
    told = {"num_prompts": options.prompts, "table_seed": TABLE_SEED, "policy_seed": POLICY_SEED}
    regimes = [dataclasses.asdict(regime) for regime in REGIMES]
    options.out.write_text(json.dumps({**told, "records": records, "regimes": regimes}, indent=1) + "\n", "utf-8")
    print(f"written to {options.out}", file=sys.stderr)


def measured(num_prompts: int) -> Iterator[dict[str, Any]]:
    """Yield one record per table, policy and kind of cost."""
    for name, first_source in (("letters, 12 models", 0), ("letters, the 10 weaker", 2)):
        yield from of_table(f"* {name}", load(RECORDED, first_source), ())
    for regime in REGIMES:
        yield from of_table(regime.name, make(regime, num_prompts, TABLE_SEED), regime.costs)


def of_table(name: str, table: RewardTable, costs: tuple[float, ...]) -> Iterator[dict[str, Any]]:
    """Yield the records of one table; where the waves need more than half, one more with half as a bound."""
    kinds = {"tokens": np.ones(len(table.sources))} | ({"parameters": np.array(costs)} if len(set(costs)) > 1 else {})
    for kind, unit_costs in kinds.items():
        policies = [AllocationConfig(policy="halving"), AllocationConfig(policy="waves")]
        for config in policies:
            record = one(name, table, config, kind, unit_costs)
            yield record
            if config.policy == "waves" and record["cost_share"] > TOKEN_GOAL and config.max_cost_share == 1.0:
                policies.append(config.model_copy(update={"max_cost_share": TOKEN_GOAL}))


def one(name: str, table: RewardTable, config: AllocationConfig, kind: str, unit_costs: np.ndarray) -> dict[str, Any]:
    """Return the record of one replay."""
    started = time.monotonic()
    result = replay(config, table, unit_costs, POLICY_SEED)
    whole, audited = result.whole, result.audit
    return {
        "regime": name, "num_sources": len(table.sources), "num_prompts": len(table.prompt_ids), "costs": kind,
        "policy": config.policy if config.max_cost_share == 1.0 else f"{config.policy} <= {config.max_cost_share:g}",
        "token_share": whole.token_share, "cost_share": whole.cost_share, "gain_share": whole.gain_share.value,
        "same_response": whole.same_response.value, "same_source": whole.same_source.value,
        "same_reward": whole.same_reward.value, "regret": whole.regret.value, "loads": max(result.loads),
        "goal": whole.gain_share.value >= GAIN_GOAL and whole.token_share <= TOKEN_GOAL,
        "audit": dataclasses.asdict(audited), "audit_target_kept": target_kept(audited, config.target),
        "decision": dict(result.decision.summary), "findings": findings(result.decision, audited, config.target),
        "seconds": round(time.monotonic() - started, 2),
    }  # fmt: skip


def shown(record: dict[str, Any]) -> str:
    """Return a record as a line of the table."""
    audit = record["audit"]["gain_share"]
    cells = (
        record["regime"], record["policy"], record["costs"], f"{record['token_share']:.1%}",
        f"{record['cost_share']:.1%}", f"{record['gain_share']:.1%}", f"{audit['low']:.1%} - {audit['high']:.1%}",
        f"{record['same_response']:.1%}", f"{record['same_source']:.1%}", f"{record['regret']:.4f}",
        str(record["loads"]), "yes" if record["goal"] else "no",
    )  # fmt: skip
    return " ".join(cell.ljust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True))


if __name__ == "__main__":
    main()
