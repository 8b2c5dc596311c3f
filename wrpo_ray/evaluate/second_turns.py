"""The second turn of two-turn questions: prompts that hold the first question and the model's own first answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from wrpo_ray.benchmark_questions import Question, prompt_set
from wrpo_ray.evaluate.answer_formats import Answer
from wrpo_ray.prompt_temperatures import with_temperatures
from wrpo_ray.schema import Response, prompt_id
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.tables import iter_rows


def first_responses(drawn: Location) -> dict[str, Response]:
    """Return the first sample of every prompt of a finished sampling step, by prompt_id."""
    return {row.prompt_id: row for rows in iter_rows(drawn, Response) for row in rows if row.sample_index == 0}


def second_messages(question: Question, answer: Response) -> list[dict[str, str]]:
    """Return the conversation up to the second turn of `question`, with the first answer as the model gave it."""
    assistant = {"role": "assistant", "content": answer.text}
    return [*question.first_messages, assistant, {"role": "user", "content": question.turns[1]}]


def write_second_turns(
    questions: Iterable[Question], drawn: Location, folder: Location, own_temperatures: bool
) -> StepResult:
    """Write the second turns of the two-turn questions whose first turn has an answer, as a prompts step does.

    own_temperatures: with the temperatures that the questions ask for.
    """
    first = first_responses(drawn)
    asked = [
        (second_messages(question, first[question.prompt_id]), question.temperature)
        for question in questions
        if len(question.turns) == 2 and question.prompt_id in first
    ]
    written = prompt_set([messages for messages, _ in asked]).write(folder)
    own = {prompt_id(messages): temperature for messages, temperature in asked} if own_temperatures else {}
    return with_temperatures(written, folder, own)


def collected(
    questions: Sequence[Question], drawn: Sequence[Mapping[str, Response]]
) -> tuple[list[Answer], list[Question]]:
    """Return the questions with an answer to each of their turns, in their order, and those without.

    drawn: the responses by prompt_id, of the first turns and, where there are such, of the second ones.
    """
    answers: list[Answer] = []
    missing: list[Question] = []
    for question in questions:
        rows = _turns(question, drawn)
        if len(rows) < len(question.turns):
            missing.append(question)
        else:
            texts, tokens = tuple(row.text for row in rows), tuple(row.num_tokens for row in rows)
            answers.append(Answer(question, texts, tokens))
    return answers, missing


def _turns(question: Question, drawn: Sequence[Mapping[str, Response]]) -> list[Response]:
    """Return the responses to the turns of a question, up to the first that has none."""
    first = drawn[0].get(question.prompt_id)
    if first is None or len(question.turns) == 1:
        return [] if first is None else [first]
    second = drawn[1].get(prompt_id(second_messages(question, first)))
    return [first] if second is None else [first, second]
