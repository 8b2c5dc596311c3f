"""Selection over files: winners, counts, and joins by prompt_id."""

import json
from pathlib import Path

import pytest

from wrpo_ray.config import RowsConfig
from wrpo_ray.data.exporters import to_trl_preference, to_wrpo_release
from wrpo_ray.data.fusion import fuse, select_sft
from wrpo_ray.errors import QuarantineError
from wrpo_ray.schema import Prompt, Quadruple, ScoredResponse, SFTExample
from wrpo_ray.selection import SourceChoice
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import Manifest, RunLayout
from wrpo_ray.storage.tables import read_rows, write_rows

MESSAGES = [{"role": "user", "content": "?"}]
ROWS = RowsConfig(max_fraction=1.0)


def scored(
    layout: RunLayout, source: str, rewards: dict[str, list[float]], texts: dict[str, list[str]] | None = None
) -> Location:
    """Write a finished scoring step, one prompt per file."""

    def run(folder: Location) -> StepResult:
        files = []
        for number, (prompt_id, values) in enumerate(rewards.items()):
            rows = [
                ScoredResponse(
                    prompt_id,
                    source,
                    index,
                    (texts or {}).get(prompt_id, [f"{source}-{prompt_id}-{index}"] * 9)[index],
                    "stop",
                    3,
                    value,
                )
                for index, value in enumerate(values)
            ]
            files.append(write_rows(folder, f"data/shard-{number:06d}.parquet", rows, ScoredResponse))
        return StepResult(tuple(files), {})

    step = Step(f"score-{source}", {}, (), run)
    execute(step, layout, {})
    return step.folder(layout)


def prompts(layout: RunLayout, splits: dict[str, str]) -> Location:
    rows = [Prompt(prompt_id, MESSAGES, split, None) for prompt_id, split in splits.items()]  # pyright: ignore[reportArgumentType]
    step = Step("prompts", {}, (), lambda folder: StepResult((write_rows(folder, "data/p.parquet", rows, Prompt),), {}))
    execute(step, layout, {})
    return step.folder(layout)


def test_select_sft_takes_the_best_of_all_sources_for_the_sft_split_only(tmp_path: Path) -> None:
    layout = RunLayout(locate(tmp_path))
    given = prompts(layout, {"p1": "sft", "p2": "sft", "p3": "preference", "p4": "sft"})
    a = scored(layout, "a", {"p1": [0.1, 0.9], "p2": [0.5, 0.5], "p3": [1.0, 1.0]})
    b = scored(layout, "b", {"p2": [0.4, 0.5], "p1": [0.3, 0.2], "p4": [float("nan"), float("inf")]})

    step = Step("select_sft", {}, (), lambda folder: select_sft(given, [a, b], ["b", "a"], ROWS, folder))
    manifest = execute(step, layout, {})
    rows = read_rows(step.folder(layout), SFTExample)
    assert [(row.prompt_id, row.source, row.response, row.reward) for row in rows] == [
        ("p1", "a", "a-p1-1", 0.9),
        ("p2", "b", "b-p2-1", 0.5),
    ]
    assert manifest.summary == {
        "num_prompts": 3, "num_examples": 2, "num_without_source_response": 1, "best_share": {"b": 0.5, "a": 0.5},
        "rows": {"reward_not_finite": 2},
    }  # fmt: skip


def test_fuse_joins_by_prompt_id_and_counts_every_prompt_once(tmp_path: Path) -> None:
    layout = RunLayout(locate(tmp_path))
    names = ("good", "tie", "no_source", "no_target", "sft")
    given = prompts(layout, {name: "sft" if name == "sft" else "preference" for name in names})
    source = scored(layout, "s", {"sft": [9.0], "no_target": [1.0], "tie": [1.0], "good": [0.2, 0.8]})
    target = scored(layout, "target-sft", {"no_source": [0.0, 1.0], "tie": [0.5, 0.5], "good": [0.1, -0.4, 0.3]})
    step = Step("fuse", {}, (), lambda folder: fuse(given, [source], target, ["s"], ROWS, folder))
    manifest = execute(step, layout, {})
    (row,) = read_rows(step.folder(layout), Quadruple)
    assert (row.prompt_id, row.source, row.source_chosen, row.target_chosen, row.rejected) == (
        "good", "s", "s-good-1", "target-sft-good-2", "target-sft-good-1"
    )  # fmt: skip
    assert (row.source_chosen_reward, row.target_chosen_reward, row.rejected_reward) == (0.8, 0.3, -0.4)
    assert manifest.summary == {
        "num_prompts": 4, "num_quadruples": 1, "num_without_source_response": 1,
        "num_fewer_than_two_target_responses": 1,
        "num_target_responses_tie": 1, "num_source_response_is_rejected": 0, "best_share": {"s": 1.0}, "rows": {},
    }  # fmt: skip
    assert manifest.files[0].path == "data/train-00000-of-00001.parquet"


