"""Prompts in order without a list of them: the same prompts, the same problems, in bounded memory."""

import json
import random
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from wrpo_ray import sorted_prompts
from wrpo_ray.config import PromptsConfig
from wrpo_ray.errors import StorageError
from wrpo_ray.prompts import PromptSet, load_prompts, read_prompts
from wrpo_ray.schema import prompt_id
from wrpo_ray.steps import digest


def write_lines(path: Path, rows: Iterator[dict[str, Any]]) -> PromptsConfig:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return PromptsConfig(path=str(path), answer_column="answer")


def rows(number: int, num_distinct: int | None = None) -> Iterator[dict[str, Any]]:
    for row in range(number):
        name = row % (num_distinct or number)
        yield {"prompt": f"question {name} " + "x" * (name % 97), "answer": str(name)}


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder of sorting that goes to disk after a few rows, and sorts buckets in parts."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(sorted_prompts, "_BATCH_ROWS", 64)
    monkeypatch.setattr(sorted_prompts, "_BYTES_IN_MEMORY", 1024)
    monkeypatch.setattr(sorted_prompts, "_BYTES_SORTED_AT_ONCE", 500)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_what_went_to_disk_is_what_a_list_would_have_held(tmp_path: Path, small_batches: Path) -> None:
    found = load_prompts(write_lines(tmp_path / "p.jsonl", rows(2000, 1500)))
    prompts = list(found.prompts)
    expected = {prompt_id([{"role": "user", "content": row["prompt"]}]): row["answer"] for row in rows(1500)}
    assert {prompt.prompt_id: prompt.answer for prompt in prompts} == expected
    assert [prompt.prompt_id for prompt in prompts] == sorted(expected) == list(found.prompts.ids())
    assert all(prompt_id(prompt.messages) == prompt.prompt_id for prompt in prompts)
    assert (len(found.prompts), found.num_rows, found.num_duplicates) == (1500, 2000, 500)
    splits = [prompt.split for prompt in prompts]
    assert found.prompts.num_by_split == {"sft": splits.count("sft"), "preference": splits.count("preference")}
    assert list(found.prompts.of_split("sft")) == [prompt for prompt in prompts if prompt.split == "sft"]
    # The fingerprint of the step: unchanged since prompts were a list.
    assert found.prompts.content == digest([[prompt.prompt_id, prompt.split, prompt.answer] for prompt in prompts])
    # A process that dies leaves nothing behind: the files have no names while they are in use.
    assert list(small_batches.iterdir()) == []


def test_where_rows_stand_and_how_they_are_batched_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list(rows(700, 600))
    first = load_prompts(write_lines(tmp_path / "a.jsonl", iter(given)))
    monkeypatch.setattr(sorted_prompts, "_BATCH_ROWS", 10)
    second = load_prompts(write_lines(tmp_path / "b.jsonl", iter(random.Random(3).sample(given, len(given)))))
    assert first == second
    assert list(first.prompts) == list(second.prompts)
    third = load_prompts(write_lines(tmp_path / "c.jsonl", iter(given[:-101])))
    assert third.prompts != first.prompts


@pytest.mark.usefixtures("small_batches")
def test_rows_with_other_answers_are_told_in_the_order_of_the_file_with_other_problems(tmp_path: Path) -> None:
    given = [*rows(300), *({"prompt": row["prompt"], "answer": "other"} for row in rows(30))]
    given[305] = {"prompt": "", "answer": "1"}
    found, problems = read_prompts(write_lines(tmp_path / "p.jsonl", iter(given)))
    path = tmp_path / "p.jsonl"
    assert [problem.place for problem in problems[:20]] == [f"{path}, row {number}" for number in range(301, 321)]
    assert [problem.code for problem in problems] == ["WRPO-D013"] * 5 + ["WRPO-D011"] + ["WRPO-D013"] * 14 + [
        "WRPO-D015"
    ]
    assert problems[0].rule == f"the same prompt has another answer in {path}, row 1"
    assert problems[20].value == "10 more"
    assert len(found.prompts) == 300


def test_a_full_disk_is_told_with_its_folder(
    tmp_path: Path, small_batches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
        def write(self, content: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
    with pytest.raises(StorageError, match=f"{small_batches} has no room") as raised:
        load_prompts(write_lines(tmp_path / "p.jsonl", rows(100)))
    assert raised.value.code == "WRPO-S035"


def peak_bytes(section: PromptsConfig, folder: Path) -> int:
    """Return what Python and Arrow hold at most while prompts are read, checked and written."""
    from wrpo_ray.storage.location import locate

    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        found: PromptSet = load_prompts(section)
        found.write(locate(folder))
        return tracemalloc.get_traced_memory()[1] + (pool.max_memory() or 0)
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


@pytest.mark.usefixtures("small_batches")
def test_four_times_the_rows_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wrpo_ray.prompt_layout.ROWS_PER_FILE", 500)
    monkeypatch.setattr(sorted_prompts, "_BATCH_ROWS", 250)
    monkeypatch.setattr(sorted_prompts, "_BYTES_SORTED_AT_ONCE", 2**20)
    few, many = (write_lines(tmp_path / f"{number}.jsonl", rows(number)) for number in (1_000, 4_000))
    peak_bytes(few, tmp_path / "warm")
    assert peak_bytes(many, tmp_path / "many") < 1.5 * peak_bytes(few, tmp_path / "few")
