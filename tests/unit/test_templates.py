"""Chat templates are other people's programs: the same text as transformers renders, within limits, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from tests.tiny import CHATML, HEADERS, chatml_tokenizer
from wrpo_ray import templates
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.errors import DataError
from wrpo_ray.templates import Renderer, TemplateRefusedError, TemplateStoppedError, render_template

TURNS: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  <b>&amp; \u2028 \u00e9 \U0001f600 {{ 7 * 7 }} {% raw %}\n"},
    {"role": "assistant", "content": ""},
    {"role": "user", "content": "x" * 1000},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def rendered(template: str, turns: Any = TURNS, generation: bool = True) -> str:
    return render_template(template, turns, generation, TOKENS)


ORDINARY = {
    "chatml": CHATML,
    "headers": HEADERS,
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}|"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m['content'] }}"
    "{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}",
    "json": "{{ messages | tojson }} {{ messages[0] | tojson(indent=2, ensure_ascii=True, sort_keys=True) }}",
    "namespace and macro": "{% set ns = namespace(n=0) %}{% macro turn(m) %}[{{ m.role }}]{% endmacro %}"
    "{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ turn(m) }}{% endfor %}{{ ns.n }}{{ tools is none }}",
    "blocks": "\n  {% for m in messages %}\n    {{- m.content | trim }}\n  {% endfor %}\n{{ missing }}{{ tools }}",
    "tokens": "{{ bos_token }}{% if add_generation_prompt %}{{ eos_token }}{% endif %}{{ strftime_now('%Y') }}",
}


@pytest.mark.parametrize("template", ORDINARY.values(), ids=ORDINARY)
@pytest.mark.parametrize("generation", [True, False])
def test_the_text_is_transformers_own(template: str, generation: bool) -> None:
    (expected,), _ = render_jinja_template([TURNS], chat_template=template, add_generation_prompt=generation, **TOKENS)
    assert rendered(template, generation=generation) == expected


def test_half_a_surrogate_comes_through() -> None:
    assert rendered("{{ messages[0].content }}", [{"role": "user", "content": "a\ud800b"}]) == "a\ud800b"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ messages[9].content }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ 'a' + 1 }}", "TypeError"),
        ("{% include '/etc/passwd' %}", "TypeError"),
        ("{% import 'os' as os %}", "TypeError"),
        ("{% extends 'base' %}", "TypeError"),
    ],
)
def test_errors_of_a_template_are_its_answer(template: str, words: str) -> None:
    with pytest.raises(TemplateRefusedError, match=words):
        rendered(template)


# Ways out of Jinja that are known from web applications (server-side template injection), and ways to more than is due.
INJECTIONS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__()[40]('/etc/passwd').read() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').popen(CANARY).read() }}",
    "{{ cycler.__init__.__globals__.os.popen(CANARY).read() }}",
    "{{ joiner.__init__.__globals__.os.popen(CANARY).read() }}",
    "{{ namespace.__init__.__globals__.os.popen(CANARY).read() }}",
    "{{ lipsum.__globals__['os'].popen(CANARY).read() }}",
    "{{ lipsum|attr('__globals__') }}",
    "{{ (lipsum|attr('\\x5f\\x5fglobals\\x5f\\x5f'))['os'].system(CANARY) }}",
    "{{ raise_exception.__globals__['sys'].modules['os'].system(CANARY) }}",
    "{{ strftime_now.__globals__ }}",
    "{{ strftime_now.__code__ }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ ['__class__']|map(attribute='__class__')|list }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{{ request.application.__globals__.__builtins__ }}",
    "{{ config.items() }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{% set x = messages.append({'role': 'user', 'content': 'x'}) %}",
    "{% set x = messages[0].update({'content': 'x'}) %}",
    "{% set x = messages.clear() %}",
    "{{ messages.pop() }}",
    "{{ (messages|tojson).__class__ }}",
    "{{ caller.__globals__ }}",
    "{{ loop.__class__ }}",
    "{{ self._TemplateReference__context.environment }}",
    "{{ dict.__base__.__subclasses__() }}",
    "{{ range.__class__('X', (), {}) }}",
    "{{ ''|attr('format')|attr('__func__') }}",
    "{% macro m() %}{{ varargs.__class__ }}{% endmacro %}{{ m.__globals__ }}{{ m(1) }}",
    "{{ [].__class__.__base__.__subclasses__()[133].__init__.__globals__['__builtins__']['eval']('1') }}",
    "{{ cycler.next.__globals__ }}",
    "{{ (messages|groupby('role'))[0].__class__.__mro__ }}",
    "{{ messages|selectattr('__class__')|list|length and '' or ''.__doc__ }}",
]


@pytest.mark.parametrize("template", INJECTIONS)
def test_no_way_out_of_the_sandbox(template: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    turns: list[Any] = [{"role": "user", "content": "hello"}]
    try:
        text = rendered(template.replace("CANARY", f"'touch {canary}'"), turns)
    except (TemplateStoppedError, TemplateRefusedError):
        text = ""
    assert not canary.exists()
    assert "class" not in text
    assert "module" not in text
    assert "root:" not in text
    assert turns == [{"role": "user", "content": "hello"}]


def test_the_renderer_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-in-the-environment")
    renderer = Renderer()
    try:
        request = {"key": "k", "messages": [], "add_generation_prompt": False, "special_tokens": {}}
        assert renderer.ask({**request, "most_characters": 10}, "a") == {"text": "a"}
        assert renderer._child is not None
        environment = Path(f"/proc/{renderer._child.pid}/environ").read_bytes()
        assert b"PYTHONPATH" in environment
        assert b"canary" not in environment
    finally:
        renderer.close()


BOMBS = {
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
    "{% endfor %}{% endfor %}{% endfor %}",
    "text that doubles itself": "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(60) %}"
    "{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "repetition": "{{ 'a' * 99999999999 }}",
    "padding": "{{ 'a'.ljust(99999999999) }}",
    "formatting": "{{ '%99999999999d' % 1 }}",
    "a width in a format": "{{ '{:>9999999999}'.format(1) }}",
    "centering": "{{ 'a'|center(99999999999) }}",
    "powers": "{{ 9 ** (9 ** 9) }}",
    "a macro that calls itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "nested brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "much text": "{% for a in range(9999) %}{{ messages[0].content }}{{ 'abcdefgh' * 99 }}{% endfor %}",
    "lists": "{{ [[[0] * 99999] * 99999] | tojson }}",
    "a large range": "{{ range(999999999) | list }}",
    "replacement": "{% set ns = namespace(s='a') %}{% for i in range(40) %}"
    "{% set ns.s = ns.s.replace('a', 'aaaaaaaaaaaaaaaa') %}{% endfor %}{{ ns.s }}",
}


# The others take a process each, and seconds on a machine that is busy.
_IN_EVERY_RUN = ("loops in loops", "text that doubles itself", "powers", "much text")
_BOMBS = [
    pytest.param(template, id=name, marks=() if name in _IN_EVERY_RUN else pytest.mark.slow)
    for name, template in BOMBS.items()
]


@pytest.mark.parametrize("template", _BOMBS)
def test_what_takes_more_than_it_may_is_stopped(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer(cpu_seconds=0.7)
    monkeypatch.setattr(templates, "_shared_renderer", lambda: renderer)
    began = time.monotonic()
    # Python itself refuses a number of 10,000 digits and a formatted width like these.
    with pytest.raises((TemplateStoppedError, TemplateRefusedError)):
        rendered(template)
    assert time.monotonic() - began < 30, "on a machine that does nothing else it is a second or two"
    assert rendered("still here") == "still here"
    renderer.close()


def test_a_template_of_a_megabyte_is_not_read() -> None:
    with pytest.raises(TemplateStoppedError, match="at most"):
        rendered(" " * (2**20 + 1))


def test_a_long_conversation_is_rendered() -> None:
    turns = [{"role": "user", "content": "word " * 2_000_000}]
    assert len(rendered(CHATML, turns)) > 10_000_000


def test_a_template_that_turns_bad_for_one_prompt_costs_that_prompt() -> None:
    tokenizer = chatml_tokenizer()
    bomb = "{% if 'trigger' in messages[0].content %}{{ 'a' * 99999999999 }}{% endif %}"
    tokenizer.chat_template = bomb + CHATML
    chat = ChatTokenizer(tokenizer)
    with pytest.raises(DataError, match="was stopped") as caught:
        chat.encode_prompt([{"role": "user", "content": "a trigger"}])
    assert caught.value.code == "WRPO-D023"
    assert "trigger" not in str(caught.value)
    assert chat.encode_prompt([{"role": "user", "content": "none"}])


def test_threads_take_turns() -> None:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        for _ in range(20):
            found[number] = rendered("{{ messages[0].content }}", [{"role": "user", "content": str(number)}])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: str(number) for number in range(8)}


def test_after_a_fork_each_process_has_a_renderer_of_its_own() -> None:
    assert rendered("parent") == "parent"
    if (pid := os.fork()) == 0:
        os._exit(0 if rendered("child") == "child" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert rendered("parent") == "parent"


KILLED = """
import os, signal
from wrpo_ray import templates
templates.render_template("x", [], False, {})
print(templates._renderer._child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_renderer_ends_with_the_process_that_asks_it() -> None:
    seen = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, check=False)
    place = Path(f"/proc/{int(seen.stdout)}")
    deadline = time.monotonic() + 20
    while place.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not place.exists()
