"""The reference of the config says what the types say, and docs/config.md is what the code writes."""

from pathlib import Path

import pytest

from wrpo_ray.config import FuseConfig
from wrpo_ray.config_reference import explain_field, markdown, sections
from wrpo_ray.error_codes import main as explain_main

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:
    """Repair: `wrpo-ray explain --config-markdown > docs/config.md`."""
    assert (DOCS / "config.md").read_text(encoding="utf-8") == markdown()


def test_every_section_and_every_field_of_the_config_has_its_row() -> None:
    text = markdown()
    seen, todo = set(), [FuseConfig]
    for section in sections():
        seen.add(section.model)
        assert section.help, section.title
        todo += [held for field in section.fields for held in field.sections]
        for name in section.model.model_fields:
            assert f"| `{name}` |" in text
    assert seen == set(todo)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("wrpo.alpha.end", "number, at least 0 and at most 1; default: 0.1"),
        ("run.seed", "integer, at least 0 and below 4294967296; default: 42"),
        ("sources.any-name.engine.dtype", "auto or bfloat16 or float16 or float32; default: auto"),
        ("sources.path", "required"),
        ("min_sources", "none; default: none"),
        ("wrpo.deepspeed", "map of text to any JSON value; default: empty"),
    ],
)
def test_a_field_is_explained_with_its_bounds_and_default(path: str, said: str) -> None:
    found = explain_field(path)
    assert found is not None
    assert said in found.splitlines()[0]


def test_a_section_lists_its_fields() -> None:
    found = explain_field("wrpo.alpha") or ""
    assert "  num_stages: integer, at least 2; default: 4" in found.splitlines()


def test_what_may_be_one_of_two_sections_is_explained_for_both() -> None:
    found = explain_field("reward") or ""
    assert all(f"{title}: " in found for title in ("VllmReward", "TransformersReward", "VerifierReward"))


@pytest.mark.parametrize("path", ["", "nope", "wrpo.nope", "wrpo.alpha.end.more", "sources.a.b.c"])
def test_what_is_no_field_has_no_explanation(path: str) -> None:
    assert explain_field(path) is None


def test_the_command_explains_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    from argparse import Namespace

    assert explain_main(Namespace(code="wrpo.beta", markdown=False, config_markdown=False)) == 0
    assert capsys.readouterr().out.startswith("wrpo.beta: number, above 0; default: 0.01")
