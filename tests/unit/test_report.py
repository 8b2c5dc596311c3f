"""The report by hand-computed numbers, of runs in every state, and with texts that try to be markup."""

import dataclasses
import itertools
import json
import logging
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.report.synthetic_run import HOSTILE, NUM_SAMPLES, SOURCES, SyntheticRun, evaluation_by_contract, finished
from wrpo_ray.cli import main
from wrpo_ray.config import RunConfig
from wrpo_ray.errors import InterruptedRunError, LeaseError, ModelError, StorageError
from wrpo_ray.failures import read_failures
from wrpo_ray.planning.against import compare
from wrpo_ray.report import at_end
from wrpo_ray.report.allocated import allocation_table
from wrpo_ray.report.columns import RangeReader
from wrpo_ray.report.command import write_report
from wrpo_ray.report.contribution import against_words, chosen_of, rewards_of
from wrpo_ray.report.costs import costs, price_of, total_price, total_seconds
from wrpo_ray.report.evaluation import evaluation
from wrpo_ray.report.folder import RunFacts, read_facts
from wrpo_ray.report.html import embedded, policy
from wrpo_ray.report.lengths import lengths, lengths_of
from wrpo_ray.report.overview import standing
from wrpo_ray.report.page import SECTIONS, report_page
from wrpo_ray.report.parts import Chart, Section, Table, number
from wrpo_ray.report.quadruples import sample_of
from wrpo_ray.report.side_by_side import blocks, config_differences, flat
from wrpo_ray.report.training import training
from wrpo_ray.schema import ScoredResponse
from wrpo_ray.storage.lease import held
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.tables import write_rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SyntheticRun:
    return finished(tmp_path_factory.mktemp("runs") / "synthetic", evaluation=evaluation_by_contract())


@pytest.fixture(scope="module")
def facts(run: SyntheticRun) -> RunFacts:
    return read_facts(run.folder)


def by_name(section: Section) -> dict[str, Chart]:
    return {chart.name: chart for chart in section.charts}


def test_rewards_and_lengths_of_a_model_are_those_of_its_files(run: SyntheticRun, facts: RunFacts) -> None:
    rewards = [row.reward for row in run.responses(SOURCES[0])]
    counted = rewards_of(facts, SOURCES[0])
    kept = [reward for reward in rewards if reward == reward]
    assert (counted.count, counted.num_not_finite) == (run.num_prompts * NUM_SAMPLES - 1, 1)
    assert counted.mean == pytest.approx(sum(kept) / len(kept))
    assert (counted.low, counted.high) == (min(kept), max(kept))
    answers = lengths_of([facts.steps["evaluation-score"]])
    assert {name: (each.count, each.mean) for name, each in answers.items()} == {
        # Of 50 answers, numbers 0 to 39 and 0 to 9 are added: (780 + 45) / 50.
        "synthetic-llama": (50, 96.5), "target-sft": (50, 136.5), "fused": (50, 166.5),
    }  # fmt: skip


def test_mean_lengths_are_told_where_the_answers_are_not_at_hand(facts: RunFacts) -> None:
    without = {name: step for name, step in facts.steps.items() if name != "evaluation-score"}
    (first, *_) = lengths(dataclasses.replace(facts, steps=without)).charts
    assert [(row["label"], row["value"]) for row in first.data["rows"]] == [
        ("synthetic-llama", 98.5), ("target-sft", 139.0), ("fused", 171.25),
    ]  # fmt: skip


def test_best_of_the_sources_against_the_target(run: SyntheticRun, facts: RunFacts) -> None:
    rows = run.quadruples()
    chosen = chosen_of(facts.steps["fuse"])
    assert chosen.wins == sum(row.source_chosen_reward > row.target_chosen_reward for row in rows)
    assert chosen.wins + chosen.ties + chosen.losses == len(rows)
    gains = [row.source_chosen_reward - row.target_chosen_reward for row in rows]
    assert chosen.gain.mean == pytest.approx(sum(gains) / len(gains))
    assert f"{chosen.wins / len(rows):.1%} of {len(rows)}" in against_words(chosen)


def test_every_picture_of_a_finished_run_is_there(facts: RunFacts) -> None:
    sections = [make(facts) for make in SECTIONS]
    names = [chart.name for section in sections for chart in section.charts]
    assert names == [
        "win-share", "rewards", "source-against-target", "evaluation-rewards", "win-rates", "alpha",
        "internal-rewards", "margins", "accuracy", "loss", "grad-norm", "sft-loss", "sft-grad-norm",
        "lengths-before-after", "lengths-by-model", "planned-against-actual", "tokens", "outcomes",
    ]  # fmt: skip
    assert [reason for section in sections for reason in section.missing] == []
    assert all(chart.table.rows and chart.words for section in sections for chart in section.charts)