def fused(layout: RunLayout, rows: RowsConfig, texts: list[str], rewards: list[float]) -> tuple[Manifest, Location]:
    """Fuse one prompt whose three target responses are given, with a source response that is fine."""
    given = prompts(layout, {"p": "preference"})
    source = scored(layout, "s", {"p": [0.8, 0.9]}, {"p": ["fine", "fine too"]})
    target = scored(layout, "target-sft", {"p": rewards}, {"p": texts})
    identity = rows.model_dump(mode="json")
    step = Step("fuse", identity, (), lambda folder: fuse(given, [source], target, ["s"], rows, folder))
    return execute(step, layout, {}), step.folder(layout)


def test_policies_decide_what_becomes_of_empty_responses(tmp_path: Path) -> None:
    texts, rewards = ["good", " \n", "bad"], [0.9, -5.0, 0.1]
    dropped, folder = fused(RunLayout(locate(tmp_path / "drop")), ROWS, texts, rewards)
    assert read_rows(folder, Quadruple)[0].rejected == "bad"
    assert dropped.summary["rows"] == {"response_empty": 1}
    listed = json.loads((folder / "quarantine/response_empty.jsonl").read_bytes())
    assert (listed["item"], listed["code"]) == ("p:target-sft:1", "response_empty")
    kept, folder = fused(RunLayout(locate(tmp_path / "keep")), RowsConfig(response_empty="keep"), texts, rewards)
    assert read_rows(folder, Quadruple)[0].rejected == " \n"
    assert kept.summary["rows"] == {"response_empty": 1}


def test_quarantined_rows_over_the_budget_stop_the_step_and_name_it(tmp_path: Path) -> None:
    rows = RowsConfig(response_empty="quarantine", max_fraction=0.1)
    with pytest.raises(QuarantineError, match=r"fuse: 1 of 5 rows were set aside \(1 response_empty\), 0 are allowed"):
        fused(RunLayout(locate(tmp_path / "a")), rows, ["good", " ", "bad"], [0.9, -5.0, 0.1])
    layout = RunLayout(locate(tmp_path / "b"))
    fused(layout, rows.model_copy(update={"max_fraction": 0.2}), ["good", " ", "bad"], [0.9, -5.0, 0.1])


def test_no_text_is_chosen_and_rejected_at_once(tmp_path: Path) -> None:
    layout = RunLayout(locate(tmp_path))
    given = prompts(layout, {"p": "preference", "q": "preference"})
    source = scored(layout, "s", {"p": [0.0], "q": [0.0]}, {"p": ["wrong"], "q": ["also wrong"]})
    texts = {"p": ["right", "wrong"], "q": ["right", "wrong"]}
    target = scored(layout, "target-sft", {"p": [1.0, 0.0], "q": [1.0, 0.0]}, texts)
    step = Step("fuse", {}, (), lambda folder: fuse(given, [source], target, ["s"], ROWS, folder))
    manifest = execute(step, layout, {})
    assert [row.prompt_id for row in read_rows(step.folder(layout), Quadruple)] == ["q"]
    assert manifest.summary["num_source_response_is_rejected"] == 1
    assert (step.folder(layout) / "quarantine/source_response_is_rejected.jsonl").exists()


def test_identical_responses_of_all_sources_are_counted_and_left_out_on_request(tmp_path: Path) -> None:
    layout = RunLayout(locate(tmp_path))
    given = prompts(layout, {"same": "sft", "other": "sft"})
    a = scored(layout, "a", {"same": [0.5, 0.6], "other": [0.5, 0.6]}, {"same": ["x", "x"], "other": ["x", "y"]})
    b = scored(layout, "b", {"same": [0.7], "other": [0.1]}, {"same": ["x"], "other": ["x"]})
    for policy, expected in (("keep", 2), ("drop", 1)):
        rows = RowsConfig(responses_identical=policy)  # pyright: ignore[reportArgumentType]
        step = Step(
            "select_sft", {"policy": policy}, (),
            lambda folder, rows=rows: select_sft(given, [a, b], ["a", "b"], rows, folder),
        )  # fmt: skip
        manifest = execute(step, layout, {})
        assert manifest.summary["num_examples"] == expected
        assert manifest.summary["rows"] == {"responses_identical": 1}


