"""Tables and figures of the miniature, over made-up scores of a few prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.miniature import results
from jobs.miniature.figures import write_figures
from jobs.miniature.gathered import FUSED, TARGET, TARGET_SFT, Gathered, Quadruples, Variant
from jobs.miniature.results import STUDY, TABLES
from jobs.miniature.scores import Asked, Scored, by_skill, gain, read_asked
from jobs.miniature.tables import all_tables
from wrpo_ray.config_study import StudyFile
from wrpo_ray.errors import ConfigError
from wrpo_ray.schema import prompt_id
from wrpo_ray.study.expand import named_changes
from wrpo_ray.yaml_loader import parse_yaml

TESTED = {"p1": Asked("capitals", "Paris"), "p2": Asked("capitals", "Paris"), "p3": Asked("roman", "IX")}


def scored(*values: float) -> Scored:
    return Scored(dict(zip(TESTED, values, strict=True)))


def variant(*fused: float, sources: dict[str, Scored] | None = None) -> Variant:
    scores = {TARGET: scored(0, 0, 0), TARGET_SFT: scored(0.1, 0.1, 0.1), FUSED: scored(*fused), **(sources or {})}
    metrics = [
        {
            "step": step,
            "rewards/source_chosen": 0.01 * step,
            "rewards/target_chosen": 0.02 * step,
            "rewards/rejected": -0.03 * step,
            "rewards/margins": 0.05 * step,
            "rewards/accuracies_source": 0.5,
        }
        for step in range(1, 31)
    ]
    at_end = {name: 29.0 * value for name, value in metrics[0].items() if name.startswith("rewards")}
    return Variant(scores, Quadruples(1000, 0.9, 0.6, 0.1), metrics, {**at_end, "rewards/accuracies_source": 0.5})


def test_a_skill_is_the_mean_over_its_prompts():
    assert by_skill(scored(0.2, 0.4, 0.9), TESTED) == {"capitals": pytest.approx(0.3), "roman": pytest.approx(0.9)}


def test_a_gain_is_taken_prompt_by_prompt_and_facts_are_resampled():
    better, baseline = [scored(1.0, 1.0, 0.0), scored(1.0, 0.0, 0.0)], [scored(0.0, 0.0, 0.0), scored(0.0, 0.0, 0.0)]
    value, interval, own = gain(better, baseline, TESTED)
    assert own == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    assert value == pytest.approx(0.5)
    # Two facts, of means 0.75 and 0: a resample has either twice, or both.
    assert (interval.low, interval.high) == (0.0, 0.75)


def test_prompts_that_one_of_the_two_lacks_do_not_count():
    value, _, _ = gain([scored(1.0, 1.0, 1.0)], [Scored({"p1": 0.5})], TESTED)
    assert value == 0.5


def test_prompts_are_known_by_their_ids(tmp_path: Path):
    file = tmp_path / "heldout.jsonl"
    file.write_text(json.dumps({"prompt": "Capital of France?", "answer": "Paris", "domain": "capitals"}) + "\n")
    assert read_asked(file) == {
        prompt_id([{"role": "user", "content": "Capital of France?"}]): Asked("capitals", "Paris")
    }


@pytest.fixture
def gathered() -> Gathered:
    study = StudyFile.model_validate(parse_yaml(Path(STUDY).read_text(encoding="utf-8"), STUDY))
    names = {run.name.rsplit("-seed-", 1)[0] for run in named_changes(study)}
    variants = {name: {1: variant(0.5, 0.5, 0.5), 2: variant(0.7, 0.7, 0.7)} for name in names}
    variants["dpo"] = {1: variant(0.2, 0.2, 0.2), 2: variant(0.2, 0.2, 0.2)}
    variants["wrpo"] = {1: variant(0.5, 0.5, 0.5, sources={"s": scored(1, 1, 0)}), 2: variant(0.7, 0.7, 0.7)}
    return Gathered(variants, TESTED, ("s",))


def test_the_tables_name_runs_that_the_study_has(gathered: Gathered):
    tables = all_tables(gathered)
    assert "| s | 1.00 | 0.00 | 0.667 |" in tables
    assert "| **Target-SFT-WRPO** | 0.60 | 0.60 | 0.600 |" in tables
    assert "| WRPO_DPO | 0.600 | +0.400 [+0.400, +0.400] | dpo | +0.300, +0.500 |" in tables
    assert "| DPO | 0.200 | +0.100 [+0.100, +0.100] | its target-sft | +0.100, +0.100 |" in tables
    assert "| wrpo | 1,000 | 0.900 | 0.600 | 0.100 |" in tables
    assert "| hybrid | +0.29 | +0.58 | -0.87 | +1.45 | 0.50 |" in tables


def test_a_table_is_over_the_seeds_that_all_of_its_runs_have(gathered: Gathered):
    variants = {**gathered.variants, "ipo": {2: variant(0.3, 0.3, 0.3)}}
    tables = all_tables(Gathered(variants, gathered.asked, gathered.sources))
    third = tables.partition("### Table 3")[2].partition("### Table 4")[0]
    assert "Seeds: 2." in third
    assert "| WRPO_DPO | 0.700 | +0.500 [+0.500, +0.500] | dpo | +0.500 |" in third
    assert tables.count("Seeds: 1, 2.") == 7


def test_runs_without_a_seed_in_common_are_not_compared_and_other_tables_are_made(gathered: Gathered, tmp_path: Path):
    pytest.importorskip("matplotlib")
    variants = {**gathered.variants, "ipo": {3: variant(0.3, 0.3, 0.3)}}
    part = Gathered(variants, gathered.asked, gathered.sources)
    tables = all_tables(part)
    third = tables.partition("### Table 3")[2].partition("### Table 4")[0]
    assert "No seed has finished all of these runs (dpo: 1, 2; " in third
    assert "ipo: 3" in third
    assert "|" not in third
    assert "| 1 | 0.600 |" in tables
    write_figures(Gathered({**gathered.variants, "dpo": {3: variant(0.3, 0.3, 0.3)}}, TESTED, ("s",)), tmp_path)
    for name in ("figure_3.svg", "figure_5.svg"):
        assert "no seed has finished all of these runs" in (tmp_path / name).read_text(encoding="utf-8")


def test_what_is_not_finished_is_named_and_left_out(gathered: Gathered, tmp_path: Path):
    pytest.importorskip("matplotlib")
    variants = {name: runs for name, runs in gathered.variants.items() if name not in ("last-5", "static-0.1", "dpo")}
    part = Gathered(variants, gathered.asked, gathered.sources)
    tables = all_tables(part)
    assert tables.count("Not finished: last-5.") == 2
    assert "best of the other five" not in tables
    assert "Not finished: static-0.1, dpo." in tables
    write_figures(part, tmp_path)
    assert (tmp_path / "figure_5.svg").is_file()


def test_the_figures_are_drawn(gathered: Gathered, tmp_path: Path):
    pytest.importorskip("matplotlib")
    write_figures(gathered, tmp_path)
    for name in ("figure_3.svg", "figure_5.svg"):
        assert (tmp_path / name).read_text(encoding="utf-8").lstrip().startswith("<?xml")


def test_the_tables_of_a_page_are_replaced_and_its_prose_stays(
    gathered: Gathered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(results, "gather", lambda study: gathered)
    page = tmp_path / "miniature.md"
    page.write_text(f"# What was found\n\n{TABLES}\n\nan older table\n", encoding="utf-8")
    assert results.write(STUDY, page) == 0
    assert page.read_text(encoding="utf-8") == f"# What was found\n\n{TABLES}\n\n{all_tables(gathered)}"
    assert (tmp_path / "miniature" / "figure_3.svg").is_file()


def test_a_page_without_the_line_above_the_tables_is_left_as_it_is(tmp_path: Path):
    page = tmp_path / "miniature.md"
    page.write_text("# Prose only\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no line that says where the tables begin"):
        results.write(STUDY, page)
    assert page.read_text(encoding="utf-8") == "# Prose only\n"