def test_win_share_is_the_summary_of_fuse(run: SyntheticRun, facts: RunFacts) -> None:
    rows = by_name(SECTIONS[0](facts))["win-share"].data["rows"]
    quadruples = run.quadruples()
    for row in rows:
        wins = sum(quadruple.source == row["label"] for quadruple in quadruples)
        assert row["value"] == pytest.approx(wins / len(quadruples), abs=1e-4)


def test_time_that_is_not_known_is_told(facts: RunFacts) -> None:
    assert "was started" not in costs(facts).words
    again = dataclasses.replace(facts, record={**facts.record, "epoch": 3})
    assert "The run was started 3 times: of a step that one start left unfinished" in costs(again).words


def test_every_number_that_is_drawn_is_in_a_table(facts: RunFacts) -> None:
    charts = [chart for make in SECTIONS for chart in make(facts).charts]
    assert {chart.kind for chart in charts} == {"bars", "lines", "histogram", "ranges"}
    for chart in charts:
        if chart.kind == "lines":
            steps = {step for series in chart.data["series"] for step, _ in series["points"]}
            assert [row[0] for row in chart.table.rows] == [number(step) for step in sorted(steps)], chart.name
        if chart.kind == "histogram":
            assert chart.bins is not None
            for column, series in enumerate(chart.data["series"], start=2):
                counts = [int(row[column].replace(",", "")) for row in chart.bins.rows]
                shares = [count / sum(counts) for count in counts if count]
                assert shares == pytest.approx([share for _, _, share in series["bins"]]), chart.name


def test_curves_are_thinned_and_keep_their_ends(run: SyntheticRun, facts: RunFacts) -> None:
    alpha = by_name(training(facts))["alpha"]
    points = alpha.data["series"][0]["points"]
    # 400 steps, two and two: the mean of steps 1 and 2 of alpha = 0.1 * step / 400 stands at step 2.
    assert len(points) == 200
    assert points[0] == (2.0, pytest.approx(0.1 * 1.5 / 400))
    assert points[-1][0] == 400


def test_price_is_accelerators_of_the_plan_times_actual_time(facts: RunFacts) -> None:
    stage = facts.record["plan"]["stages"][0]
    manifest = facts.manifests[stage["step"]]
    seconds = manifest.seconds
    prices = facts.config["prices"]
    # 2 replicas of 4 accelerators at 2.50 an hour.
    assert price_of(stage, [manifest], prices) == pytest.approx(2.5 * 8 * seconds / 3600)
    endpoint = stage | {"step": f"sample-{SOURCES[0]}", "endpoint": "api", "input_tokens": 1_000_000}
    per_token = {"per_million_tokens": {"api": {"input": 3.0, "output": 15.0}}}
    drawn = facts.manifests[endpoint["step"]]
    assert price_of(endpoint, [drawn], per_token) == pytest.approx(3.0 + 15.0 * 52_000 / 1e6)
    assert price_of(stage, [manifest], {}) is None
    assert total_price(facts) == pytest.approx(
        sum(2.5 * 8 * facts.manifests[each["step"]].seconds / 3600 for each in facts.record["plan"]["stages"])
    )


def test_both_loads_of_a_source_are_the_one_that_is_planned(facts: RunFacts) -> None:
    """With sampling.allocation a source is sampled twice: neither load is free, and neither is a step of its own."""
    name = f"sample-{SOURCES[0]}"
    step = facts.steps[name]
    assert step.manifest is not None
    pilot = dataclasses.replace(step.manifest, step=f"first-{name}", seconds=3600.0, summary={"num_tokens": 1000})
    first = dataclasses.replace(step, manifest=pilot)
    allocated = dataclasses.replace(facts, steps={f"first-{name}": first, **facts.steps})
    assert (total_price(allocated) or 0) - (total_price(facts) or 0) == pytest.approx(2.5 * 8)
    rows = {row.step: row for row in compare(allocated.record["plan"]["stages"], allocated.manifests)}
    assert f"first-{name}" not in rows
    assert rows[name].actual_s == step.manifest.seconds + 3600
    assert rows[name].actual_tokens == step.summary["num_tokens"] + 1000
    # What is paid is told while the second load is still to come.
    begun = dataclasses.replace(allocated, steps={f"first-{name}": first})
    assert total_price(begun) == pytest.approx(2.5 * 8)
    assert compare(begun.record["plan"]["stages"], begun.manifests)[0].actual_s is None


