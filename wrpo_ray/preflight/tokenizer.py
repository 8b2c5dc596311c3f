"""A model's tokenizer and chat template, tried out on a plain conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jinja2

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import ModelFiles
from wrpo_ray.errors import DataError, ModelError, Problem, StorageError
from wrpo_ray.models import tokenizer_of
from wrpo_ray.preflight.model_folder import ModelFacts
from wrpo_ray.prompt_files import shown
from wrpo_ray.storage.location import locate

_LOAD_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)
_GREETING = [{"role": "user", "content": "Hello"}]


def check_tokenizer(place: str, files: ModelFiles, facts: ModelFacts) -> ChatTokenizer | Problem:
    """Return the model's tokenizer with its chat template, or the first reason why it cannot serve."""
    if problem := _check_template_file(place, files):
        return problem
    if problem := _check_template_present(place, files, facts):
        return problem
    try:
        tokenizer = tokenizer_of(files)
    except Exception as error:
        # The tokenizers library raises bare Exception for a broken file; whatever is not that is a fault of ours.
        if type(error) is not Exception and not isinstance(error, _LOAD_ERRORS):
            raise
        rule = f"the tokenizer cannot be loaded: {shown(str(error), 200)}"
        return Problem(
            f"{place}.path", files.path, rule, "fetch the model again; check its tokenizer files", "WRPO-M014"
        )
    try:
        chat = ChatTokenizer(tokenizer)
        chat.encode_prompt(_GREETING)
        chat.encode_conversation(_GREETING, "Hi")
    except (ModelError, DataError, jinja2.TemplateError, TypeError) as error:
        stopped = isinstance(error, DataError) and error.code == "WRPO-D023"
        rule = f"the chat template fails on a plain conversation: {error}"
        fix = "name a working template in chat_template"
        return Problem(f"{place}.chat_template", _origin(files), rule, fix, "WRPO-M022" if stopped else "WRPO-M015")
    return chat


def check_vocabulary(place: str, files: ModelFiles, facts: ModelFacts, chat: ChatTokenizer) -> Iterator[Problem]:
    """Yield a problem when the tokenizer gives ids for which the model has no embedding.

    A model may have more embeddings than tokens: many are padded to a round number.
    """
    num_embeddings = facts.text_config.get("vocab_size", facts.config.get("vocab_size"))
    highest = max(_used_ids(chat))
    if isinstance(num_embeddings, int) and highest >= num_embeddings:
        value = f"token ids up to {highest}"
        rule = f"the model has embeddings for {num_embeddings} tokens (vocab_size), its tokenizer gives higher ids"
        fix = "fetch model and tokenizer again, from the same place and revision"
        yield Problem(f"{place}.path", f"{files.path}: {value}", rule, fix, "WRPO-M016")


def _used_ids(chat: ChatTokenizer) -> set[int]:
    """Return the ids that text can become, and those of the control tokens that a conversation holds.

    A token that was merely added and that nothing uses does no harm.
    """
    plain = set(chat.tokenizer.get_vocab().values()) - chat.tokenizer.added_tokens_decoder.keys()
    return {*plain, *chat.encode_conversation(_GREETING, "Hi"), chat.end_token_id, chat.pad_token_id}


def _origin(files: ModelFiles) -> str:
    return files.chat_template or f"the one of {files.path}"


def _check_template_file(place: str, files: ModelFiles) -> Problem | None:
    if files.chat_template is None:
        return None
    field = f"{place}.chat_template"
    try:
        text = locate(files.chat_template).read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError, StorageError) as error:
        rule = f"the template file cannot be read: {error}"
        return Problem(field, files.chat_template, rule, "correct the path", "WRPO-M015")
    return _check_syntax(field, files.chat_template, text)


def _check_syntax(field: str, value: str, text: str) -> Problem | None:
    try:
        # The extensions are those that transformers renders with.
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(_without_generation_tags(text))
    except jinja2.TemplateSyntaxError as error:
        rule = f"the template is not valid Jinja, line {error.lineno}: {error.message}"
        return Problem(field, value, rule, "correct the template", "WRPO-M015")
    return None


def _without_generation_tags(text: str) -> str:
    """Take out the tag that transformers adds to Jinja, which the plain parser does not know."""
    for tag in ("generation", "endgeneration"):
        for opening in ("{%", "{%-"):
            for closing in ("%}", "-%}"):
                text = text.replace(f"{opening} {tag} {closing}", "")
    return text


def _check_template_present(place: str, files: ModelFiles, facts: ModelFacts) -> Problem | None:
    """Look for the template in the model's files, so that the message can say where it was expected."""
    if files.chat_template is not None:
        return None
    if "chat_template.jinja" in facts.names:
        path = facts.folder / "chat_template.jinja"
        return _check_syntax(f"{place}.path", str(path), path.read_text(encoding="utf-8", errors="replace"))
    if {"chat_template.json", "additional_chat_templates"} & facts.names:
        return None
    try:
        settings = json.loads((facts.folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        template = settings.get("chat_template")
    except FileNotFoundError:
        template = None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        rule = f"tokenizer_config.json cannot be read: {error}"
        return Problem(f"{place}.path", files.path, rule, "fetch it again", "WRPO-M014")
    if isinstance(template, str):
        return _check_syntax(f"{place}.path", f"{files.path}/tokenizer_config.json", template)
    if template:
        return None
    rule = f"{files.path} has no chat template (tokenizer_config.json, chat_template.jinja: not found)"
    fix = f"set `{place}.chat_template: path/to/template.jinja`, or choose an instruct model"
    return Problem(f"{place}.chat_template", "null", rule, fix, "WRPO-M004")
