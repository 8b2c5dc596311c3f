"""Rows come some at a time and are what the functions that held all of them made; memory stays flat."""

from __future__ import annotations

import dataclasses
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import tiny
from tests.train import runs
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.errors import DataError
from wrpo_ray.schema import Quadruple, ReferenceLogps, ResponseWithLogps, SFTExample
from wrpo_ray.storage.ledger import items_digest
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.tables import write_rows
from wrpo_ray.train import preparation, token_file
from wrpo_ray.train.keyed_files import KeyedFiles
from wrpo_ray.train.one_task import in_one_task
from wrpo_ray.train.preparation import Preparation, Prepared, prepare_tokens
from wrpo_ray.train.sampler_reference import (
    SAMPLED_RESPONSES,
    Sampled,
    drawn_of,
    special_ids,
    why_own_pass,
    with_sampled_ids,
    with_sampled_logps,
)
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, RESPONSES_OF, TokenRow, TokenTable, tokenise

CHAT = ChatTokenizer(tiny.chatml_tokenizer())
NUM_ROWS = 60


def sorted_rows(num_rows: int) -> list[Quadruple]:
    return sorted(runs.quadruples(num_rows), key=lambda row: row.prompt_id)


ROWS = sorted_rows(NUM_ROWS)


def sft_rows(rows: list[Quadruple]) -> list[SFTExample]:
    return [SFTExample(row.prompt_id, row.messages, row.source_chosen, "a", 1.0, "length") for row in rows]


def drawn_rows(rows: list[Quadruple]) -> list[ResponseWithLogps]:
    """Return draws of most of y_wt and y_l, among others that nobody took; some cannot be used."""
    chance, found = random.Random(5), []
    for row in rows:
        for index, name in enumerate((*SAMPLED_RESPONSES, "source_chosen")):
            text = getattr(row, name)
            ids = CHAT.encode_response(text)
            if chance.random() < 0.4:
                ids = [one for letter in text for one in CHAT.encode_response(letter, finished=False)] + ids[-1:]
            if chance.random() < 0.2:
                ids = ids[:-1]
            if chance.random() < 0.9:
                logps = -chance.random() * len(ids)
                found.append(ResponseWithLogps(row.prompt_id, "t", index, text, ids, "stop", len(ids), logps))
    return found


def write_files(folder: Path, rows: list[Any], cuts: list[int], knows_ranges: bool = True) -> Location:
    place, row_type = locate(folder), type(rows[0])
    ends = [*cuts, len(rows)]
    entries = [
        write_rows(place, f"data/train-{number:05d}.parquet", rows[start:end], row_type)
        for number, (start, end) in enumerate(zip([0, *cuts], ends, strict=True))
    ]
    if not knows_ranges:
        entries = [dataclasses.replace(entry, key_range=None) for entry in entries]
    return runs.finish_step(place, *entries)


def usable(drawn: list[ResponseWithLogps], rows: list[TokenRow], max_length: int) -> Sampled:
    """Return what training takes as it was drawn, over all rows at once."""
    found = drawn_of(drawn, ROWS)
    keys = [(row, (row["prompt_id"], name)) for row in rows for name in SAMPLED_RESPONSES]
    special = special_ids(CHAT)
    return {
        key: found[key]
        for row, key in keys
        if why_own_pass(found.get(key), len(row["prompt"]), CHAT.end_token_id, special, max_length) is None
    }


def logps_of(rows: list[TokenRow]) -> list[ReferenceLogps]:
    lengths = ([len(row[name]) for name in QUADRUPLE_RESPONSES] for row in rows)
    return [
        ReferenceLogps(row["prompt_id"], -0.5 * number, -1.0, -2.5, *of_row)
        for number, (row, of_row) in enumerate(zip(rows, lengths, strict=True))
    ]


@dataclasses.dataclass
class Case:
    """One way to prepare rows: what it is given, and the rows that must come of it."""

    kind: Any
    rows: list[Any]
    expected: list[TokenRow]
    drawn: list[ResponseWithLogps] | None = None
    reference: list[ReferenceLogps] | None = None


