"""The process that chat templates are rendered in; started by `templates`, and by nobody else. Imports nothing of ours.

A template is other people's program: Jinja's sandbox keeps it from files and modules, but not from loops within loops
or from text that doubles itself. So each rendering may take this much CPU time, memory and output, and what takes more
ends this process, which holds nothing but the conversation at hand. Requests and answers are lines of JSON.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MEMORY_BYTES = 2**30
# Jinja's own errors, and Python's from the expressions in a template; any other ends this process.
_REFUSALS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError,
    AssertionError, StopIteration,
)  # fmt: skip


class _Generation(Extension):
    """The tag `{% generation %}` of transformers: it marks answers for training and changes no text."""

    tags = {"generation"}  # noqa: RUF012 - the name and its type are the base class's

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(lineno)

    def _same(self, caller: Callable[[], str]) -> str:
        return caller()


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> jinja2.Environment:
    """Return what transformers renders with (utils/chat_template_utils.py, 5.19)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _rendered(template: jinja2.Template, request: dict[str, Any]) -> dict[str, Any]:
    pieces, left = [], request["most_characters"]
    for piece in template.generate(
        messages=request["messages"],
        tools=None,
        documents=None,
        add_generation_prompt=request["add_generation_prompt"],
        **request["special_tokens"],
    ):
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            return {"stopped": f"its text is longer than {request['most_characters']:,} characters"}
    return {"text": "".join(pieces)}


def _answer(environment: jinja2.Environment, known: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    try:
        if (text := request.get("template")) is not None:
            known[request["key"]] = environment.from_string(text)
        return _rendered(known[request["key"]], request)
    except SecurityError as error:
        return {"unsafe": str(error)}
    except MemoryError:
        return {"stopped": f"it needs more than {_MEMORY_BYTES:,} bytes of memory"}
    except RecursionError:
        return {"stopped": "it calls itself, or is nested, too deeply"}
    except _REFUSALS as error:
        return {"error": [type(error).__name__, str(error)[:2000]]}


def main() -> None:
    """Answer requests until the other end closes. argv[1]: CPU seconds that one of them may take."""
    seconds = float(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Whoever is interrupted at a terminal ends by its own parent, which closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    environment, known = _environment(), {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # Nobody handles this signal: also a single long computation in C ends.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = _answer(environment, known, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(json.dumps(answer).encode("ascii") + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