def test_what_other_runs_have_made_is_not_paid_twice(facts: RunFacts) -> None:
    step = facts.steps["wrpo"]
    elsewhere = dataclasses.replace(step, state=dataclasses.replace(step.state, run="other"))
    reusing = dataclasses.replace(facts, steps={**facts.steps, "wrpo": elsewhere})
    assert total_seconds(facts) - total_seconds(reusing) == pytest.approx(facts.manifests["wrpo"].seconds)
    assert "Not counted: 1 read from other runs" in SECTIONS[4](reusing).words


def test_sample_of_quadruples_depends_on_prompts_alone(run: SyntheticRun, facts: RunFacts) -> None:
    ten, all_of_them = sample_of(facts, 10), sample_of(facts, 1000)
    assert [each.prompt_id for each in ten] == [each.prompt_id for each in all_of_them[:10]]
    assert len(all_of_them) == len(run.quadruples())
    by_id = {row.prompt_id: row for row in run.quadruples()}
    row = by_id[ten[0].prompt_id]
    assert [response.text for response in ten[0].responses] == [row.source_chosen, row.target_chosen, row.rejected]
    assert ten[0].gain == row.source_chosen_reward - row.target_chosen_reward
    assert [response.is_unfinished for response in ten[0].responses] == [False, True, False]


