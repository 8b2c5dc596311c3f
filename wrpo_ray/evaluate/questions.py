"""What a judge is asked about pairs of models, as the prompts of a sampling step, and what its responses decide.

<evaluation-questions step>/data/prompts-*.parquet    one prompt for each question, laid out as any prompts are
<evaluation-questions step>/comparisons.parquet       pair and prompt, and the questions in both orders that decide it
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from wrpo_ray.evaluate.answers import first_answers
from wrpo_ray.evaluate.pairwise import LOSS, TIE, WIN, Compared, Outcome
from wrpo_ray.judging import Verdict, question, verdict
from wrpo_ray.prompt_layout import write_prompts
from wrpo_ray.schema import Prompt, Response, prompt_id, to_table
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import require_manifest
from wrpo_ray.storage.tables import iter_rows, read_verified, write_table

_COMPARISONS = "comparisons.parquet"
_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("baseline", pa.string(), nullable=False),
        # Characters of the baseline's answer minus those of the model's.
        pa.field("length_difference", pa.float64(), nullable=False),
        # Prompts of this step: the model's answer shown first, and the baseline's. Null for equal answers.
        pa.field("model_first", pa.string()),
        pa.field("baseline_first", pa.string()),
    ]
)
_ROWS_AT_A_TIME = 4096


def write_questions(
    template: str, prompts: Location, drawn: Mapping[str, Location], pairs: Sequence[tuple[str, str]], folder: Location
) -> StepResult:
    """Write two questions, one in each order, for every pair of models and prompt that both have answered.

    Answers of the same text tie without a question; equal questions of several pairs are asked once.
    """
    answers = first_answers(drawn)
    questions: dict[str, Prompt] = {}
    rows: list[dict[str, Any]] = []
    for given in (row for rows_of_file in iter_rows(prompts, Prompt) for row in rows_of_file):
        for model, baseline in pairs:
            ours, theirs = answers[model].get(given.prompt_id), answers[baseline].get(given.prompt_id)
            if ours is not None and theirs is not None:
                asked = _both_orders(template, given, ours.text, theirs.text)
                questions |= {each.prompt_id: each for each in asked}
                ids = [each.prompt_id for each in asked] or [None, None]
                difference = float(len(theirs.text) - len(ours.text))
                values = (given.prompt_id, model, baseline, difference, *ids)
                rows.append(dict(zip(_SCHEMA.names, values, strict=True)))
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    files = (*write_prompts(folder, _tables(questions)), write_table(folder, _COMPARISONS, table))
    return StepResult(files, {"num_comparisons": len(rows), "num_questions": len(questions)})


def _both_orders(template: str, given: Prompt, ours: str, theirs: str) -> list[Prompt]:
    if ours == theirs:
        return []
    texts = [question(template, given.messages, *answers) for answers in ((ours, theirs), (theirs, ours))]
    return [Prompt(prompt_id(messages), messages, "preference", None) for messages in texts]


def _tables(questions: Mapping[str, Prompt]) -> Iterator[pa.Table]:
    in_order = (questions[name] for name in sorted(questions))
    while rows := list(itertools.islice(in_order, _ROWS_AT_A_TIME)):
        yield to_table(rows, Prompt)


def judged(questions: Location, verdicts: Location, pairs: Sequence[tuple[str, str]]) -> list[Compared]:
    """Return how the judge decided each pair; verdicts: the finished sampling step that answered the questions."""
    said = {row.prompt_id: _said(row) for rows in iter_rows(verdicts, Response) for row in rows}
    (entry,) = (entry for entry in require_manifest(questions).files if entry.path == _COMPARISONS)
    rows = read_verified(questions, entry, _SCHEMA).to_pylist()
    return [
        _pair(model, baseline, [row for row in rows if (row["model"], row["baseline"]) == (model, baseline)], said)
        for model, baseline in pairs
    ]


def _said(response: Response) -> Verdict | str:
    """Return the verdict of a response, or why it is none."""
    if response.finish_reason == "length":
        return _CUT
    return verdict(response.text) or _NO_VERDICT


_CUT, _NO_VERDICT, _NO_ANSWER = "cut at max_tokens", "without a verdict as their last line", "without a reply"
_BY_MODEL_FIRST = {"first": WIN, "second": LOSS, "tie": TIE}
_BY_BASELINE_FIRST = {"first": LOSS, "second": WIN, "tie": TIE}


def _pair(model: str, baseline: str, rows: Sequence[Mapping[str, Any]], said: Mapping[str, str]) -> Compared:
    outcomes: dict[str, Outcome] = {}
    undecided: dict[str, str] = {}
    decided: list[tuple[str, str]] = []
    for row in rows:
        name, difference = row["prompt_id"], row["length_difference"]
        if row["model_first"] is None:
            outcomes[name] = Outcome(TIE, difference)
            continue
        orders = [said.get(row[column], _NO_ANSWER) for column in ("model_first", "baseline_first")]
        if reasons := [each for each in orders if each not in _BY_MODEL_FIRST]:
            undecided[name] = reasons[0]
            continue
        decided.append((orders[0], orders[1]))
        ours, theirs = _BY_MODEL_FIRST[orders[0]], _BY_BASELINE_FIRST[orders[1]]
        # Who wins in one order alone has won by its place.
        outcomes[name] = Outcome(ours if ours == theirs else TIE, difference)
    return Compared(model, baseline, "judge", outcomes, undecided, position_bias(decided))


def position_bias(verdicts: Sequence[tuple[str, str]]) -> float | None:
    """Return the share of winners that stood first minus the share that stood second, over both orders of all prompts.

    0 where the place plays no part, 1 when the first answer always wins, -1 when the second one does; None when no
    answer won. verdicts: "first", "second" or "tie" for one order and for the other.
    """
    winners = [each for of_prompt in verdicts for each in of_prompt if each != "tie"]
    if not winners:
        return None
    num_first = winners.count("first")
    return (2 * num_first - len(winners)) / len(winners)
