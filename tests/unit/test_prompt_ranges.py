"""Prompts as files, shards as ranges of them, and workers that read no more than they need."""

import dataclasses
import json
from pathlib import Path

import pytest

from wrpo_ray import prompt_layout
from wrpo_ray.config import PromptsConfig
from wrpo_ray.data.prompt_ranges import described_shard, lists_of_splits, range_shards
from wrpo_ray.data.prompt_reader import PromptReader
from wrpo_ray.errors import StorageError, WrpoError
from wrpo_ray.prompt_layout import prompt_files, write_prompts
from wrpo_ray.prompts import load_prompts
from wrpo_ray.schema import Prompt, Split, to_table
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import RunLayout
from wrpo_ray.storage.range_plan import ItemList, planned_ranges
from wrpo_ray.storage.tables import parquet_entries, read_rows, write_rows

NUM_PROMPTS, ROWS_PER_FILE = 250, 60
BOTH: tuple[Split, ...] = ("sft", "preference")


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Location:
    """Return a finished prompts step of five files."""
    monkeypatch.setattr(prompt_layout, "ROWS_PER_FILE", ROWS_PER_FILE)
    lines = (json.dumps({"prompt": f"question {number}"}) + "\n" for number in range(NUM_PROMPTS))
    (tmp_path / "p.jsonl").write_text("".join(lines))
    loaded = load_prompts(PromptsConfig(path=str(tmp_path / "p.jsonl")))
    return finished(tmp_path, Step("prompts", {}, (), loaded.write))


def finished(folder: Path, step: Step) -> Location:
    layout = RunLayout(locate(folder / "run"))
    execute(step, layout, {})
    return step.folder(layout)


def test_files_are_ranges_in_order_and_told_with_their_splits(prompts: Location) -> None:
    entries = parquet_entries(prompts)
    assert [entry.num_rows for entry in entries] == [60, 60, 60, 60, 10]
    bounds = [bound for entry in entries if entry.key_range for bound in entry.key_range]
    assert len(bounds) == 10
    assert bounds == sorted(set(bounds))
    rows = read_rows(prompts, Prompt)
    assert [row.prompt_id for row in rows] == sorted(row.prompt_id for row in rows)
    for split in BOTH:
        expected = sum(row.split == split for row in rows)
        assert sum(file.num_by_split[split] for file in prompt_files(prompts)) == expected


def test_cuts_follow_from_the_prompts_alone(prompts: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = to_table(read_rows(prompts, Prompt), Prompt)
    once = write_prompts(locate(tmp_path / "once"), [table])
    pieces = write_prompts(locate(tmp_path / "pieces"), [table.slice(start, 7) for start in range(0, NUM_PROMPTS, 7)])
    assert once == pieces
    monkeypatch.setattr(prompt_layout, "MAX_BYTES_PER_FILE", 100)
    by_size = write_prompts(locate(tmp_path / "sizes"), [table])
    # "question 123" has 12 bytes, the first ten and hundred questions have less.
    assert all(entry.num_rows in (8, 9) for entry in by_size[:-2])
    assert sum(entry.num_rows or 0 for entry in by_size) == NUM_PROMPTS


def test_files_of_another_make_are_counted_by_reading(prompts: Location, tmp_path: Path) -> None:
    rows = read_rows(prompts, Prompt)
    step = Step("other", {}, (), lambda place: StepResult((write_rows(place, "data/p.parquet", rows, Prompt),), {}))
    (file,) = prompt_files(finished(tmp_path, step))
    assert sum(file.num_by_split.values()) == NUM_PROMPTS


@pytest.mark.parametrize("splits", [("sft",), ("preference",), BOTH])
def test_every_prompt_of_the_splits_is_in_one_shard(
    prompts: Location, tmp_path: Path, splits: tuple[Split, ...]
) -> None:
    lists = lists_of_splits(prompts, splits, num_samples=5)
    shards, describe = range_shards(locate(tmp_path / "step"), lists, 16)
    reader = PromptReader(prompts)
    items: list[str] = []
    for shard in shards:
        description = json.loads(json.dumps(describe(shard)))
        of_worker = described_shard(description, reader.ids(description["path"], splits))
        assert of_worker.name == shard.name
        assert dataclasses.replace(of_worker, items=()) == shard
        assert 0 < len(of_worker.items) == shard.num_items <= 16
        assert [prompt.prompt_id for prompt in reader.of(of_worker.items)] == list(of_worker.items)
        items += of_worker.items
    assert items == [row.prompt_id for row in read_rows(prompts, Prompt) if row.split in splits]
    assert sum(each.num_requests for each in lists) == 5 * len(items)
    assert len({shard.name for shard in shards}) == len(shards)


def test_the_driver_holds_no_prompt_ids(prompts: Location, tmp_path: Path) -> None:
    shards, describe = range_shards(locate(tmp_path / "step"), lists_of_splits(prompts, BOTH, 5), 16)
    ids = {row.prompt_id for row in read_rows(prompts, Prompt)}
    assert all(shard.items == () for shard in shards)
    assert not any(prompt_id in json.dumps(describe(shard)) for shard in shards for prompt_id in ids)


def test_a_worker_reads_only_the_files_of_its_shard(prompts: Location) -> None:
    wanted = [row.prompt_id for row in read_rows(prompts, Prompt)[60:130]]
    kept = parquet_entries(prompts)
    for entry in (kept[0], kept[3], kept[4]):
        (prompts / entry.path).delete()
    reader = PromptReader(prompts)
    assert [prompt.prompt_id for prompt in reader.of(wanted[::-1])] == wanted[::-1]
    assert reader.of([]) == []
    with pytest.raises(StorageError, match="is missing"):
        reader.of([*wanted, "0" * 32])


def test_a_prompt_that_is_nowhere_is_told(prompts: Location) -> None:
    with pytest.raises(StorageError, match="does not hold 1 prompts") as raised:
        PromptReader(prompts).of(["7" * 32])
    assert raised.value.code == "WRPO-S036"


def test_the_first_cut_of_lists_holds_and_other_lists_are_refused(tmp_path: Path) -> None:
    folder, lists = locate(tmp_path), [ItemList("a", 5), ItemList("b", 0), ItemList("c", 4)]
    first = planned_ranges(folder, lists, 2)
    assert [(shard.content, shard.start, shard.stop) for shard in first] == [
        ("a", 0, 2), ("a", 2, 4), ("a", 4, 5), ("c", 0, 2), ("c", 2, 4),
    ]  # fmt: skip
    assert planned_ranges(folder, lists, 100) == first
    for other in ([ItemList("a", 5), ItemList("c", 4)][::-1], [ItemList("a", 5), ItemList("d", 4)], lists[:1]):
        with pytest.raises(StorageError, match="other items"):
            planned_ranges(folder, other, 2)
    with pytest.raises(WrpoError, match="1 lists are there twice"):
        planned_ranges(locate(tmp_path / "twice"), [ItemList("a", 5), ItemList("a", 5)], 2)


def test_a_shard_that_does_not_fit_its_list_is_refused() -> None:
    description = {"number": 0, "path": "p", "content": "c", "start": 1, "stop": 4}
    assert described_shard(description, list("abcd")).items == ("b", "c", "d")
    with pytest.raises(WrpoError, match="rows 1 to 4 of 3"):
        described_shard(description, list("abc"))
