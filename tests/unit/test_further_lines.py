"""The closing text of a run tells of refusals, tasks and answers, as far as there are such."""

from tests.unit.test_model_card import row
from wrpo_ray.evaluate.further_lines import found_lines, further_lines


def test_all_three() -> None:
    text = further_lines(
        {
            "fuse": {},
            "evaluation-safety": {"words": "fused refuses less often than target: 40% against 90%"},
            "evaluation-lm-eval-target": {"benchmarks": [row("target", 0.5, 0.01)]},
            "evaluation-lm-eval-fused": {"benchmarks": [row("fused", 0.25, None)]},
            "evaluation-benchmarks": {
                "models": {
                    "r-fused": {"num_answers": {"mt_bench": 79}, "num_questions_without_answer": 1},
                    "r-target": {"num_answers": {"mt_bench": 80}, "num_questions_without_answer": 0},
                }
            },
        }
    )
    assert text.splitlines() == [
        "refusals: fused refuses less often than target: 40% against 90%",
        "",
        "lm-eval (± one standard error):",
        "  gsm8k exact_match: target 0.5000 ± 0.0100, fused 0.2500",
        "",
        "answers for benchmarks (docs/benchmarks.md says how to judge them):",
        "  r-fused: 79 mt_bench; 1 questions without answer",
        "  r-target: 80 mt_bench",
    ]


def test_nothing() -> None:
    assert further_lines({"fuse": {}}) == ""
    assert found_lines({"safety": None, "benchmarks": None}) == ""
