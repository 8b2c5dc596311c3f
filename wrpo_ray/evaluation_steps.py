"""The steps that compare target, Target-SFT, fused model and, on demand, sources on held-out prompts.

evaluation-prompts ─► evaluation-sample (each model) ─► evaluation-score ─► evaluate
                                └─► evaluation-questions ─► evaluation-judge ──┘      with a judge
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wrpo_ray.benchmark_steps import Further, further_steps
from wrpo_ray.claims import engine_claim
from wrpo_ray.config import EvaluationConfig, FuseConfig, SourceConfig, VerifierRewardConfig
from wrpo_ray.config_evaluation import JudgeConfig
from wrpo_ray.config_evaluation_rules import evaluated_pairs, evaluated_sources
from wrpo_ray.data.sampling import SamplingJob, sample
from wrpo_ray.evaluate.answers import rewarded, verified
from wrpo_ray.evaluate.expected_reward import Comparison, compare, shown
from wrpo_ray.evaluate.pair_entries import pair_entries
from wrpo_ray.evaluate.pairwise import Answered, Compared, compared
from wrpo_ray.evaluate.questions import judged, write_questions
from wrpo_ray.evaluate.step_builder import EvaluationBuilder
from wrpo_ray.evaluate.table import FORMAT, model_entries, outcomes_table
from wrpo_ray.judging import template_text
from wrpo_ray.models import model_identity
from wrpo_ray.schema import Split
from wrpo_ray.steps import Step, StepResult, digest
from wrpo_ray.storage.location import Location, json_bytes
from wrpo_ray.storage.manifest import require_manifest
from wrpo_ray.storage.tables import write_file, write_table

_SPLITS: tuple[Split, ...] = ("sft", "preference")


@dataclass(frozen=True)
class _Steps:
    """The steps that `evaluate` reads.

    own: names of target, Target-SFT and fused model, which share one scoring step. drawn: by model. asked: the judge's
    questions and verdicts.
    """

    prompts: Step
    own: tuple[str, ...]
    drawn: dict[str, Step]
    scored: tuple[Step, ...]
    asked: tuple[Step, Step] | None = None


def evaluation_steps(builder: EvaluationBuilder, evaluation: EvaluationConfig, prompts: Step) -> Step:
    """Add all steps of the evaluation and return the last one.

    Raises OSError or ValueError when the judge's template cannot be read; preflight has looked at it before.
    """
    config = builder.config

    def draw(model: SourceConfig, step: Step | None) -> Step:
        drawn = model.model_copy(update={"sampling": evaluation.sampling})
        return builder.sample(f"evaluation-sample-{model.name}", drawn, prompts, step)

    drawn = {model.name: draw(model, step) for model, step in builder.models}
    # One reward model for all three: what is compared is scored by the same process. Sources have steps of their own,
    # so that one more of them leaves the others as they are.
    scored = [builder.score("evaluation-score", prompts, tuple(drawn.values()))]
    for source in evaluated_sources(config):
        drawn[source.name] = draw(source, None)
        scored.append(builder.score(f"evaluation-score-{source.name}", prompts, (drawn[source.name],)))
    names = tuple(model.name for model, _ in builder.models)
    steps = _Steps(prompts, names, drawn, tuple(scored))
    pairs = evaluated_pairs(config)
    if evaluation.judge is not None:
        steps = dataclasses.replace(steps, asked=_judge_steps(builder, evaluation.judge, steps, pairs))
    further = further_steps(builder, evaluation.benchmarks, evaluation.safety, evaluation.lm_eval)
    return builder.add(_evaluate_step(builder, evaluation, steps, pairs, further))


def _judge_steps(
    builder: EvaluationBuilder, judge: JudgeConfig, steps: _Steps, pairs: Sequence[tuple[str, str]]
) -> tuple[Step, Step]:
    """Add the steps that write the judge's questions and that draw its verdicts, and return them."""
    template = template_text(judge.template)
    needed = {name: step for name, step in steps.drawn.items() if any(name in pair for pair in pairs)}

    def write(folder: Location) -> StepResult:
        drawn = {name: builder.folder(step) for name, step in needed.items()}
        return write_questions(template, builder.folder(steps.prompts), drawn, pairs, folder)

    identity = {"template": digest(template), "pairs": [list(pair) for pair in pairs]}
    questions = builder.add(Step("evaluation-questions", identity, (steps.prompts, *needed.values()), write))
    model = {"model": model_identity(judge), "sampling": judge.sampling.model_dump(mode="json")}
    seed = builder.config.run.seed

    def ask(folder: Location) -> StepResult:
        given = builder.folder(questions)
        if not require_manifest(given).summary["num_questions"]:
            return StepResult((), {"num_prompts": 0})
        config = builder.config
        make = builder.make_generator
        return sample(SamplingJob(judge, given, _SPLITS, seed, digest(model), config.faults, config.rows, make), folder)

    claim = engine_claim(judge.resources)
    asked = builder.add(Step("evaluation-judge", model | {"seed": seed}, (questions,), ask, claim=claim))
    return questions, asked


