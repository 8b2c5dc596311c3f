"""Joins by ranges of prompts: equal to a join of everything in memory, resumable, and flat in memory."""

import dataclasses
import itertools
import json
import math
import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from hypothesis import given as with_cases
from hypothesis import settings
from hypothesis import strategies as st

from tests.faults.memory_store import MemoryStore
from wrpo_ray.claims import NOTHING, Grant, StepStoppedError, granted
from wrpo_ray.config import FaultsConfig, RowsConfig
from wrpo_ray.data import fusion, parts
from wrpo_ray.data.fusion import fuse, select_sft
from wrpo_ray.data.joins import Join, fuse_part
from wrpo_ray.data.parts import PartDone
from wrpo_ray.data.ranges import FilesByRange, FilesOf, grouped
from wrpo_ray.errors import DataError, InterruptedRunError, QuarantineError
from wrpo_ray.schema import Prompt, Quadruple, ScoredResponse, SFTExample
from wrpo_ray.selection import best_source, has_two_usable, response_code, target_pair
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, create_manifest
from wrpo_ray.storage.tables import read_file, write_rows

SOURCES = ("b", "a")
ROWS = RowsConfig(max_fraction=1.0)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make parts here, also when another test of the session has left a cluster behind."""
    monkeypatch.setattr(parts, "_can_be_made_apart", lambda folder: False)


def finished(folder: Location, files: Sequence[FileEntry]) -> Location:
    create_manifest(folder, Manifest("step", "f", {}, {}, tuple(files), {}, {}, 0.0))
    return folder


def in_files(folder: Location, rows: Sequence[Any], row_type: Any, cuts: Sequence[int], known: bool = True) -> Location:
    """Write rows as files that end where `cuts` say; without `known` as older versions did, without a range."""
    ends = sorted({*(cut for cut in cuts if 0 < cut < len(rows)), len(rows)})
    starts = [0, *ends[:-1]]
    files = [
        write_rows(folder, f"data/{number:05d}.parquet", rows[start:end], row_type)
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    return finished(folder, files if known else [dataclasses.replace(entry, key_range=None) for entry in files])


def all_rows(folder: Location, result: StepResult, row_type: Any) -> list[Any]:
    return [row for entry in result.files if entry.num_rows is not None for row in read_file(folder, entry, row_type)]


def listed(folder: Location, result: StepResult) -> Counter[tuple[str, str]]:
    paths = [entry.path for entry in result.files if entry.path.startswith("quarantine/")]
    rows = [json.loads(line) for path in paths for line in (folder / path).read_bytes().splitlines()]
    return Counter((row["code"], row["item"]) for row in rows)


# The join as it is told in a sentence: everything in memory, prompt by prompt.


def plain(
    prompts: Sequence[Prompt], sources: Sequence[ScoredResponse], target: Sequence[ScoredResponse], rows: RowsConfig
) -> tuple[list[SFTExample], list[Quadruple], dict[str, Counter[tuple[str, str]]]]:
    examples, quadruples = [], []
    left_out: dict[str, Counter[tuple[str, str]]] = {"sft": Counter(), "preference": Counter()}
    for prompt in prompts:
        mine = [row for row in sources if row.prompt_id == prompt.prompt_id]
        drawn = [row for row in target if row.prompt_id == prompt.prompt_id]
        best = best_source(mine, SOURCES, rows)
        found = [(code, row) for row in mine if (code := response_code(row))]
        if prompt.split == "preference":
            found += [(code, row) for row in drawn if (code := response_code(row))]
        noted = left_out[prompt.split]
        noted.update((code, f"{row.prompt_id}:{row.source}:{row.sample_index}") for code, row in found)
        if len(mine) > 1 and len({row.text for row in mine}) == 1:
            noted["responses_identical", prompt.prompt_id] += 1
            best = best if rows.responses_identical == "keep" else None
        pair = target_pair(drawn, rows)
        if best is None:
            noted["no_source_response", prompt.prompt_id] += 1
        elif prompt.split == "sft":
            examples.append(
                SFTExample(prompt.prompt_id, prompt.messages, best.text, best.source, best.reward, best.finish_reason)
            )
        elif not has_two_usable(drawn, rows):
            noted["fewer_than_two_target_responses", prompt.prompt_id] += 1
        elif pair is None:
            noted["target_responses_tie", prompt.prompt_id] += 1
        elif pair.rejected.text == best.text:
            noted["source_response_is_rejected", prompt.prompt_id] += 1
        else:
            wt, lost = pair
            quadruples.append(
                Quadruple(
                    prompt.prompt_id,
                    prompt.messages,
                    best.text,
                    wt.text,
                    lost.text,
                    best.source,
                    best.reward,
                    wt.reward,
                    lost.reward,
                    best.finish_reason,
                    wt.finish_reason,
                    lost.finish_reason,
                )
            )
    kept = {code for code in rows.model_dump() if getattr(rows, code) == "keep"}
    listed = {
        name: Counter({key: n for key, n in found.items() if key[0] not in kept}) for name, found in left_out.items()
    }
    return examples, quadruples, listed


_REWARDS = st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0, math.nan, math.inf])
_TEXTS = st.sampled_from(["one", "two", "three", "", " ", "same"])


@st.composite
def responses(draw: st.DrawFn, ids: Sequence[str], source: str) -> list[ScoredResponse]:
    return [
        ScoredResponse(
            prompt_id,
            source,
            index,
            draw(_TEXTS),
            draw(st.sampled_from(["stop", "length"])),
            draw(st.integers(0, 2)),
            draw(_REWARDS),
        )
        for prompt_id in ids
        for index in range(draw(st.integers(0, 3)))
    ]


def cuts_between_prompts(draw: st.DrawFn, rows: Sequence[ScoredResponse]) -> list[int]:
    ends = [number for number in range(1, len(rows)) if rows[number].prompt_id != rows[number - 1].prompt_id]
    return draw(st.lists(st.sampled_from(ends), max_size=3)) if ends else []


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 9))
    ids = [f"p{number:02d}" for number in range(count)]
    splits = draw(st.lists(st.sampled_from(["sft", "preference", "preference"]), min_size=count, max_size=count))
    prompts = [
        Prompt(prompt_id, [{"role": "user", "content": prompt_id}], split, None)  # pyright: ignore[reportArgumentType]
        for prompt_id, split in zip(ids, splits, strict=True)
    ]
    preference = [prompt.prompt_id for prompt in prompts if prompt.split == "preference"]
    sources = [draw(responses(ids, name)) for name in SOURCES]
    target = draw(responses(preference, "target"))
    policies = st.sampled_from(["keep", "drop"])
    rows = ROWS.model_copy(update={name: draw(policies) for name in ("response_cut", "responses_identical")})
    return {
        "prompts": prompts, "prompt_cuts": draw(st.lists(st.integers(1, 8), max_size=3)), "sources": sources,
        # A prompt's responses may lie in several files of a source, as they do with adaptive allocation.
        "source_cuts": [draw(st.lists(st.integers(1, 20), max_size=3)) for _ in SOURCES],
        "target": target, "target_cuts": cuts_between_prompts(draw, target), "rows": rows,
        "prompts_per_part": draw(st.integers(1, 9)), "known": draw(st.booleans()),
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@with_cases(case=cases())
def test_joins_equal_a_join_of_everything_in_memory(case: dict[str, Any]) -> None:
    root = Location(MemoryStore(), "join")
    prompts = in_files(root / "prompts", case["prompts"], Prompt, case["prompt_cuts"])
    sources = [
        in_files(root / name, rows, ScoredResponse, cuts, case["known"])
        for name, rows, cuts in zip(SOURCES, case["sources"], case["source_cuts"], strict=True)
    ]
    target = in_files(root / "target", case["target"], ScoredResponse, case["target_cuts"])
    of_sources = [row for rows in case["sources"] for row in rows]
    examples, quadruples, left_out = plain(case["prompts"], of_sources, case["target"], case["rows"])
    steps: list[tuple[str, Callable[[], StepResult], type[Any], list[Any]]] = [
        ("sft", lambda: select_sft(prompts, sources, SOURCES, case["rows"], root / "sft"), SFTExample, examples),
        (
            "preference", lambda: fuse(prompts, sources, target, SOURCES, case["rows"], root / "preference"), Quadruple,
            quadruples,
        ),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "PROMPTS_PER_PART", case["prompts_per_part"])
        for split, step, row_type, expected in steps:
            if not expected:
                with pytest.raises(DataError):
                    step()
                continue
            result = step()
            assert all_rows(root / split, result, row_type) == expected
            assert all(entry.num_rows != 0 for entry in result.files)
            assert listed(root / split, result) == left_out[split]
            assert result.summary["num_prompts"] == sum(prompt.split == split for prompt in case["prompts"])


def scored(folder: Location, source: str, ids: Sequence[str], per_file: int, characters: int) -> Location:
    numbers = random.Random(source)
    rows = [
        ScoredResponse(prompt_id, source, index, f"{reward} {source} {'x' * characters}", "stop", 3, reward)
        for prompt_id in ids
        for index, reward in enumerate((numbers.random(), numbers.random(), numbers.random()))
    ]
    return in_files(folder, rows, ScoredResponse, range(0, len(rows), 3 * per_file))


@dataclasses.dataclass(frozen=True)
class Given:
    """Finished steps in which each prompt gives a quadruple."""

    prompts: Location
    sources: list[Location]
    target: Location

    def fuse(self, folder: Location, faults: FaultsConfig | None = None) -> StepResult:
        return fuse(self.prompts, self.sources, self.target, SOURCES, ROWS, folder, faults)


def given_steps(root: Location, num_prompts: int, per_file: int, characters: int = 10) -> Given:
    ids = [f"{number:06d}" for number in range(num_prompts)]
    prompts = [Prompt(prompt_id, [{"role": "user", "content": "?"}], "preference", None) for prompt_id in ids]
    steps = [scored(root / name, name, ids, per_file, characters) for name in (*SOURCES, "target")]
    return Given(in_files(root / "prompts", prompts, Prompt, range(0, num_prompts, per_file)), steps[:-1], steps[-1])


def test_a_part_opens_only_the_files_of_its_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joins: list[Join] = []

    def noted(join: Join) -> PartDone:
        joins.append(join)
        return fuse_part(join)

    monkeypatch.setattr(fusion, "fuse_part", noted)
    monkeypatch.setattr(fusion, "PROMPTS_PER_PART", 4)
    result = given_steps(locate(tmp_path), 12, 4).fuse(locate(tmp_path) / "fused")
    assert [[len(files.entries) for files in (*join.sources, join.target)] for join in joins] == [[1, 1, 1]] * 3
    assert {entry.path: entry.key_range for entry in result.files} == {
        "data/train-00000-of-00003.parquet": ("000000", "000003"),
        "data/train-00001-of-00003.parquet": ("000004", "000007"),
        "data/train-00002-of-00003.parquet": ("000008", "000011"),
    }


def test_what_was_made_before_a_crash_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = locate(tmp_path)
    monkeypatch.setattr(fusion, "PROMPTS_PER_PART", 4)
    given = given_steps(root, 12, 4)
    whole = given.fuse(root / "undisturbed")
    made: list[int] = []

    def crashing(join: Join) -> PartDone:
        made.append(join.part.number)
        if made == [0, 1]:
            raise KeyboardInterrupt
        return fuse_part(join)

    monkeypatch.setattr(fusion, "fuse_part", crashing)
    with pytest.raises(KeyboardInterrupt):
        given.fuse(root / "fused")
    assert given.fuse(root / "fused") == whole
    assert made == [0, 1, 1, 2]
    (root / "fused" / whole.files[2].path).delete()
    assert given.fuse(root / "fused") == whole
    assert made[4:] == [2]


@pytest.mark.parametrize("damage", ["not sealed", "another content"])
def test_a_record_that_does_not_hold_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    root, made = locate(tmp_path), []
    monkeypatch.setattr(fusion, "PROMPTS_PER_PART", 4)
    given = given_steps(root, 12, 4)
    whole = given.fuse(root / "fused")
    (record, *_) = [place for place in (root / "fused" / "scratch" / "parts").walk() if place.name.endswith(".json")]
    kept = record.read_sealed()
    if damage == "not sealed":
        record.write_json({**kept, "sha256": "0"})
    else:
        record.write_sealed({**kept, "files": [{**kept["files"][0], "num_bytes": 1, "sha256": "0"}]})
    monkeypatch.setattr(fusion, "fuse_part", lambda join: made.append(join.part.number) or fuse_part(join))
    assert given.fuse(root / "fused") == whole
    assert given.fuse(root / "fused") == whole
    assert made == [0]
    assert record.read_sealed() == kept


def test_parts_that_nobody_makes_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster whose CPUs are all held by others."""
    given, cancelled = given_steps(locate(tmp_path), 12, 4), []
    monkeypatch.setattr(fusion, "PROMPTS_PER_PART", 4)
    monkeypatch.setattr(parts, "_can_be_made_apart", lambda _: True)
    numbers = itertools.count()
    task = SimpleNamespace(remote=lambda *_: next(numbers))
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: task)
    monkeypatch.setattr(ray, "wait", lambda left, timeout, num_returns=1: ([], left))
    monkeypatch.setattr(ray, "cancel", lambda left, force: cancelled.append(left))
    with pytest.raises(InterruptedRunError, match=r"no part ended for 0.01 s") as caught:
        given.fuse(locate(tmp_path) / "fused", FaultsConfig(no_progress_timeout_s=0.01))
    assert (caught.value.code, cancelled) == ("WRPO-E004", [0, 1, 2])


