"""Everything that can be wrong with a run's models and prompts, found before any GPU is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import FuseConfig, ModelFiles, PromptsConfig, VerifierRewardConfig
from wrpo_ray.config_endpoint_rules import endpoint_sections
from wrpo_ray.config_rules import model_sections
from wrpo_ray.errors import ConfigError, DataError, Problem
from wrpo_ray.model_store import stored
from wrpo_ray.preflight.benchmarks import check_files, check_lm_eval, check_tokens
from wrpo_ray.preflight.endpoint import check_endpoint
from wrpo_ray.preflight.judge import check_judge
from wrpo_ray.preflight.model_folder import (
    ModelFacts,
    check_language_model,
    check_max_length,
    check_max_model_len,
    check_remote_code,
    check_reward,
    check_trust,
    check_weights,
    locate_model,
)
from wrpo_ray.preflight.packages import check_packages
from wrpo_ray.preflight.tokenizer import check_tokenizer, check_vocabulary
from wrpo_ray.prompts import PromptSet, read_prompts
from wrpo_ray.schema import Prompt
from wrpo_ray.verifier import last_number


@dataclass(frozen=True)
class Checked:
    """What the checks have read: the prompts of the run, and those of its evaluation if it has one."""

    prompts: PromptSet
    evaluation_prompts: PromptSet | None


def check_run(config: FuseConfig) -> list[Problem]:
    """Return every problem of the run's models and prompts."""
    models, data, _ = _check(stored(config))
    return [*models, *data]


def require_runnable(config: FuseConfig) -> Checked:
    """Return what was read when the run can start.

    Raises one error with every problem: ConfigError if a model is among them, DataError if only prompts are.
    """
    models, data, sets = _check(stored(config))
    title = f"run {config.run.name} cannot start"
    if models:
        raise ConfigError.of(title, [*models, *data])
    if data:
        raise DataError.of(title, data)
    return Checked(sets[0], sets[1] if config.evaluation else None)


def _check(config: FuseConfig) -> tuple[list[Problem], list[Problem], list[PromptSet]]:
    """Return the problems of models, those of prompts, and the prompts."""
    models, chats = _check_models(config)
    models.extend(check_packages(config))
    for place, source in endpoint_sections(config):
        models.extend(check_endpoint(place, source))
    models.extend(check_judge(config))
    data: list[Problem] = []
    if (evaluation := config.evaluation) is not None:
        models.extend(check_tokens(config.target, evaluation.benchmarks, evaluation.safety))
        models.extend(check_lm_eval(config.target, evaluation.lm_eval))
        data.extend(check_files(evaluation.benchmarks, evaluation.safety))
    sets: list[PromptSet] = []
    for place, section in _prompt_sections(config):
        prompt_set, problems = read_prompts(section, answers_required=config.reward.type == "verifier")
        data.extend(problems or _check_prompt_set(config, place, prompt_set))
        sets.append(prompt_set)
        if section is config.prompts and not problems and "target" in chats:
            data.extend(_check_lengths(config, prompt_set, chats["target"]))
    return models, [*data, *_check_heldout(*sets)], sets


def _check_models(config: FuseConfig) -> tuple[list[Problem], dict[str, ChatTokenizer]]:
    """Return the problems of all models, and the tokenizers of those that have none, by their places."""
    problems: list[Problem] = []
    chats: dict[str, ChatTokenizer] = {}
    for place, files in model_sections(config):
        found = locate_model(place, files)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        problems.extend(_check_facts(config, place, files, found))
        if untrusted := list(check_trust(place, files, found)):
            # Nothing of it is loaded, not even its tokenizer.
            problems.extend(untrusted)
            continue
        chat = check_tokenizer(place, files, found)
        if isinstance(chat, Problem):
            problems.append(chat)
            continue
        chats[place] = chat
        problems.extend(check_vocabulary(place, files, found, chat))
    return problems, chats


def _prompt_sections(config: FuseConfig) -> Iterator[tuple[str, PromptsConfig]]:
    yield "prompts", config.prompts
    if config.evaluation:
        yield "evaluation.prompts", config.evaluation.prompts


