"""A child process with an engine in it, seen from its supervisor: messages, its last words, and its end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from wrpo_ray.engines.groups import group_environment
from wrpo_ray.redaction import redacted

_TAIL_LINES = 80
_MAX_LINE_BYTES = 2**14
# Models are folders on this node by the time an engine starts (data.model_files.bring): whatever would still ask the
# hub for code, kernels or another model fails instead.
_OWN_ENVIRONMENT = {"HF_HUB_OFFLINE": "1"}
_MAX_ERROR_CHARACTERS = 400
_POLL_S = 0.2
_CLOSE_S = 15.0
_LAST_WORDS_S = 5.0
_ERROR_LINE = re.compile(r"((?:[A-Za-z_][\w.]*(?:Error|Exception)|Fatal Python error): .+)$")
# What vLLM says when its core process could not start; the reason is among the lines before.
_SECOND_HAND = re.compile(r"root cause|EngineDeadError|EngineCore encountered an issue")

Message = tuple[Any, ...]


class EngineDiedError(Exception):
    """The child ended by itself; the text says how, with its own last error."""


class EngineProcess:
    """One start of an engine. The child leads a process group that ends with it, and with the process that holds this.

    make: picklable, returns the engine. method: the engine's method that takes batches.
    """

    def __init__(self, make: Callable[[], Any], method: str) -> None:
        ours, theirs = socket.socketpair()
        life_read, life_write = os.pipe()
        command = [sys.executable, "-X", "faulthandler", "-m", "wrpo_ray.engines.child"]
        self._child = subprocess.Popen(
            [*command, str(theirs.fileno()), str(life_read)],
            pass_fds=(theirs.fileno(), life_read),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ
            | _OWN_ENVIRONMENT
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            | group_environment(),
        )
        theirs.close()
        os.close(life_read)
        self._life: int | None = life_write
        self._connection = Connection(ours.detach())
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._reader = threading.Thread(target=self._keep_tail, daemon=True)
        self._reader.start()
        self._sending, self._killing = threading.Lock(), threading.Lock()
        self.send((make, method))

    @property
    def pid(self) -> int:
        """Process id of the child, which is the id of its process group too."""
        return self._child.pid

    def send(self, message: Any) -> None:
        """Send one object, from any thread; when the child is gone, the next `receive` says so."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(message)

    def receive(self, timeout_s: float) -> Message | None:
        """Return the child's next message, or None when none came in time; raises EngineDiedError when it ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if self._connection.poll(max(0.0, min(_POLL_S, deadline - time.monotonic()))):
                    return self._connection.recv()
            except (EOFError, OSError):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._child.wait(timeout=_LAST_WORDS_S)
                self.kill()
                raise EngineDiedError(self._last_words()) from None
            if self._child.poll() is not None and not self._connection.poll(0):
                self.kill()
                raise EngineDiedError(self._last_words())
            if time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        """Let the engine shut down, then end what is left of it."""
        if self._life is None:
            return
        self.send(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=_CLOSE_S)
        self.kill()

    def reason(self, text: str) -> str:
        """Return `text`, or the first-hand error from the child's output when `text` only points at it."""
        return (_SECOND_HAND.search(text) and _own_error(self._tail)) or shortened(text)

    def kill(self) -> None:
        """End the child and everything that it started, at once; any thread may."""
        with self._killing:
            if self._life is None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            os.close(self._life)
            self._life = None
            # Who is still sending gets an error from the pipe now and lets go of it.
            with self._sending:
                self._connection.close()
            self._reader.join(timeout=2.0)

    def _keep_tail(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as stream:
            # A progress bar may write for ever without ending its line.
            while line := stream.readline(_MAX_LINE_BYTES):
                text = redacted(line.decode("utf-8", errors="replace").rstrip())
                self._tail.append(text)
                print(text, file=sys.stderr, flush=True)

    def _last_words(self) -> str:
        status = self._child.returncode
        how = f"exit code {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            how += " (what the system does when memory runs out)"
        said = _own_error(self._tail)
        return f"{how}; {said}" if said else how


def _own_error(lines: deque[str]) -> str | None:
    """Return the last error in a program's output, else its last line that is not empty."""
    found = [match[1] for line in lines if (match := _ERROR_LINE.search(line)) and not _SECOND_HAND.search(line)]
    spoken = [line for line in lines if line.strip()]
    return shortened((found or spoken)[-1]) if spoken else None


def shortened(text: str) -> str:
    """Return `text` as one line of at most 400 characters that UTF-8 can hold, without secrets."""
    line = redacted(" ".join(text.encode("utf-8", "replace").decode("utf-8").split()))
    return line if len(line) <= _MAX_ERROR_CHARACTERS else line[:_MAX_ERROR_CHARACTERS] + "..."