def make_case(name: str, train: Any) -> Case:
    """Put all rows together at once, as `tokenise` and functions over whole lists do."""
    if name == "sft":
        examples = sft_rows(ROWS)
        return Case("sft", examples, tokenise(examples, RESPONSES_OF["sft"], CHAT, train)[0])
    rows, _ = tokenise(ROWS, QUADRUPLE_RESPONSES, CHAT, train)
    if name == "reference":
        return Case("reference", ROWS, rows)
    drawn = drawn_rows(ROWS)
    sampled = usable(drawn, rows, train.max_length)
    assert 0 < len(sampled) < 2 * len(rows)
    rows = with_sampled_ids(rows, sampled)
    if name == "reference of sampler":
        return Case("reference", ROWS, with_sampled_logps(rows, sampled), drawn)
    reference = logps_of(rows)
    columns = [f"{response}_logps" for response in QUADRUPLE_RESPONSES]
    joined = [
        {**row, **{column: getattr(found, column) for column in columns}}
        for row, found in zip(rows, reference, strict=True)
    ]
    return Case("wrpo", ROWS, joined, drawn, reference)


@pytest.fixture
def train(model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Limits that leave out some prompts and cut some responses; few rows at a time, and small groups."""
    monkeypatch.setattr(preparation, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(token_file, "ROWS_PER_GROUP", 16)
    lengths = sorted(len(CHAT.encode_prompt(row.messages)) for row in ROWS)
    limit = lengths[NUM_ROWS * 4 // 5]
    return runs.make_config(model, wrpo={"max_prompt_length": limit, "max_length": limit + 4}).wrpo


def given(model: Path, train: Any, case: Case, folder: Path, cuts: list[int], knows_ranges: bool = True) -> Preparation:
    files = runs.make_config(model).target
    step = {
        name: write_files(folder / name, rows, [min(cut * factor, len(rows)) for cut in cuts], knows_ranges)
        for name, rows, factor in (("rows", case.rows, 1), ("drawn", case.drawn, 2), ("reference", case.reference, 1))
        if rows is not None
    }
    place = locate(folder / "out")
    return Preparation(case.kind, train, files, step["rows"], place, step.get("drawn"), step.get("reference"))


@pytest.mark.parametrize("name", ["sft", "reference", "reference of sampler", "wrpo"])
def test_rows_are_those_of_whole_lists_and_bytes_the_same_however_they_are_cut(model, train, tmp_path, name):
    case = make_case(name, train)
    chance = random.Random(name)
    cuts = [[], *(sorted(chance.sample(range(1, NUM_ROWS), size)) for size in (1, 4, 15, NUM_ROWS - 1))]
    hashes = set()
    for number, cut in enumerate(cuts):
        made = prepare_tokens(given(model, train, case, tmp_path / str(number), cut, knows_ranges=number != 2))
        entry = made.told(train)
        hashes.add(entry.sha256)
    table = TokenTable(locate(tmp_path / "0/out"), entry, RESPONSES_OF[case.kind])
    assert table.rows(range(entry.num_rows or 0)) == case.expected
    assert len(hashes) == 1
    assert made.tally.counts().num_rows == len(case.expected) < NUM_ROWS
    assert made.tally.counts().num_responses_cut > 0
    assert made.ids_digest == table.ids_digest() == items_digest([row["prompt_id"] for row in case.expected])
    groups = pq.read_metadata(tmp_path / "0/out/tokens.parquet")
    sizes = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
    assert sizes == [16] * (len(case.expected) // 16) + [len(case.expected) % 16]
    assert {place.name for place in (tmp_path / "0/out").iterdir()} == {"tokens.parquet"}


def test_rows_in_no_order_are_joined_all_the_same(model, train, tmp_path):
    case = make_case("wrpo", train)
    chance = random.Random(1)
    for rows in (case.drawn, case.reference):
        chance.shuffle(rows or [])
    order = chance.sample(range(NUM_ROWS), NUM_ROWS)
    expected = {row["prompt_id"]: row for row in case.expected}
    case.rows = [ROWS[number] for number in order]
    made = prepare_tokens(given(model, train, case, tmp_path, [20, 40]))
    table = TokenTable(locate(tmp_path / "out"), made.told(train), QUADRUPLE_RESPONSES)
    ids = [row.prompt_id for row in case.rows if row.prompt_id in expected]
    assert table.rows(range(len(ids))) == [expected[prompt_id] for prompt_id in ids]


def test_rows_without_reference_or_with_other_token_counts_are_named_after_all_were_seen(model, train, tmp_path):
    case = make_case("wrpo", train)
    reference = case.reference or []
    other = [dataclasses.replace(row, rejected_num_tokens=99) if number in (0, 3) else row
             for number, row in enumerate(reference)]  # fmt: skip
    ids = [row.prompt_id for row in reference]
    case.reference = other
    two = rf"^2 rows were tokenised differently for the reference: {ids[0]}, {ids[3]}$"
    with pytest.raises(DataError, match=two):
        prepare_tokens(given(model, train, case, tmp_path / "other", [30]))
    # Those that are missing are named alone, as long as there are any.
    case.reference = other[:-12]
    twelve = rf"^12 rows have no reference log-probs: {', '.join(ids[-12:-2])} and 2 more$"
    with pytest.raises(DataError, match=twelve):
        prepare_tokens(given(model, train, case, tmp_path / "missing", [30]))
    assert not (tmp_path / "missing/out/tokens.parquet").exists()


def test_no_row_left_is_told_before_any_join(model, train, tmp_path):
    case = make_case("wrpo", train)
    case.reference = (case.reference or [])[:1]
    none = train.model_copy(update={"max_prompt_length": 1})
    made = prepare_tokens(given(model, none, case, tmp_path, [30]))
    with pytest.raises(DataError, match=f"^none of {NUM_ROWS} rows has a prompt of at most 1 tokens$"):
        made.told(none)


def test_each_file_is_read_once_for_prompts_in_order(train, tmp_path, monkeypatch):
    read: list[str] = []
    real = preparation.read_verified

    def noted(folder: Location, entry: Any, schema: Any) -> Any:
        read.append(entry.path)
        return real(folder, entry, schema)

    monkeypatch.setattr("wrpo_ray.train.keyed_files.read_verified", noted)
    drawn = drawn_rows(ROWS)
    for knows_ranges in (True, False):
        step = write_files(tmp_path / str(knows_ranges), drawn, [50, 100], knows_ranges)
        files, found = KeyedFiles(step, ResponseWithLogps), []
        read.clear()
        for start in range(0, NUM_ROWS, 7):
            found += files.rows([row.prompt_id for row in ROWS[start : start + 7]])
        assert found == drawn
        assert len(read) == 3 if knows_ranges else 3 <= len(read) <= 5


def peak_bytes(model: Path, train: Any, folder: Path, num_rows: int) -> int:
    """Return the most bytes of Python objects while rows of which each has its own text are prepared."""
    rows = sorted_rows(num_rows)
    place = write_files(folder / "rows", rows, list(range(100, num_rows, 100)))
    preparing = Preparation("reference", train, runs.make_config(model).target, place, locate(folder / "out"))
    tracemalloc.start()
    try:
        made = prepare_tokens(preparing)
        assert made.tally.num_kept > num_rows / 2
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows(model, train, tmp_path):
    peak_bytes(model, train, tmp_path / "imports", 100)
    few, many = (peak_bytes(model, train, tmp_path / str(size), size) for size in (400, 1600))
    assert many < 1.1 * few


def refuse(_: int) -> Prepared:
    raise DataError("3 rows are bad: a, b, c", code="WRPO-D022", help="mend them")


def break_down(_: int) -> Prepared:
    raise ZeroDivisionError("a bug")


def process_id(_: int) -> int:
    return os.getpid()


@pytest.mark.usefixtures("local_ray")
def test_a_task_of_the_cluster_returns_and_raises_as_a_call_does(tmp_path):
    folder = locate(tmp_path)
    assert in_one_task(process_id, 0, folder, 0.5, "something") != os.getpid()
    with pytest.raises(DataError, match=r"^3 rows are bad: a, b, c$") as caught:
        in_one_task(refuse, 0, folder, 0.5, "something")
    assert type(caught.value) is DataError
    assert (caught.value.code, caught.value.help) == ("WRPO-D022", "mend them")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        in_one_task(break_down, 0, folder, 0.5, "something")