def _evaluate_step(
    builder: EvaluationBuilder,
    evaluation: EvaluationConfig,
    steps: _Steps,
    pairs: Sequence[tuple[str, str]],
    further: Further,
) -> Step:
    seed, rule = builder.config.run.seed, _rule(builder.config, evaluation)

    def run(folder: Location) -> StepResult:
        answered = rewarded(map(builder.folder, steps.scored), steps.drawn)
        outcomes = [compared(*pair, "reward", answered) for pair in pairs] + _others(builder, steps, pairs, rule)
        told = pair_entries(outcomes, evaluation.num_bootstrap, seed)
        result = _expected_rewards(builder, evaluation, steps, answered)
        sources = [name for name in steps.drawn if name not in steps.own]
        models = model_entries(result, answered, sources, evaluation.num_bootstrap, seed)
        written = {"format": FORMAT, "models": models, "pairs": told, **further.results(builder.folder)}
        files = (
            write_file(folder, "evaluation.json", json_bytes(written)),
            write_table(folder, "outcomes.parquet", outcomes_table(outcomes)),
        )
        return StepResult(files, {**shown(result), "pairs": told})

    identity = {
        "num_bootstrap": evaluation.num_bootstrap,
        "seed": seed,
        "pairs": [list(pair) for pair in pairs],
        "verifier": rule.model_dump(mode="json") if rule else None,
        # Evaluations of older versions took each comparison for the only one.
        "correction": "holm",
    }
    read = (steps.prompts, *steps.drawn.values()) if rule else (steps.prompts,)
    return Step("evaluate", identity, (*steps.scored, *read, *(steps.asked or ()), *further.inputs), run)


def _expected_rewards(
    builder: EvaluationBuilder, evaluation: EvaluationConfig, steps: _Steps, answered: Mapping[str, Answered]
) -> Comparison:
    """Compare the run's own models; sources must not change which prompts they are compared on."""
    means = {name: of_model.values for name, of_model in answered.items()}
    num_prompts = require_manifest(builder.folder(steps.prompts)).summary["num_prompts"]
    return compare(means, steps.own, num_prompts, evaluation.num_bootstrap, builder.config.run.seed)


def _others(
    builder: EvaluationBuilder, steps: _Steps, pairs: Sequence[tuple[str, str]], rule: VerifierRewardConfig | None
) -> list[Compared]:
    """Return what the rule and the judge say of the pairs, as far as there is one."""
    found: list[Compared] = []
    if rule is not None:
        drawn = {name: builder.folder(step) for name, step in steps.drawn.items()}
        right = verified(drawn, builder.folder(steps.prompts), rule)
        found += [compared(*pair, "verifier", right) for pair in pairs]
    if steps.asked is not None:
        questions, verdicts = map(builder.folder, steps.asked)
        found += judged(questions, verdicts, pairs)
    return found


def _rule(config: FuseConfig, evaluation: EvaluationConfig) -> VerifierRewardConfig | None:
    """Return the rule that compares besides the reward; a reward that is that rule itself says it all already."""
    if evaluation.prompts.answer_column is None:
        return None
    given = evaluation.verifier
    if given is None and not isinstance(config.reward, VerifierRewardConfig):
        return VerifierRewardConfig(type="verifier")
    return None if given == config.reward else given
