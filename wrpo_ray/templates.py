"""Chat templates rendered in a process of their own, with limits of CPU time, memory and length.

One such process serves all templates of this one. It gets no environment variables, so no secret either.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wrpo_ray.schema import Message

CPU_SECONDS = 2.0
# For a machine that is so busy that two CPU seconds take this long; templates cannot sleep.
_WALL_SECONDS = 120.0
# Besides what the conversation itself holds: system prompts and headers that a template brings.
_MORE_CHARACTERS = 2**18
_PER_CHARACTER = 4
_MOST_TEMPLATE_CHARACTERS = 2**20
_CHILD = Path(__file__).with_name("template_child.py")


class TemplateRefusedError(Exception):
    """The template raised an error: it does not take this conversation, or is broken."""


class TemplateStoppedError(Exception):
    """The template took more than it may, or tried what none may; the text says what."""


def render_template(
    template: str, messages: Sequence[Message], add_generation_prompt: bool, special_tokens: Mapping[str, Any]
) -> str:
    """Return a conversation as the template writes it; the same text as transformers' apply_chat_template.

    special_tokens: texts by name, as templates know them (bos_token). Raises TemplateRefusedError and
    TemplateStoppedError.
    """
    if len(template) > _MOST_TEMPLATE_CHARACTERS:
        most = _MOST_TEMPLATE_CHARACTERS
        raise TemplateStoppedError(f"it has {len(template):,} characters, at most {most:,} are read")
    num_characters = sum(len(message["content"]) + len(message["role"]) for message in messages)
    request = {
        "key": hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest(),
        "messages": [dict(message) for message in messages],
        "add_generation_prompt": add_generation_prompt,
        "special_tokens": {name: text for name, text in special_tokens.items() if isinstance(text, str | list)},
        "most_characters": _MORE_CHARACTERS + _PER_CHARACTER * num_characters,
    }
    answer = _shared_renderer().ask(request, template)
    if "text" in answer:
        return answer["text"]
    if "error" in answer:
        raise TemplateRefusedError(": ".join(answer["error"]))
    if "unsafe" in answer:
        raise TemplateStoppedError(f"it tries what no template may: {answer['unsafe']}")
    raise TemplateStoppedError(answer["stopped"])


class Renderer:
    """A running child. It is started with the first request, and again after one that it died of."""

    def __init__(self, cpu_seconds: float = CPU_SECONDS, wall_seconds: float = _WALL_SECONDS) -> None:
        self.pid = os.getpid()
        self._limits = cpu_seconds, wall_seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._known: set[str] = set()

    def ask(self, request: Mapping[str, Any], template: str) -> dict[str, Any]:
        """Return the child's answer to one request; {"stopped": why} when it died of it. Threads take turns."""
        with self._lock:
            child = self._running()
            text = None if request["key"] in self._known else template
            line = json.dumps({**request, "template": text}).encode("ascii") + b"\n"
            answer = self._answer(child, line)
            if answer is None:
                return {"stopped": self._end(child)}
            self._known.add(request["key"])
            if "stopped" in answer:
                # What it still holds is unknown.
                self._end(child)
            return answer

    def close(self) -> None:
        """End the child, if this process has started it."""
        with self._lock:
            if self._child is not None and self.pid == os.getpid():
                self._end(self._child)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._known = set()
            path = os.pathsep.join(place for place in sys.path if place)
            # -P: the folder of the script, which is this package's, must not hide modules of the standard library.
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(_CHILD), str(self._limits[0])],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={"PYTHONPATH": path, "PYTHONHASHSEED": "0"} | _timezone(), start_new_session=True,
            )  # fmt: skip
        return self._child

    def _answer(self, child: subprocess.Popen[bytes], line: bytes) -> dict[str, Any] | None:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(line)
            child.stdin.flush()
        except OSError:
            return None
        received, deadline = bytearray(), time.monotonic() + self._limits[1]
        while not received.endswith(b"\n"):
            ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(child.stdout.fileno(), 2**20) if ready else b""
            if not piece:
                return None
            received += piece
        return json.loads(received)

    def _end(self, child: subprocess.Popen[bytes]) -> str:
        """End the child and return why it had to end."""
        early = child.poll()
        if early is None:
            # A pipe that has just been closed: its process is ending.
            try:
                early = child.wait(timeout=1.0)
            except subprocess.TimeoutExpired:
                child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    # What was still to be written to a process that is gone.
                    continue
        self._child = None
        if early is None:
            return f"it was not done after {self._limits[1]:g} s"
        return f"it took more than {self._limits[0]:g} s of CPU time, or ended its process (status {early})"


def _timezone() -> dict[str, str]:
    """Templates may write today's date."""
    return {"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}


_renderer: Renderer | None = None
_starting = threading.Lock()


def _shared_renderer() -> Renderer:
    """Return this process's renderer; after a fork the parent's is not ours to talk to."""
    global _renderer
    with _starting:
        if _renderer is None or _renderer.pid != os.getpid():
            _renderer = Renderer()
            atexit.register(_renderer.close)
        return _renderer