def test_load_dataset_reads_quadruples_and_exports(tmp_path: Path) -> None:
    from datasets import load_dataset

    quadruple = Quadruple("p", MESSAGES, "ws", "wt", "l", "s", 0.8, 0.3, -0.4, "stop", "stop", "length")
    several = Quadruple(
        "q",
        [{"role": "system", "content": "x"}, *MESSAGES],
        "ws",
        "wt",
        "l",
        "s",
        0.8,
        0.3,
        -0.4,
        "stop",
        "stop",
        "length",
    )
    write_rows(locate(tmp_path), "data/train-00000-of-00001.parquet", [quadruple], Quadruple)
    (row,) = load_dataset(
        "parquet", data_files=str(tmp_path / "data/train-*.parquet"), split="train", cache_dir=tmp_path / "c"
    )
    assert row["source_chosen"] == "ws"
    assert row["messages"] == MESSAGES
    pairs = to_trl_preference([quadruple], "t").to_pylist()
    shown = [(pair["chosen"][0]["content"], pair["rejected"][0]["content"], pair["chosen_source"]) for pair in pairs]
    assert shown == [("ws", "l", "s"), ("wt", "l", "t")]
    assert to_wrpo_release([quadruple, several]).to_pylist() == [
        {
            "prompt_id": "p",
            "prompt": {"content": "?", "role": "user"},
            "chosen": [{"content": "ws", "role": "assistant"}, {"content": "wt", "role": "assistant"}],
            "rejected": [{"content": "l", "role": "assistant"}],
        }
    ]


def test_rank_2_takes_the_second_best_over_all_sources_and_leaves_out_prompts_without_one(tmp_path: Path) -> None:
    layout = RunLayout(locate(tmp_path))
    given = prompts(layout, {"p1": "preference", "p2": "preference", "p3": "preference", "s": "sft"})
    same = {"p3": ["only"] * 9}
    a = scored(layout, "a", {"p1": [0.1, 0.9], "p2": [0.9, 0.8], "p3": [0.5, 0.4], "s": [1.0]}, same)
    b = scored(layout, "b", {"p2": [0.4, 0.85], "p1": [0.3, 0.2], "p3": [0.6], "s": [0.5, 0.7]}, same)
    t = scored(layout, "t", {"p1": [0.0, 1.0], "p2": [0.0, 1.0], "p3": [0.0, 1.0]})
    rows = RowsConfig(max_fraction=1.0, responses_identical="keep")

    def chosen(rank: int) -> list[tuple[str, str]]:
        fuse_step = Step(
            "fuse",
            {"r": rank},
            (),
            lambda folder: fuse(given, [a, b], t, ["a", "b"], rows, folder, None, SourceChoice(rank)),
        )
        execute(fuse_step, layout, {})
        return [(row.prompt_id, row.source_chosen) for row in read_rows(fuse_step.folder(layout), Quadruple)]

    assert chosen(1) == [("p1", "a-p1-1"), ("p2", "a-p2-0"), ("p3", "only")]
    assert chosen(2) == [("p1", "b-p1-0"), ("p2", "b-p2-1")]
    step = Step(
        "sel", {}, (), lambda folder: select_sft(given, [a, b], ["a", "b"], rows, folder, None, SourceChoice(2))
    )
    execute(step, layout, {})
    assert [row.response for row in read_rows(step.folder(layout), SFTExample)] == ["b-s-1"]


def test_the_worst_of_target_and_sources_is_rejected_unless_it_is_chosen(tmp_path: Path) -> None:
    layout = RunLayout(locate(tmp_path))
    given = prompts(layout, {f"p{number}": "preference" for number in range(1, 6)})
    # p1: b's is worst. p2: the target's is worst. p3: a tie, the target's stays. p4: the one source response is y_ws.
    # p5: the worst source response says what y_wt says.
    a = scored(layout, "a", {"p1": [0.3, 0.9], "p2": [0.5], "p3": [0.1, 0.8], "p4": [-1.0], "p5": [0.9]})
    texts = {"p5": ["same"] * 9}
    b = scored(layout, "b", {"p1": [-0.5, 0.2], "p2": [float("nan")], "p3": [0.4], "p5": [-2.0]}, texts)
    t = scored(layout, "t", {f"p{number}": [0.1, 1.0] for number in range(1, 6)}, {"p5": ["low", "same"]})

    def run(folder: Location) -> StepResult:
        return fuse(given, [a, b], t, ["a", "b"], ROWS, folder, None, SourceChoice(may_be_rejected=True))

    step = Step("fuse", {}, (), run)
    execute(step, layout, {})
    rows = {row.prompt_id: row for row in read_rows(step.folder(layout), Quadruple)}
    assert {name: (row.rejected, row.rejected_reward) for name, row in rows.items()} == {
        "p1": ("b-p1-0", -0.5), "p2": ("t-p2-0", 0.1), "p3": ("t-p3-0", 0.1), "p4": ("t-p4-0", 0.1), "p5": ("low", 0.1),
    }  # fmt: skip
    assert {row.target_chosen_reward for row in rows.values()} == {1.0}