def test_what_counts_is_for_the_start_to_say_that_reads_the_parts(tmp_path: Path) -> None:
    """Drop and quarantine leave the same rows out, so that what was made with one of them serves the other."""
    root, given = locate(tmp_path), given_steps(locate(tmp_path), 4, 4, characters=0)
    dropped = ROWS.model_copy(update={"response_cut": "drop", "max_rows": 0})
    cut = [ScoredResponse(f"{n:06d}", "c", 0, f"cut {n}", "length", 3, 0.0) for n in range(4)]
    sources = [*given.sources, in_files(root / "c", cut, ScoredResponse, [])]

    def fused(rows: RowsConfig) -> StepResult:
        return fuse(given.prompts, sources, given.target, (*SOURCES, "c"), rows, root / "fused")

    fused(dropped)
    with pytest.raises(QuarantineError, match=r"4 response_cut.*: 000000:c:0, 000001:c:0, 000002:c:0, 000003:c:0$"):
        fused(dropped.model_copy(update={"response_cut": "quarantine"}))
    fused(dropped)


def test_a_step_that_is_told_to_stop_does_so_after_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "PROMPTS_PER_PART", 4)
    grant = Grant(NOTHING)

    def stopping(join: Join) -> PartDone:
        grant.stop()
        return fuse_part(join)

    monkeypatch.setattr(fusion, "fuse_part", stopping)
    with granted(grant), pytest.raises(StepStoppedError):
        given_steps(locate(tmp_path), 12, 4).fuse(locate(tmp_path) / "fused")
    assert len((locate(tmp_path) / "fused" / "data").walk()) == 1


