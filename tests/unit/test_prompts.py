"""Prompt files: formats, identity, split, and a problem with file and row for everything that is wrong."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wrpo_ray.config import PromptsConfig
from wrpo_ray.errors import DataError
from wrpo_ray.prompts import check_prompts, load_prompts, split_of
from wrpo_ray.schema import prompt_id

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def section(path: Path, **fields: Any) -> PromptsConfig:
    return PromptsConfig(path=str(path), **fields)


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def texts(path: Path, **fields: Any) -> set[str]:
    return {prompt.messages[-1]["content"] for prompt in load_prompts(section(path, **fields)).prompts}


def only_problem(path: Path, answers_required: bool = False, **fields: Any) -> str:
    (problem,) = check_prompts(section(path, **fields), answers_required)
    return str(problem)


def test_json_lines_of_text_and_of_messages(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", {"prompt": "Why?"}, {"prompt": CHAT})
    prompts = {prompt.prompt_id: prompt.messages for prompt in load_prompts(section(path)).prompts}
    assert prompts == {prompt_id(user("Why?")): user("Why?"), prompt_id(CHAT): CHAT}


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_parquet_of_text(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"prompt": pa.array(["a", "b"]).cast(kind), "other": [b"1", b"2"]}), tmp_path / "p.parquet")
    assert texts(tmp_path / "p.parquet") == {"a", "b"}


def test_parquet_of_messages_equals_json_lines(tmp_path: Path) -> None:
    turned = [{"content": message["content"], "role": message["role"]} for message in CHAT]
    pq.write_table(pa.table({"prompt": [turned]}), tmp_path / "p.parquet")
    write_lines(tmp_path / "p.jsonl", {"prompt": CHAT})
    first, second = (list(load_prompts(section(tmp_path / name)).prompts) for name in ("p.parquet", "p.jsonl"))
    assert first == second


def test_folder_reads_its_files_and_leaves_hidden_ones(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", {"prompt": "a"})
    pq.write_table(pa.table({"prompt": ["b"]}), tmp_path / "b.parquet")
    write_lines(tmp_path / ".hidden.jsonl", {"prompt": "c"})
    write_lines(tmp_path / "_temporary.jsonl", {"prompt": "d"})
    assert texts(tmp_path) == {"a", "b"}


def test_saved_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    saved = datasets.Dataset.from_dict({"prompt": ["a", "b"], "messages": [CHAT, CHAT]})
    saved.save_to_disk(tmp_path / "one")
    other = datasets.Dataset.from_dict({"prompt": ["c"], "messages": [CHAT]})
    datasets.DatasetDict({"train": saved, "test": other}).save_to_disk(tmp_path / "many")
    assert texts(tmp_path / "one") == {"a", "b"}
    assert texts(tmp_path / "many") == {"a", "b"}
    assert texts(tmp_path / "many" / "test") == {"c"}
    assert texts(tmp_path / "one", column="messages") == {"Hi"}


def test_saved_dataset_without_train_split(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["test"]}')
    assert "set the path to one of its folders: test" in only_problem(tmp_path)


def test_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": f"prompt {number}"} for number in range(50)]
    first = load_prompts(section(write_lines(tmp_path / "a.jsonl", *rows)))
    second = load_prompts(section(write_lines(tmp_path / "b.jsonl", *reversed(rows))))
    assert first == second
    assert [prompt.prompt_id for prompt in first.prompts] == sorted(prompt.prompt_id for prompt in first.prompts)


def test_duplicates_are_merged_and_counted(tmp_path: Path) -> None:
    found = load_prompts(section(write_lines(tmp_path / "p.jsonl", {"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"})))
    assert (len(found.prompts), found.num_rows, found.num_duplicates) == (2, 3, 1)


def test_duplicates_with_other_answers_are_a_problem(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "a", "answer": "2"}]
    text = only_problem(write_lines(tmp_path / "p.jsonl", *rows), answer_column="answer")
    assert "p.jsonl, row 2: the same prompt has another answer in" in text
    assert "p.jsonl, row 1" in text


def test_split_is_a_hash_of_the_prompt_and_near_its_share() -> None:
    parts = [split_of(f"prompt {number}", 1 / 3) for number in range(6000)]
    assert abs(parts.count("sft") / 6000 - 1 / 3) < 0.02
    assert parts == [split_of(f"prompt {number}", 1 / 3) for number in range(6000)]


def test_larger_share_keeps_what_was_in_it() -> None:
    identities = [f"prompt {number}" for number in range(200)]
    small, large = ({i for i in identities if split_of(i, share) == "sft"} for share in (0.2, 0.5))
    assert small < large


@pytest.mark.parametrize(
    ("answer", "text"),
    [("Paris", "Paris"), (42, "42"), (42.0, "42"), (0.5, "0.5"), (None, None), (10**20, str(10**20))],
)
def test_answers_become_text(tmp_path: Path, answer: Any, text: str | None) -> None:
    path = write_lines(tmp_path / "p.jsonl", {"prompt": "a", "answer": answer})
    (prompt,) = load_prompts(section(path, answer_column="answer")).prompts
    assert prompt.answer == text


@pytest.mark.parametrize("answer", [True, [1], {"a": 1}, "", float("nan"), float("inf")])
def test_wrong_answers(tmp_path: Path, answer: Any) -> None:
    path = write_lines(tmp_path / "p.jsonl", {"prompt": "a", "answer": answer})
    assert "p.jsonl, row 1: the answer" in only_problem(path, answer_column="answer")


def test_verifier_needs_every_answer(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", {"prompt": "a", "answer": None})
    assert "the verifier needs an answer in every row" in only_problem(path, True, answer_column="answer")


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        ("", "the prompt is empty"),
        (" \n\t", "the prompt is empty"),
        ("a\ud800b", "the prompt is not valid Unicode: lone surrogate U+D800 at character 2"),
        (7, "a prompt must be text or a list"),
        (None, "a prompt must be text or a list"),
        ([], "a prompt must be text or a list"),
        (["Hi"], "message 1 must be {role, content}"),
        ([{"role": "user"}], "message 1 must be {role, content}"),
        ([{"role": "human", "content": "Hi"}], "the role of message 1 must be one of system, user, assistant"),
        ([{"role": ["user"], "content": "Hi"}], "the role of message 1 must be one of"),
        ([*CHAT, *CHAT], "message 3 is a system message"),
        ([*user("Hi"), {"role": "assistant", "content": "Hello"}], "the last message must be from the user"),
        ([{"role": "user", "content": ""}], "the content of message 1 is empty"),
        ([{"role": "user", "content": [{"type": "text"}]}], "the content of message 1 must be text"),
        ([{"role": "user", "content": "Hi", "tool_calls": [1]}], "message 1 holds more than role and content"),
    ],
)
def test_wrong_prompts(tmp_path: Path, prompt: Any, rule: str) -> None:
    text = only_problem(write_lines(tmp_path / "p.jsonl", {"prompt": "fine"}, {"prompt": prompt}))
    assert f"p.jsonl, row 2: {rule}" in text
    assert text.isascii()


def test_missing_column_suggests_a_close_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompts": ["a"]}), tmp_path / "p.parquet")
    assert "did you mean `prompts`?" in only_problem(tmp_path / "p.parquet")
    path = write_lines(tmp_path / "p.jsonl", {"prompt": "a"}, {"promt": "b"})
    assert "row 2: the row has no `prompt`" in only_problem(path)


def test_binary_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": [b"a"]}), tmp_path / "p.parquet")
    assert "the column must hold text" in only_problem(tmp_path / "p.parquet")


class Trap(pa.ExtensionType):
    """An extension type that tells when it is rebuilt from a file; a hostile one would run code there."""

    rebuilt = False

    def __init__(self) -> None:
        super().__init__(pa.string(), "tests.trap")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> "Trap":
        cls.rebuilt = True
        return cls()


@pytest.mark.parametrize("padding", ["", "a", "bb", "ccc"])
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_extension_types_are_refused_before_they_are_built(tmp_path: Path, form: str, padding: str) -> None:
    pa.register_extension_type(Trap())
    try:
        column = pa.ExtensionArray.from_storage(Trap(), pa.array(["a"]))
        table = pa.table({"prompt": ["a"], "hostile" + padding: column})
        if form == "parquet":
            pq.write_table(table, tmp_path / "p.parquet")
        else:
            (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "p.arrow"}]}')
            with pa.OSFile(str(tmp_path / "p.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        Trap.rebuilt = False
        assert "Arrow extension type" in only_problem(tmp_path)
        assert not Trap.rebuilt
    finally:
        pa.unregister_extension_type("tests.trap")


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"\xff\xfe"]).buffers())
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "p.parquet")
    assert "row 2: the prompt is not valid UTF-8" in only_problem(tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    assert "row 2: the line is not UTF-8" in only_problem(tmp_path / "p.jsonl")


@pytest.mark.parametrize("size", [0, 4, 200])
def test_cut_parquet_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": ["a"] * 100}), path)
    path.write_bytes(path.read_bytes()[:size])
    assert "the file cannot be read; it may be cut" in only_problem(path)


def test_cut_arrow_file(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "p.arrow"}]}')
    (tmp_path / "p.arrow").write_bytes(b"\xff\xff\xff\xff\x10")
    assert "the file cannot be read; it may be cut" in only_problem(tmp_path)


def test_empty_arrow_file(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "p.arrow"}]}')
    (tmp_path / "p.arrow").write_bytes(b"")
    assert "the file cannot be read; it may be cut" in only_problem(tmp_path)


def test_values_that_lie_outside_of_their_buffer_are_not_read(tmp_path: Path) -> None:
    """An offset that was changed would end the whole process (std::length_error), or read what is not there."""
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "p.arrow"}]}')
    table = pa.table({"prompt": ["one", "two", "three"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    offsets = np.array([0, 3, 6, 11], dtype="<i4").tobytes()
    damaged = np.array([0, 3, 2**30, 11], dtype="<i4").tobytes()
    content = sink.getvalue().to_pybytes()
    assert content.count(offsets) == 1
    (tmp_path / "p.arrow").write_bytes(content.replace(offsets, damaged))
    assert "the file cannot be read; it may be damaged" in only_problem(tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
def test_pipes_and_folders_of_the_name_of_a_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    assert f"{name}: the file is no regular file" in only_problem(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    assert f"{name}: the file is no regular file" in only_problem(tmp_path)


@pytest.mark.parametrize("line", ['{"prompt": "a"', "[1]", "text", "[" * 100_000])
def test_broken_json_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "fine"}\n\n' + line + "\n")
    assert "p.jsonl, row 3: the line" in only_problem(tmp_path / "p.jsonl")


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n')
    assert texts(tmp_path / "p.jsonl") == {"a", "b"}


@pytest.mark.parametrize("name", ["none.parquet", "p.csv", "empty"])
def test_nothing_to_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "p.csv").write_text("prompt\na\n")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / name) in only_problem(tmp_path / name)


def test_prompts_in_an_object_store() -> None:
    (problem,) = check_prompts(PromptsConfig(path="s3://bucket/prompts.parquet"))
    assert problem.code == "WRPO-D002"
    assert "read from a file system" in problem.rule


def test_file_without_rows(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("\n")
    assert "at least one prompt" in only_problem(tmp_path / "p.jsonl")


def test_at_most_twenty_problems_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    problems = check_prompts(section(write_lines(tmp_path / "p.jsonl", *[{"prompt": ""}] * 50)))
    assert len(problems) == 21
    assert problems[-1].value == "30 more"


def test_load_raises_with_every_problem(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "p.jsonl", {"prompt": ""}, {"prompt": 1})
    with pytest.raises(DataError) as caught:
        load_prompts(section(path))
    assert "2 problems" in str(caught.value)
    assert caught.value.exit_code == 3


def test_long_values_are_cut(tmp_path: Path) -> None:
    assert len(only_problem(write_lines(tmp_path / "p.jsonl", {"prompt": ["x" * 10_000]}))) < 500