def test_of_an_object_only_the_columns_that_are_wanted_are_fetched(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    texts = [random.bytes(500).hex() for _ in range(400)]
    rows = [ScoredResponse("p", "m", number, text, "stop", 3, number / 4) for number, text in enumerate(texts)]
    entry = write_rows(locate(tmp_path), "data/a.parquet", rows, ScoredResponse)
    content = (tmp_path / "data/a.parquet").read_bytes()
    fetched: list[int] = []

    def fetch(start: int, num_bytes: int) -> bytes:
        fetched.append(num_bytes)
        return content[start : start + num_bytes]

    file = pq.ParquetFile(pa.PythonFile(RangeReader(entry.num_bytes, fetch), "r"), pre_buffer=True)
    assert file.read(columns=["reward"]).column(0).to_pylist() == [number / 4 for number in range(400)]
    # Arrow reads the end of a file in one go, the columns' places among it.
    assert sum(fetched) < entry.num_bytes / 2


def test_allocation_tells_what_its_audit_measured(facts: RunFacts) -> None:
    assert allocation_table(facts) is None
    about = {"value": 0.9, "low": 0.85, "high": 0.95}
    names = ("same_response", "same_source", "same_reward", "regret", "gain_share")
    audit = dict.fromkeys(names, about) | {"num_prompts": 40, "token_share": 0.31, "cost_share": 0.3}
    summary = {"audit": audit, "findings": ["little is saved"]}
    manifest = dataclasses.replace(facts.manifests["fuse"], summary=summary)
    step = dataclasses.replace(facts.steps["fuse"], manifest=manifest)
    table = allocation_table(dataclasses.replace(facts, steps={"allocate": step}))
    assert table is not None
    assert table.rows[0][1:] == ("90.0%", "[85.0%, 95.0%]")
    assert table.rows[-2][1] == "31.0%"
    assert table.words.endswith("Little is saved.")


class Tags(HTMLParser):
    """Counts elements, and notes those that are closed in another order than they were opened."""

    VOID = frozenset({"meta", "input", "br", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    tags.close()
    return tags


def test_page_is_well_formed_and_text_stays_text(facts: RunFacts) -> None:
    page = report_page(facts)
    tags = parsed(page)
    assert (tags.open, tags.wrong) == ([], [])
    names = [tag for tag, _ in tags.seen]
    # Two libraries, our own script, and the numbers; nothing that a prompt, a response or an error brought along.
    assert names.count("script") == 4
    assert not {"img", "link", "iframe", "b"} & (set(names) - {"b"})
    assert [attributes for tag, attributes in tags.seen if tag == "b" if attributes] == []
    assert HOSTILE not in page
    assert all(not name.startswith("on") for _, attributes in tags.seen for name in attributes)
    assert all("style" not in attributes for _, attributes in tags.seen)
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    headings = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    # A page that is asked for nothing: no address of anything, but names inside it.
    assert all((attributes.get("href") or "#").startswith("#") for _, attributes in tags.seen)
    assert all("src" not in attributes for _, attributes in tags.seen)


def test_policy_allows_what_is_in_the_page_by_hash_alone() -> None:
    # SHA-256 of "" in base64.
    empty = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
    told = policy([""], [""])
    assert told == (
        f"default-src 'none'; script-src {empty}; style-src {empty}; base-uri 'none'; form-action 'none'"
    )  # fmt: skip
    assert "unsafe" not in told


def test_embedded_numbers_cannot_end_their_script() -> None:
    table = Table(("a",), (("1",),))
    chart = Chart("c", "</script><!--", "& \u2028", "bars", {"rows": [float("nan"), 1 / 3]}, table)
    text = embedded([chart])
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text)["c"]["title"] == "</script><!--"
    assert json.loads(text)["c"]["data"]["rows"] == [None, 0.333333]


def test_evaluation_of_todays_step_and_of_the_contract(tmp_path: Path, facts: RunFacts) -> None:
    full = evaluation(facts)
    assert [table.title for table in full.tables] == ["Gain", "Safety", "Benchmarks", "Every comparison"]
    plain = read_facts(finished(tmp_path / "plain", num_prompts=12).folder)
    section = evaluation(plain)
    assert [chart.name for chart in section.charts] == ["evaluation-rewards"]
    assert section.charts[0].table.rows[2][:3] == ("fused", "0.43", "[0.4, 0.46]")
    assert [reason.split(":")[0] for reason in section.missing] == ["Win rates", "Safety", "Benchmarks"]
    newer = SyntheticRun(locate(tmp_path / "newer"), num_prompts=12, evaluation={"format": 2, "models": []}).run()
    with pytest.raises(StorageError, match="format 2, this version reads format 1"):
        evaluation(read_facts(newer.folder))


def test_pairs_of_which_nothing_was_decided_have_no_rate(tmp_path: Path) -> None:
    told = evaluation_by_contract()
    nothing = dict.fromkeys(name for name in told["pairs"][0] if name.endswith(("win_rate", "low", "high")))
    told["pairs"][0] |= nothing | {"num_prompts": 0, "wins": 0, "ties": 0, "losses": 0, "words": "nobody knows"}
    told["models"].append({"name": "silent", "num_answers": 0} | dict.fromkeys(
        ("mean_tokens", "mean_reward", "reward_low", "reward_high")
    ))  # fmt: skip
    facts = read_facts(SyntheticRun(locate(tmp_path / "run"), num_prompts=12, evaluation=told).run().folder)
    section = evaluation(facts)
    assert len(by_name(section)["win-rates"].data["rows"]) == 5
    assert [row["label"] for row in by_name(section)["evaluation-rewards"].data["rows"]][-1] == "fused"
    assert section.words.startswith("By the reward: nobody knows. By the rule: ")
    assert len(section.tables[-1].rows) == 6


def test_run_that_has_just_begun(tmp_path: Path) -> None:
    SyntheticRun(locate(tmp_path / "run")).submit()
    begun = read_facts(locate(tmp_path / "run"))
    assert standing(begun) == "not begun"
    missing = [reason for make in SECTIONS for reason in make(begun).missing]
    assert "Win share by source: the step fuse has not begun." in missing
    assert "Curves of preference training: the step wrpo has not begun." in missing
    assert (parsed(report_page(begun)).open, "<figure" in report_page(begun)) == ([], True)


def test_run_under_way_shows_what_there_is(tmp_path: Path) -> None:
    run = SyntheticRun(locate(tmp_path / "run")).run("fuse").half_trained(150)
    with held(run.layout.leases, 60):
        facts = read_facts(run.folder)
    assert standing(facts) == "running"
    section = training(facts)
    assert "wrpo is at optimizer step 150 of 400" in section.words
    # The line that is half written is left out.
    assert by_name(section)["loss"].data["series"][0]["points"][-1][0] == 150


def test_failed_run_shows_its_error_until_the_step_is_done(tmp_path: Path) -> None:
    message = f"the loss of step 151 is nan\n{HOSTILE}"
    run = SyntheticRun(locate(tmp_path / "run")).run("fuse").half_trained(150).fail("wrpo", message)
    facts = read_facts(run.folder)
    assert standing(facts) == "failed"
    page = report_page(facts)
    assert "The last start failed at step wrpo" in page
    assert "the loss of step 151 is nan\n&lt;/script&gt;" in page
    assert "the step evaluate has not begun" in page
    run.run(submitted=False)
    assert standing(read_facts(run.folder)) == "finished"


def test_note_of_a_failure_tells_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTHETIC_API_TOKEN", "synthetic-secret-value")
    run = SyntheticRun(locate(tmp_path / "run"))
    run.fail("sft", "first").fail("wrpo", "401 for synthetic-secret-value")
    first, failure = read_failures(run.folder)
    assert first.step == "sft"
    assert (failure.step, failure.code, failure.error) == ("wrpo", "WRPO-T004", "401 for [redacted]")


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", num_prompts=12)
    place = run.step("fuse").folder(run.layout) / "data/train-00000.parquet"
    place.write_bytes(b"no Parquet")
    with pytest.raises(StorageError, match=r"train-00000.parquet is no Parquet file"):
        write_report(run.folder)
    rows = [ScoredResponse("p", "m", 0, "text", "stop", 1, 0.5)]
    write_rows(run.step("fuse").folder(run.layout), "data/train-00000.parquet", rows, ScoredResponse)
    with pytest.raises(StorageError, match="lacks the columns source_chosen_reward"):
        write_report(run.folder)
    place.delete()
    facts = read_facts(run.folder)
    assert standing(facts) == "damaged"
    assert "train-00000.parquet" in report_page(facts)


def test_commands(run: SyntheticRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sub" / "page.html"
    assert main(["report", str(run.folder), "--out", str(out), "--quadruples", "3"]) == 0
    assert out.read_text(encoding="utf-8").count('<article class="quadruple"') == 3
    assert main(["report", str(run.folder)]) == 0
    assert (run.folder / "report.html").exists()
    assert main(["report", str(run.folder), "--quadruples", "-1"]) == 2
    assert main(["compare", str(run.folder)]) == 2
    assert main(["report", str(tmp_path / "nothing")]) == 2
    shown = capsys.readouterr()
    assert str(out) in shown.out
    assert shown.err.count("WRPO-C067") == 2
    assert "is no run" in shown.err


def test_report_in_the_folder_disturbs_nobody(run: SyntheticRun, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(run.folder)
    run.fail("wrpo", "an old error")
    assert main(["status", str(run.folder)]) == 0
    assert main(["inspect", str(run.folder)]) == 0


def test_compare(tmp_path: Path, run: SyntheticRun, capsys: pytest.CaptureFixture[str]) -> None:
    other = finished(tmp_path / "other", num_steps=20, alpha=0.3, seed=1)
    page = tmp_path / "compare.html"
    assert main(["compare", str(run.folder), str(other.folder), "--html", str(page)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "wrpo.alpha.end 0.1 0.3" in lines
    assert "step 400 20" in lines
    assert "reward of fused 0.43 [0.39, 0.47] 0.43 [0.4, 0.46]" in lines
    assert not any(line.startswith(("run.name", "wrpo.beta")) for line in lines)
    tags = parsed(page.read_text(encoding="utf-8"))
    assert (tags.open, tags.wrong) == ([], [])
    assert [attributes["data-chart"] for tag, attributes in tags.seen if tag == "figure"] == [
        "win-shares", "rewards-margins", "rewards-accuracies", "alpha", "loss",
    ]  # fmt: skip
    assert [block.title for block in blocks([read_facts(other.folder)] * 2) if not block.rows] == [
        "config, where it differs"
    ]


def test_configs_are_flattened_by_name(facts: RunFacts) -> None:
    config = {"sources": [{"name": "q", "sampling": {"n": 2}}], "empty": {}, "list": [1, "a"], "text": "2"}
    assert flat(config) == {
        "sources.q.name": "q", "sources.q.sampling.n": "2", "empty": "{}", "list": '[1, "a"]', "text": "2",
    }  # fmt: skip
    assert config_differences([facts, facts]).rows == ()


@pytest.mark.parametrize(
    ("error", "written"),
    [
        (None, True),
        (ModelError("broken"), True),
        (KeyError("a bug"), True),
        (KeyboardInterrupt(), False),
        (LeaseError("held"), False),
        (InterruptedRunError("told"), False),
    ],
)
def test_report_at_the_end(
    error: BaseException | None, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(at_end, "leave_report", calls.append)

    def body() -> None:
        with at_end.Reported(RunConfig(name="run", root=str(tmp_path))):
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            body()
    else:
        body()
    assert [str(each) for each in calls] == ([str(tmp_path / "run")] if written else [])


def test_report_by_a_process_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = finished(tmp_path / "run", num_prompts=12)
    assert at_end.leave_report(run.folder)
    assert "<figure" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    # What goes wrong there is said, and goes no further.
    with caplog.at_level(logging.WARNING):
        assert not at_end.leave_report(locate(tmp_path / "nothing"))
        assert not at_end.leave_report(run.folder, timeout_s=0.001)
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.startswith("no report: ") for message in told] == [True, True]
    assert "is no run: it has no submissions/ folder" in told[0]


@pytest.mark.parametrize(
    ("value", "shown"), [(1234567.0, "1,234,567"), (0.123456, "0.1235"), (None, ""), (float("nan"), "nan"), (-2, "-2")]
)
def test_numbers_as_they_are_shown(value: float | None, shown: str) -> None:
    assert number(value) == shown