def test_what_was_made_from_other_files_is_made_again(tmp_path: Path) -> None:
    root = locate(tmp_path)
    first = given_steps(root / "first", 12, 4)
    other = dataclasses.replace(first, target=given_steps(root / "other", 12, 4, characters=20).target)
    first.fuse(root / "fused")
    assert other.fuse(root / "fused") == other.fuse(root / "undisturbed") != first.fuse(root / "third")


def test_parts_of_another_cut_do_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, given = locate(tmp_path) / "fused", given_steps(locate(tmp_path), 12, 4)
    monkeypatch.setattr(fusion, "PROMPTS_PER_PART", 4)
    given.fuse(folder)
    monkeypatch.setattr(fusion, "PROMPTS_PER_PART", 12)
    (entry,) = given.fuse(folder).files
    assert [place.relative_to(folder) for place in (folder / "data").walk()] == [entry.path]
    assert (entry.path, entry.num_rows) == ("data/train-00000-of-00001.parquet", 12)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "PROMPTS_PER_PART", 100)
    peaks = []
    for num_parts in (2, 8):
        root = locate(tmp_path / str(num_parts))
        given = given_steps(root, 100 * num_parts, 50, characters=2000)
        tracemalloc.start()
        given.fuse(root / "fused")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_files_are_grouped_in_their_order_up_to_a_number_of_rows() -> None:
    entries = tuple(
        FileEntry(str(number), 1, "0", rows, (str(number), str(number))) for number, rows in enumerate((3, 3, 5, 9, 1))
    )
    files = FilesOf(locate("/nowhere"), entries)
    groups = grouped(files, 6)
    assert [[entry.path for entry in group.entries] for group in groups] == [["0", "1"], ["2"], ["3"], ["4"]]
    assert [group.key_range for group in groups] == [("0", "1"), ("2", "2"), ("3", "3"), ("4", "4")]
    unknown = dataclasses.replace(entries[0], key_range=None)
    assert FilesOf(files.step, (unknown, *entries[1:])).key_range is None


@settings(max_examples=100, deadline=None)
@with_cases(
    ranges=st.lists(st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8),
    wanted=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_files_are_found_by_range(ranges: list[tuple[int, int] | None], wanted: tuple[int, int] | None) -> None:
    """As a look at each file would find them, overlapping or not, in the manifest's order."""
    known = [None if one is None else (str(min(one)), str(max(one))) for one in ranges]
    entries = tuple(FileEntry(str(number), 1, "0", 5, one) for number, one in enumerate(known))
    without_rows = FileEntry("none", 1, "0", 0, None)
    asked = None if wanted is None else (str(min(wanted)), str(max(wanted)))
    found = FilesByRange(FilesOf(locate("/nowhere"), (without_rows, *entries))).that_may_hold(asked)
    assert found.entries == tuple(entry for entry in entries if entry.may_hold(asked))
