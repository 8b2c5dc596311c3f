"""Every config in the repository is valid, and the paper's run is explained value by value."""

import re
from pathlib import Path

import pytest

from wrpo_ray.config_file import dump_config, load_config, parse_config

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / "jobs" / "configs").glob("*.yaml")
    if not path.name.startswith("study_")
)
PAPER = next(path for path in CONFIGS if path.name == "llama3_8b.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_config_is_valid(path: Path) -> None:
    config = load_config(path)
    assert parse_config(dump_config(config), "config.json") == config


def test_every_value_of_the_papers_run_has_a_comment_above_it() -> None:
    lines = PAPER.read_text(encoding="utf-8").splitlines()
    value = re.compile(r"^\s*(?:- )?[a-z_]+: \S")
    bare = [
        f"{number}: {line}"
        for number, line in enumerate(lines, start=1)
        if value.match(line) and not lines[number - 2].strip().startswith("#")
    ]
    assert bare == []


def test_the_papers_run_is_the_papers() -> None:
    config = load_config(PAPER)
    assert len(config.sources) == 10
    assert {(s.sampling.num_samples, s.sampling.temperature, s.sampling.top_p) for s in config.sources} == {
        (5, 0.8, 0.95)
    }
    assert (config.sft.learning_rate, config.wrpo.learning_rate, config.wrpo.beta) == (7e-6, 3e-7, 0.01)
    assert (config.wrpo.alpha.schedule, config.wrpo.alpha.end) == ("linear", 0.1)
    for train in (config.sft, config.wrpo):
        assert (train.global_batch_size, train.max_length, train.max_prompt_length) == (128, 2048, 1800)
        assert (train.lr_schedule, train.warmup_ratio, train.num_epochs, train.precision) == ("cosine", 0.1, 1, "bf16")
