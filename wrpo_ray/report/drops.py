"""What fell out on the way, and why: prompts without a quadruple, rows with a code, sources that were left out."""

from __future__ import annotations

import json
from collections.abc import Iterator

from wrpo_ray.redaction import redacted
from wrpo_ray.report.colours import REJECTED, SOURCE_CHOSEN
from wrpo_ray.report.folder import RunFacts, StepFacts
from wrpo_ray.report.parts import Chart, Section, Table, number, percent
from wrpo_ray.run_state import QUARANTINE

_OUTCOMES = {
    "num_quadruples": ("became a quadruple", "all of y_ws, y_wt and y_l are there"),
    "num_target_responses_tie": ("target responses tie", "the target's best and worst response have the same reward"),
    "num_without_source_response": ("no source response", "no source gave a response that can be used"),
    "num_fewer_than_two_target_responses": ("too few of the target", "fewer than two usable target responses"),
    "num_source_response_is_rejected": ("y_ws is y_l", "the best source response is word for word the rejected one"),
}
_MOST_EXAMPLES, _MOST_CHARACTERS = 3, 200
# The head of a file that may list very many rows.
_HEAD_BYTES = 65_536


def drops(facts: RunFacts) -> Section:
    """Return the section on what was left out."""
    chart = _outcomes(facts)
    missing = () if chart else (f"What became of the prompts: {facts.whyless('fuse')}.",)
    tables = [table for table in (_coded(facts), _broken(facts)) if table.rows]
    if not tables:
        missing = (*missing, "Rows set aside, and sources left out: none so far.")
    return Section(
        "drops", "Left out", "What was left out", _merged(facts), (chart,) if chart else (), tuple(tables), missing
    )


def _merged(facts: RunFacts) -> str:
    prompts = facts.summary("prompts")
    if not prompts.get("num_duplicates"):
        return ""
    return f"{number(prompts['num_duplicates'])} of the prompts' rows repeat another one and were merged."


def _outcomes(facts: RunFacts) -> Chart | None:
    fuse = facts.summary("fuse")
    if not fuse:
        return None
    counts = {name: fuse[name] for name in _OUTCOMES if fuse.get(name)}
    rows = [
        {
            "label": _OUTCOMES[name][0],
            "value": count,
            "colour": SOURCE_CHOSEN if name == "num_quadruples" else REJECTED,
        }
        for name, count in counts.items()
    ]
    total = fuse["num_prompts"]
    table = Table(
        ("outcome", "prompts", "share", "which means"),
        tuple(
            (_OUTCOMES[name][0], number(count), percent(count / max(1, total)), _OUTCOMES[name][1])
            for name, count in counts.items()
        ),
    )
    words = f"{number(fuse['num_quadruples'])} of the {number(total)} prompts for preferences became quadruples"
    words += "; the other bars say why the others did not." if len(counts) > 1 else "."
    return Chart("outcomes", "What became of the prompts", words, "bars", {"rows": rows, "x": "prompts"}, table)


def _coded(facts: RunFacts) -> Table:
    rows = tuple(row for name, step in facts.steps.items() for row in _codes_of(name, step))
    words = "Rows that a step could not use or was told to leave out; the quarantine folder of the step lists each."
    return Table(("step", "code", "rows", "first of them"), rows, "Rows with a code", words)


def _codes_of(name: str, step: StepFacts) -> Iterator[tuple[str, ...]]:
    """Yield the codes of a step: as it reported them, else as its files have them so far."""
    reported = step.summary.get("quarantined") or step.summary.get("rows") or {}
    for code, count in {**step.state.quarantined, **reported}.items():
        yield name, code, number(count), "; ".join(_examples(step, code))


def _examples(step: StepFacts, code: str) -> list[str]:
    """Return the first rows of a quarantine file, as their records tell; none while the step is under way."""
    place = step.folder / f"{QUARANTINE}{code}.jsonl"
    if step.manifest is None or code not in step.state.quarantine_files:
        return []
    path = place.local_path
    if path is not None:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    else:
        head = place.read_bytes()[:_HEAD_BYTES]
    return [_example(line) for line in head.splitlines()[:_MOST_EXAMPLES]]


def _example(line: bytes) -> str:
    try:
        row = json.loads(line)
        text = str(row["item"]) + (f": {row['error']}" if row.get("error") else "")
    except (ValueError, KeyError, TypeError):
        text = line.decode("utf-8", "replace")
    text = redacted(text)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _broken(facts: RunFacts) -> Table:
    rows = tuple((record.source, record.code, record.error) for record in facts.state.broken_sources)
    return Table(("source", "code", "why"), rows, "Sources that the run goes on without")
