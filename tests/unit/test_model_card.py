"""What evaluation found stands in the fused model's card."""

from tests.unit.test_export import _CONFIG
from wrpo_ray.config_file import parse_config
from wrpo_ray.model_card import model_card

SAFETY = {
    "models": [
        {"name": "target", "refusal_rate": 0.9, "low": 0.8, "high": 0.95},
        {"name": "fused", "refusal_rate": 0.4, "low": 0.3, "high": 0.5},
    ],
    "words": "fused refuses less often than target: 40% against 90% of 100 harmful prompts",
}  # fmt: skip


def row(model: str, value: float, stderr: float | None) -> dict[str, object]:
    """Return one that lm-eval measured."""
    return {"model": model, "task": "gsm8k", "metric": "exact_match", "value": value, "stderr": stderr}


def test_refusals_and_tasks() -> None:
    card = model_card(
        parse_config(_CONFIG, "c.yaml", ()),
        {
            "evaluation-safety": SAFETY,
            "evaluation-lm-eval-target": {"benchmarks": [row("target", 0.5, 0.01)]},
            "evaluation-lm-eval-fused": {"benchmarks": [row("fused", 0.25, None)]},
        },
    )
    assert "| fused | 40.0% [30.0%, 50.0%] |" in card
    assert f"{SAFETY['words']}." in card
    assert "| gsm8k | exact_match | target | 0.5000 | 0.0100 |\n| gsm8k | exact_match | fused | 0.2500 |  |" in card


def test_what_was_not_measured_is_not_there() -> None:
    card = model_card(parse_config(_CONFIG, "c.yaml", ()), {})
    assert "## lm-eval" not in card
    assert "## Refusals" not in card
    assert "Licence of this model: not stated." in card
