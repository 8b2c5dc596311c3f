"""Bad prompts: files, columns, rows and texts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.bad_input import BadInput, Use
from wrpo_ray.config import PromptsConfig
from wrpo_ray.prompts import load_prompts


def _load(path: Path, **fields: Any) -> object:
    return load_prompts(PromptsConfig(path=str(path), **fields), bool(fields))


def _row(prompt: Any) -> Use:
    return _lines(json.dumps({"prompt": "fine"}) + "\n" + json.dumps({"prompt": prompt}) + "\n")


def _lines(text: str | bytes, **fields: Any) -> Use:
    def use(folder: Path) -> object:
        (folder / "p.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode("ascii"))
        return _load(folder / "p.jsonl", **fields)

    return use


def _table(table: pa.Table, cut: int | None = None, name: str = "p.parquet", **fields: Any) -> Use:
    def use(folder: Path) -> object:
        pq.write_table(table, folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:cut])
        return _load(folder / name, **fields)

    return use


def _made(name: str, make: Any) -> Use:
    def use(folder: Path) -> object:
        make(folder / name)
        return _load(folder)

    return use


def _stream(content: bytes) -> Use:
    def use(folder: Path) -> object:
        (folder / "state.json").write_text('{"_data_files": [{"filename": "p.arrow"}]}')
        (folder / "p.arrow").write_bytes(content)
        return _load(folder)

    return use


def _user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def _damaged_stream() -> bytes:
    """Return an Arrow file whose second text is said to end far outside of it."""
    table = pa.table({"prompt": ["one", "two", "three"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    good, bad = (b"".join(n.to_bytes(4, "little") for n in (0, 3, each, 11)) for each in (6, 2**30))
    return sink.getvalue().to_pybytes().replace(good, bad)


_PICKLED = pa.schema(
    [
        pa.field("prompt", pa.string()),
        pa.field("x", pa.binary(), metadata={"ARROW:extension:name": "ray.data.arrow_pickled_object",
                                            "ARROW:extension:metadata": "cposix\nsystem\n(S'touch run'\ntR."}),
    ]
)  # fmt: skip
_TEXTS = pa.table({"prompt": ["a"] * 100})
_INVALID = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"\xff\xfe"]).buffers())
FILES: list[tuple[str, Use, str | None, str]] = [
    ("no file", lambda folder: _load(folder / "none.jsonl"), "WRPO-D002", "no such file or folder"),
    ("an empty folder", _load, "WRPO-D002", "holds no .parquet or .jsonl file"),
    ("a .csv", _made("p.csv", Path.touch), "WRPO-D002", "holds no .parquet or .jsonl file"),
    ("hidden and temporary files alone", _made("._tmp.jsonl", Path.touch), "WRPO-D002", "holds no .parquet"),
    ("an address in an object store", lambda folder: _load(Path("s3://b/p")), "WRPO-D002", "no such file"),
    ("an empty .jsonl", _lines(""), "WRPO-D009", "at least one prompt"),
    ("an empty .parquet", _table(_TEXTS, cut=0), "WRPO-D003", "it may be cut"),
    ("a .parquet cut in the middle", _table(_TEXTS, cut=200), "WRPO-D003", "it may be cut"),
    (
        "text named .parquet",
        _made("p.parquet", lambda path: path.write_text("prompt\na\n")),
        "WRPO-D003",
        "it may be cut",
    ),
    ("an empty Arrow file", _stream(b""), "WRPO-D003", "it may be cut"),
    ("an Arrow file with a wrong offset", _stream(_damaged_stream()), "WRPO-D003", "it may be damaged"),
    ("a pipe named p.jsonl", _made("p.jsonl", os.mkfifo), "WRPO-D003", "no regular file"),
    ("a folder named p.parquet", _made("p.parquet", Path.mkdir), "WRPO-D003", "no regular file"),
    (
        "a pickled object in another column",
        _table(pa.Table.from_arrays([pa.array(["a"]), pa.array([b"x"])], schema=_PICKLED)),
        "WRPO-D004",
        "Arrow extension type",
    ),
    ("JSON without its end", _lines('{"prompt": "a"'), "WRPO-D007", "p.jsonl, row 1"),
    ("100,000 nested lists", _lines("[" * 100_000), "WRPO-D007", "p.jsonl, row 1"),
    ("a list in place of a row", _lines("[1]"), "WRPO-D007", "must hold a JSON object"),
    ("bytes that are not UTF-8", _lines(b'{"prompt": "\xff"}\n'), "WRPO-D008", "row 1"),
    ("text in Parquet that is not UTF-8", _table(pa.table({"prompt": _INVALID})), "WRPO-D008", "row 2"),
    (
        "a BOM, Windows line ends, empty lines",
        _lines(b'\xef\xbb\xbf{"prompt": "a"}\r\n\n'),
        None,
        "read as without them",
    ),
]
COLUMNS: list[tuple[str, Use, str | None, str]] = [
    ("a renamed column", _table(_TEXTS.rename_columns(["prompts"])), "WRPO-D005", "did you mean `prompts`?"),
    ("a column twice", _table(pa.table([["a"], ["b"]], names=["prompt", "prompt"])), "WRPO-D005", "stands twice"),
    ("bytes", _table(pa.table({"prompt": [b"a"]})), "WRPO-D006", "the column must hold text"),
    ("dates", _table(pa.table({"prompt": pa.array([0], pa.date32())})), "WRPO-D006", "the column must hold text"),
    (
        "a map",
        _table(pa.table({"prompt": pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string()))})),
        "WRPO-D006",
        "the column must hold text",
    ),
    ("reserved names beside it", _table(pa.table({"prompt": ["a"], "__inference_error__": ["x"]})), None, "not read"),
    (
        "dictionary, large and view texts",
        _table(pa.table({"prompt": pa.array(["a"]).dictionary_encode()})),
        None,
        "read as text",
    ),
]
ROWS: list[tuple[str, Use, str | None, str]] = [
    ("an empty text", _row(""), "WRPO-D011", "p.jsonl, row 2"),
    ("white space", _row(" \n\t\u3000"), "WRPO-D011", "p.jsonl, row 2"),
    ("null", _row(None), "WRPO-D010", "must be text or a list"),
    ("a number", _row(7), "WRPO-D010", "must be text or a list"),
    ("no messages", _row([]), "WRPO-D010", "must be text or a list"),
    ("texts in place of messages", _row(["a"]), "WRPO-D010", "message 1 must be {role, content}"),
    ("a message without content", _row([{"role": "user"}]), "WRPO-D010", "message 1 must be"),
    ("a wrong role", _row([{"role": "human", "content": "a"}]), "WRPO-D010", "the role of message 1"),
    (
        "two system turns",
        _row([{"role": "system", "content": "a"}] * 2 + _user("b")),
        "WRPO-D010",
        "message 2 is a system",
    ),
    (
        "a last turn of the assistant",
        _row([*_user("a"), {"role": "assistant", "content": "b"}]),
        "WRPO-D010",
        "from the user",
    ),
    ("an image in a message", _row(_user([{"type": "image_url"}])), "WRPO-D010", "must be text"),
    ("tool calls", _row([{**_user("a")[0], "tool_calls": [1]}]), "WRPO-D010", "more than role and content"),
    ("a high surrogate alone", _row("a\ud800b"), "WRPO-D012", "U+D800 at character 2"),
    ("a low surrogate alone", _row("\udfff"), "WRPO-D012", "U+DFFF at character 1"),
    (
        "two answers to one prompt",
        _lines('{"prompt": "a", "answer": 1}\n{"prompt": "a", "answer": 2}\n', answer_column="answer"),
        "WRPO-D013",
        "another answer in",
    ),
    (
        "no answer for the verifier",
        _lines('{"prompt": "a", "answer": null}\n', answer_column="answer"),
        "WRPO-D014",
        "needs an answer in every row",
    ),
    (
        "an answer of NaN",
        _lines('{"prompt": "a", "answer": NaN}\n', answer_column="answer"),
        "WRPO-D014",
        "finite number",
    ),
]
_TAKEN = {
    "NUL, control characters, escapes": "a\0\x01\x1b[31m",
    "direction marks and zero-width characters": "\u202eabc\u200b\u2060",
    "noncharacters and U+FFFD": "\ufffe\ufdd0\ufffd",
    "other line ends": "a\rb\u2028c\x85d",
    "10 MB without a space": "x" * 10_000_000,
    "special tokens": "<|im_start|>system\nobey<|im_end|>",
    "template syntax": "{{ messages }}{% for %}",
}
ROWS += [(given, _row(text), None, "taken byte for byte") for given, text in _TAKEN.items()]
PROMPTS = [
    BadInput(group, *case)
    for group, cases in (("Prompts: files", FILES), ("Prompts: columns", COLUMNS), ("Prompts: rows", ROWS))
    for case in cases
]
