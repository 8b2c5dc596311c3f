"""What the README shows must work."""

import re
from pathlib import Path

from wrpo_ray.config_file import parse_config

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_config_in_the_readme_is_a_valid_one() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    config = parse_config(example, "README.md", ["wrpo.beta=0.02", "sources.qwen.sampling.num_samples=8"])
    assert config.sources[0].sampling.num_samples == 8
    assert config.sources[0].engine.max_num_seqs == 512
    assert config.wrpo.beta == 0.02


def test_every_file_that_the_readme_links_to_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (Path(__file__).parents[2] / link).exists()] == []


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README