def _check_facts(config: FuseConfig, place: str, files: ModelFiles, facts: ModelFacts) -> Iterator[Problem]:
    yield from check_weights(place, facts)
    yield from check_remote_code(place, files, facts)
    yield from check_max_model_len(place, files, facts)
    if files is config.target:
        yield from check_max_length("sft", config.sft, facts)
        yield from check_max_length("wrpo", config.wrpo, facts)
    if files is config.reward and config.reward.type != "verifier":
        yield from check_reward(config.reward, facts)
    else:
        yield from check_language_model(place, files, facts)


def _check_prompt_set(config: FuseConfig, place: str, prompt_set: PromptSet) -> Iterator[Problem]:
    if place == "prompts":
        for split in ("sft", "preference"):
            if not prompt_set.prompts.num_by_split.get(split):
                value = f"{len(prompt_set.prompts)} prompts, sft_fraction {config.prompts.sft_fraction:.3g}"
                yield Problem("prompts", value, f"no prompt falls into the {split} part", "add prompts", "WRPO-D016")
    numeric = [field for field, rule in _verifiers(config, place) if rule.mode == "numeric"]
    number, first = _wordy(prompt_set) if numeric else (0, "")
    if number:
        value = f"{number} answers, the first of prompt_id {first}"
        rule = "the verifier compares numbers, and these answers hold none"
        fix = f"correct the answers, or set {numeric[0]}.mode to exact"
        yield Problem(f"{place}.answer_column", value, rule, fix, "WRPO-D017")


def _verifiers(config: FuseConfig, place: str) -> Iterator[tuple[str, VerifierRewardConfig]]:
    """Yield the rules that the answers of a section of prompts are used by."""
    if isinstance(config.reward, VerifierRewardConfig):
        yield "reward", config.reward
    if place == "evaluation.prompts" and config.evaluation and config.evaluation.verifier:
        yield "evaluation.verifier", config.evaluation.verifier


def _wordy(prompt_set: PromptSet) -> tuple[int, str]:
    """Return how many answers hold no number, and the prompt_id of the first of them."""
    number, first = 0, ""
    for table in prompt_set.prompts.tables():
        for prompt_id, answer in zip(table["prompt_id"].to_pylist(), table["answer"].to_pylist(), strict=True):
            if answer is not None and last_number(answer) is None:
                number, first = number + 1, first or prompt_id
    return number, first


def _check_lengths(config: FuseConfig, prompt_set: PromptSet, chat: ChatTokenizer) -> Iterator[Problem]:
    """Long prompts are left out and counted by the run itself; a run of which nothing is left must not start."""
    for place, limit in (("sft", config.sft.max_prompt_length), ("wrpo", config.wrpo.max_prompt_length)):
        split = "sft" if place == "sft" else "preference"
        shortest = _shortest_over(limit, prompt_set.prompts.of_split(split), chat)
        if shortest is not None:
            rule = f"every prompt of its part is longer; the shortest has {shortest} tokens"
            yield Problem(
                f"{place}.max_prompt_length", str(limit), rule, f"raise it to {shortest} or more", "WRPO-D018"
            )


def _shortest_over(limit: int, prompts: Iterable[Prompt], chat: ChatTokenizer) -> int | None:
    """Return the length of the shortest prompt in tokens if all are over `limit`, else None."""
    shortest = None
    for prompt in prompts:
        try:
            length = len(chat.encode_prompt(prompt.messages))
        except DataError:
            # The run leaves such a prompt out and counts it.
            continue
        if length <= limit:
            return None
        shortest = length if shortest is None else min(shortest, length)
    return shortest


def _check_heldout(training: PromptSet, evaluation: PromptSet | None = None) -> Iterator[Problem]:
    """Yield a problem when evaluation prompts are training prompts too, under whatever file name."""
    number, first = _shared(training, evaluation) if evaluation else (0, "")
    if evaluation and number:
        value = f"{number} of {len(evaluation.prompts)} prompts, the first prompt_id {first}"
        rule = "these are training prompts too; rewards on them say nothing about new ones"
        yield Problem("evaluation.prompts", value, rule, "take them out of one of the two", "WRPO-D019")


def _shared(training: PromptSet, evaluation: PromptSet) -> tuple[int, str]:
    """Return how many prompts both have, and the first prompt_id of them."""
    number, first = 0, ""
    for known, heldout in zip(training.prompts.ids_by_bucket(), evaluation.prompts.ids_by_bucket(), strict=True):
        shared = set(heldout).intersection(known)
        number, first = number + len(shared), first or min(shared, default="")
    return number, first
