"""Any row of a prompt file is a prompt, byte for byte, or a problem with its row; any bytes are read or refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume
from hypothesis import strategies as st

from tests.fuzz.case import fuzzed, outcome
from tests.fuzz.mutation import changed_bytes
from wrpo_ray.config import PromptsConfig
from wrpo_ray.errors import DataError
from wrpo_ray.prompts import PromptSet, load_prompts, read_prompts
from wrpo_ray.schema import prompt_id

TEXT = st.one_of(
    st.text(max_size=6), st.text(st.characters(categories=["Cs", "Lu"]), max_size=3),
    st.sampled_from(["one", " ", "\u3000", "a\0b", "\ufeffa", "e\u0301", "{{ x }}", "<|im_end|>", "\u202e", "\r\n"]),
)  # fmt: skip
MESSAGE = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "user", "system", "assistant", "tool", "User", None, 7]),
         "content": st.one_of(TEXT, TEXT, st.sampled_from([None, 7, ["a"]]))},
        optional={"name": st.sampled_from([None, "x"])},
    ),
    st.sampled_from(["text", None, 7, [], {}, {"role": "user"}]),
)  # fmt: skip
ODD = st.sampled_from([None, True, 0, 7, 1.5, -0.0, 2**70, math.nan, [], {}, [[]], {"a": 1}, "x" * 3000])
PROMPT = st.one_of(TEXT, st.lists(MESSAGE, max_size=3), ODD)
ROW = st.one_of(
    st.fixed_dictionaries({"prompt": PROMPT}, optional={"answer": st.one_of(TEXT, ODD), "prompt ": TEXT}),
    st.sampled_from([{}, {"Prompt": "a"}, [], "text", None, 7]),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts")


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= each <= "\udfff" for each in value)


def expected_messages(prompt: Any) -> list[dict[str, str]] | None:
    """Return what a prompt means, said a second time and otherwise than in wrpo_ray.prompts; None: it is refused."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}] if is_text(prompt) else None
    if not isinstance(prompt, list) or not prompt or not all(isinstance(each, dict) for each in prompt):
        return None
    roles = [each.get("role") for each in prompt]
    filled = [{key for key, value in each.items() if value is not None} for each in prompt]
    whole = all(map(is_text, (each.get("content") for each in prompt))) and filled == [{"role", "content"}] * len(
        prompt
    )
    known = set(map(str, roles[1:])) <= {"user", "assistant"} and roles[0] in ("system", "user", "assistant")
    return prompt if whole and known and roles[-1] == "user" else None


@fuzzed(60, rows=st.lists(ROW, min_size=1, max_size=4))
def test_a_row_is_a_prompt_as_it_was_written_or_a_problem_with_its_number(folder: Path, rows: list[Any]) -> None:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
    # Two halves of a surrogate pair side by side are one character to JSON.
    rows = [json.loads(json.dumps(row)) for row in rows]
    expected = [expected_messages(row.get("prompt")) if isinstance(row, dict) else None for row in rows]
    found, problems = read_prompts(PromptsConfig(path=str(path)))
    assert {problem.place for problem in problems} == {
        f"{path}, row {number}" for number, messages in enumerate(expected, start=1) if messages is None
    }
    assert len(problems) == expected.count(None)
    wanted = {prompt_id(m): [{"role": e["role"], "content": e["content"]} for e in m] for m in expected if m}
    assert {prompt.prompt_id: prompt.messages for prompt in found.prompts} == wanted


CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TYPES = [
    pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), CHAT, pa.binary(),
    pa.int64(), pa.float16(), pa.bool_(), pa.null(), pa.date32(), pa.timestamp("ns"), pa.decimal128(9, 2),
    pa.list_(pa.string()), pa.map_(pa.string(), pa.string()), pa.struct([("a", pa.string())]), pa.list_(pa.string(), 1),
]  # fmt: skip
CELLS = st.sampled_from([None, "a", " ", "b\0", 0, 1, True, b"a", 1.5, [], ["a"], [{"role": "user", "content": "x"}]])


@fuzzed(40, columns=st.lists(st.tuples(st.sampled_from(["prompt", "answer", "prompt.x"]), st.sampled_from(TYPES)),
                             min_size=1, max_size=3), cells=st.lists(CELLS, max_size=3))  # fmt: skip
def test_a_table_of_any_types_is_read_or_refused(folder: Path, columns: list[Any], cells: list[Any]) -> None:
    arrays = [array(cells, kind) for _, kind in columns]
    pq.write_table(pa.Table.from_arrays(arrays, names=[name for name, _ in columns]), folder / "t.parquet")
    found = outcome(lambda: load_prompts(PromptsConfig(path=str(folder / "t.parquet"), answer_column="answer")))
    assert isinstance(found, DataError | PromptSet)
    if isinstance(found, PromptSet):
        texts = {prompt.messages[0]["content"] for prompt in found.prompts}
        assert texts <= {"a", "b\0", "x"}


def array(cells: list[Any], kind: pa.DataType) -> pa.Array:
    """Return the cells that fit the type; a column of nulls when they are of several."""
    try:
        return pa.array(cells, kind)
    except (pa.ArrowException, TypeError, ValueError):
        return pa.nulls(len(cells), kind)


def stream_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def parquet_of(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


TABLES = [
    pa.table({"prompt": ["one", "two", "three"], "answer": ["1", None, "3"]}),
    pa.table({"prompt": [[{"role": "system", "content": "s"}, {"role": "user", "content": "one"}]] * 2}),
    pa.table({"prompt": pa.array(["one", "two", "one"]).dictionary_encode()}),
]
LINES = [b'{"prompt": "one"}\n{"prompt": [{"role": "user", "content": "\\u00e9"}]}\n']
FILES = {
    "damaged.jsonl": LINES,
    "damaged.parquet": [parquet_of(table) for table in TABLES],
    "saved/data.arrow": [stream_of(table) for table in TABLES],
    "saved/state.json": [b'{"_data_files": [{"filename": "data.arrow"}]}'],
}


@fuzzed(60, file=st.sampled_from(list(FILES)), data=st.data())
def test_damaged_files_are_read_or_refused(folder: Path, file: str, data: st.DataObject) -> None:
    content = data.draw(changed_bytes(FILES[file]))
    assume(b"ARROW:extension" not in content)
    saved = folder / "saved"
    saved.mkdir(exist_ok=True)
    for name in ("saved/data.arrow", "saved/state.json"):
        (folder / name).write_bytes(FILES[name][0])
    (folder / file).write_bytes(content)
    path = saved if file.startswith("saved/") else folder / file
    found = outcome(lambda: load_prompts(PromptsConfig(path=str(path))))
    assert isinstance(found, DataError | PromptSet)
    if isinstance(found, PromptSet):
        assert all(is_text(message["content"]) for prompt in found.prompts for message in prompt.messages)
