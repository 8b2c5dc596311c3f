"""Records as Markdown tables that are also readable as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Record = dict[str, Any]
Column = tuple[str, Callable[[Record], str]]
_NONE = "-"


def number(name: str, digits: int = 2, scale: float = 1.0) -> Callable[[Record], str]:
    """Return what formats a field; a dash where it is missing."""

    def cell(record: Record) -> str:
        value = record.get(name)
        return _NONE if value is None else f"{value * scale:,.{digits}f}"

    return cell


def text(name: str) -> Callable[[Record], str]:
    """Return what shows a field as it is."""
    return lambda record: str(record.get(name, _NONE))


COSTS: list[Column] = [
    ("variant", text("variant")),
    ("responses", number("responses", 0)),
    ("GEMM GFLOP", number("gemm_flops", 1, 1e-9)),
    ("/ limit", number("flops_over_limit")),
    ("CPU s", number("cpu_s")),
    ("CPU s / response", number("cpu_s_per_response", 3)),
    ("wall s", number("wall_s")),
    ("step MiB", number("step_mib", 0)),
    ("training MiB", number("training_mib", 0)),
    ("quadruples/s", number("quadruples_per_s")),
    ("unique tokens/s", number("unique_tokens_per_s", 0)),
]
GPU_COSTS: list[Column] = [
    ("variant", text("variant")),
    ("tokens", number("unique_tokens", 0)),
    ("forward+backward ms", number("backward_wall_s", 1, 1e3)),
    ("step ms", number("wall_s", 1, 1e3)),
    ("unique tokens/s", number("unique_tokens_per_s", 0)),
    ("MFU %", number("mfu", 1, 100)),
    ("MFU % without optimizer", number("mfu_backward", 1, 100)),
    ("GEMM % of the step", number("gemm_share", 0, 100)),
    ("step GiB", number("step_mib", 1, 1 / 1024)),
    ("training GiB", number("training_mib", 1, 1 / 1024)),
]


def table(records: Sequence[Record], columns: Sequence[Column]) -> str:
    """Return a Markdown table with aligned columns: the first to the left, all others to the right."""
    rows = [[title for title, _ in columns], *([cell(record) for _, cell in columns] for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]
        return "| " + " | ".join(aligned) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(rows[0]), "| " + " | ".join(rule) + " |", *map(line, rows[1:])])


def sections(records: Sequence[Record], names: Sequence[str], columns: Sequence[Column]) -> str:
    """Return one table for each different value of the fields `names`, each under its heading."""
    parts: dict[str, list[Record]] = {}
    for record in records:
        heading = ", ".join(f"{name} {record[name]}" for name in names)
        parts.setdefault(heading, []).append(record)
    return "\n\n".join(f"### {heading}\n\n{table(part, columns)}" for heading, part in parts.items())


def shares(record: Record) -> str:
    """Return what one variant's time goes to, by torch's profiler: operators by their own time."""
    rows = [{"operator": name, "share": share} for name, share in record["profile"]["top"]]
    heading = f"### {record['variant']}, {record['workload']}, {record['model']}: time of a step"
    return f"{heading}\n\n{table(rows, [('operator', text('operator')), ('%', number('share', 1, 100))])}"


def growth(records: Sequence[Record], over: str, field: str, digits: int, scale: float = 1.0) -> str:
    """Return a table of one field: a line for each variant, a column for each value of the field `over`."""
    values = list(dict.fromkeys(record[over] for record in records))
    by_variant: dict[str, Record] = {}
    for record in records:
        by_variant.setdefault(record["variant"], {"variant": record["variant"]})[str(record[over])] = record[field]
    columns = [(over, text("variant")), *((str(value), number(str(value), digits, scale)) for value in values)]
    return table(list(by_variant.values()), columns)
