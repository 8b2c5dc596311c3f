"""How many prompts and how long: told by the config, or estimated from the prompts' bytes, without a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrpo_ray.config import FuseConfig, PromptsConfig
from wrpo_ray.errors import DataError, Problem
from wrpo_ray.planning.lm_eval import told

# About four bytes of UTF-8 to a token: English on the vocabularies of the 2024 models; rarer scripts take more bytes
# and more tokens alike.
BYTES_PER_TOKEN = 4.0
TEMPLATE_TOKENS = 10.0
_MAX_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Lengths:
    """Numbers of prompts, mean lengths in tokens, and one sentence on where each number comes from."""

    prompts: int
    evaluation_prompts: int
    prompt_tokens: float
    response_tokens: float
    origins: tuple[str, ...]


@dataclass(frozen=True)
class _Measured:
    rows: int
    mean_bytes: float


def find_lengths(config: FuseConfig) -> Lengths:
    """Return the lengths that the plan assumes; raises DataError when prompts have to be read and cannot be."""
    planning = config.planning
    missing = [name for name in ("num_prompts", "mean_prompt_tokens") if getattr(planning, name) is None]
    measured = _measure("prompts", config.prompts, missing) if missing else _Measured(0, 0.0)
    tokens = planning.mean_prompt_tokens or measured.mean_bytes / BYTES_PER_TOKEN + TEMPLATE_TOKENS
    prompts = planning.num_prompts or measured.rows
    response_tokens = planning.mean_response_tokens
    return Lengths(
        prompts=prompts,
        evaluation_prompts=_evaluation_prompts(config),
        prompt_tokens=tokens,
        response_tokens=response_tokens,
        origins=(
            f"{prompts:,} prompts ({'planning.num_prompts' if planning.num_prompts else _counted(config.prompts)})",
            f"{tokens:.0f} tokens per prompt ({_origin_of_tokens(config, measured)})",
            f"{response_tokens:g} tokens per response, max_tokens at most (planning.mean_response_tokens)",
            *_grid(config),
            *told(config.evaluation.lm_eval if config.evaluation else None, planning),
        ),
    )


def _grid(config: FuseConfig) -> list[str]:
    allocation = config.sampling.allocation
    if allocation is None:
        return []
    return [
        f"all samples of all sources; sampling.allocation draws at most {allocation.max_cost_share:.0%} of that cost"
    ]


def _counted(section: PromptsConfig) -> str:
    return f"rows of {section.path}; duplicates are not looked for"


def _origin_of_tokens(config: FuseConfig, measured: _Measured) -> str:
    if config.planning.mean_prompt_tokens:
        return "planning.mean_prompt_tokens"
    return f"{measured.mean_bytes:.0f} bytes of UTF-8 on average / {BYTES_PER_TOKEN:g} + {TEMPLATE_TOKENS:g}, estimated"


def _evaluation_prompts(config: FuseConfig) -> int:
    if config.evaluation is None:
        return 0
    number = config.planning.num_evaluation_prompts
    return number or _measure("evaluation.prompts", config.evaluation.prompts, ["num_evaluation_prompts"]).rows


def _measure(place: str, section: PromptsConfig, instead: list[str]) -> _Measured:
    """Return rows and mean bytes of the texts; `instead` are the fields of planning that would make this needless."""
    # Reading Parquet takes pyarrow, which a plan with its numbers in the config does without.
    from wrpo_ray.prompt_files import read_rows

    fix = f"correct the path, or set {' and '.join(f'planning.{name}' for name in instead)}"
    if (size := _size(Path(section.path).expanduser())) > _MAX_BYTES:
        rule = f"{size / 2**30:.1f} GiB of prompts are too much to be measured for a plan"
        raise DataError.of(
            "cannot plan", [Problem(f"{place}.path", section.path, rule, fix.split(", or ")[1], "WRPO-C062")]
        )
    rows = total = 0
    for row in read_rows(section.path, [section.column]):
        if isinstance(row, Problem):
            problem = Problem(row.place, row.value, row.rule, fix, row.code)
            raise DataError.of("cannot measure the prompts", [problem])
        rows += 1
        total += _bytes(row.values.get(section.column))
    if not rows:
        problem = Problem(f"{place}.path", section.path, "there must be at least one prompt", fix, "WRPO-D009")
        raise DataError.of("cannot measure the prompts", [problem])
    return _Measured(rows, total / rows)


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0


def _bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, list):
        return sum(_bytes(message.get("content")) for message in value if isinstance(message, dict))
    return 0
