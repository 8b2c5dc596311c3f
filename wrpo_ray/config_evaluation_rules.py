"""The section `evaluation` as a whole: what it compares, and rules that tie several fields together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wrpo_ray.config import EvaluationConfig, FuseConfig, ModelConfig, SourceConfig
from wrpo_ray.errors import Problem

RUNS_OWN_MODELS = ("target-sft", "fused")


def evaluation_problems(config: FuseConfig) -> Iterator[Problem]:
    """Yield every broken rule of `evaluation`."""
    evaluation = config.evaluation
    if evaluation is None:
        return
    yield from _lengths(config, evaluation)
    yield from _models(config, evaluation)
    if evaluation.verifier is not None and evaluation.prompts.answer_column is None:
        rule = "the verifier needs the column with the reference answers"
        fix = "name the column, or remove evaluation.verifier"
        yield Problem("evaluation.prompts.answer_column", "null", rule, fix, "WRPO-C023")
    judge, taken = evaluation.judge, {config.target.name, *RUNS_OWN_MODELS, *(each.name for each in config.sources)}
    if judge is not None and judge.name.casefold() in {name.casefold() for name in taken}:
        rule, fix = "another model of the run has this name", "give the judge a name of its own"
        yield Problem("evaluation.judge.name", judge.name, rule, fix, "WRPO-C013")


def evaluated_sources(config: FuseConfig) -> list[SourceConfig]:
    """Return the sources that answer held-out prompts; those that the run goes on without are not in the config."""
    wanted = config.evaluation.sources if config.evaluation else ()
    return [source for source in config.sources if wanted == "all" or source.name in wanted]


def answering_sources(config: FuseConfig) -> list[SourceConfig]:
    """Return the sources that answer benchmarks' questions, without those that the run goes on without."""
    benchmarks = config.evaluation.benchmarks if config.evaluation else None
    wanted = benchmarks.sources if benchmarks else ()
    return [source for source in config.sources if wanted == "all" or source.name in wanted]


def evaluated_pairs(config: FuseConfig) -> tuple[tuple[str, str], ...]:
    """Return the pairs of (model, baseline) to compare, without those of sources that the run goes on without."""
    if config.evaluation is None:
        return ()
    target, (target_sft, fused) = config.target.name, RUNS_OWN_MODELS
    sources = [source.name for source in evaluated_sources(config)]
    if config.evaluation.pairs is None:
        usual = ((fused, target_sft), (fused, target), (target_sft, target))
        return (*usual, *((fused, source) for source in sources))
    return tuple(pair for pair in config.evaluation.pairs if set(pair) <= {target, *RUNS_OWN_MODELS, *sources})


def _lengths(config: FuseConfig, evaluation: EvaluationConfig) -> Iterator[Problem]:
    models = [("target", config.target), *((f"sources.{s.name}", s) for s in evaluated_sources(config))]
    for place, model in models:
        yield from _length("evaluation.sampling.max_tokens", evaluation.sampling.max_tokens, place, model)
    # That the target can give such answers, and to harmful requests, is looked at with the files, before the run.
    if (benchmarks := evaluation.benchmarks) is not None:
        for source in answering_sources(config):
            field, place = "evaluation.benchmarks.max_tokens", f"sources.{source.name}"
            yield from _length(field, benchmarks.max_tokens, place, source)


def _length(field: str, most: int, place: str, model: SourceConfig) -> Iterator[Problem]:
    """Yield the problem of answers that leave a model at `place` no room for a prompt."""
    if isinstance(model, ModelConfig) and most >= model.engine.max_model_len:
        rule = f"must be less than {place}.engine.max_model_len = {model.engine.max_model_len}"
        yield Problem(field, str(most), rule, "lower it or raise max_model_len", "WRPO-C020")
    elif not isinstance(model, ModelConfig) and (limit := model.limits.tokens_per_minute) and limit <= most:
        rule = f"must be less than {place}.limits.tokens_per_minute = {limit}, or no request may ever be sent"
        yield Problem(field, str(most), rule, "lower it or raise the limit", "WRPO-C083")


def _models(config: FuseConfig, evaluation: EvaluationConfig) -> Iterator[Problem]:
    names = [source.name for source in config.sources]
    asked = {"evaluation.sources": evaluation.sources}
    if evaluation.benchmarks is not None:
        asked["evaluation.benchmarks.sources"] = evaluation.benchmarks.sources
    for place, given in asked.items():
        for name in () if given == "all" else given:
            if name not in names:
                rule = f"no source has this name; there are: {', '.join(names)}"
                yield Problem(place, name, rule, "correct the name, or write all", "WRPO-C045")
    compared = (config.target.name, *RUNS_OWN_MODELS, *(source.name for source in evaluated_sources(config)))
    yield from _pairs(evaluation.pairs or (), compared, names)
    if evaluation.pairs == ():
        rule = "an evaluation compares at least one pair"
        yield Problem("evaluation.pairs", "[]", rule, "name a pair, or leave pairs out", "WRPO-C045")


def _pairs(pairs: Sequence[tuple[str, str]], compared: Sequence[str], sources: Sequence[str]) -> Iterator[Problem]:
    for number, pair in enumerate(pairs):
        place, value = f"evaluation.pairs.{number}", f"[{', '.join(pair)}]"
        if pair[0] == pair[1] or pair in pairs[:number]:
            rule = "must name two models, and no pair twice"
            yield Problem(place, value, rule, "remove it, or correct a name", "WRPO-C045")
        for name in pair:
            if name not in compared:
                rule = f"no model called {name} is evaluated; there are: {', '.join(compared)}"
                fix = "add it to evaluation.sources" if name in sources else "correct the name"
                yield Problem(place, value, rule, fix, "WRPO-C045")
