"""What the driver shows of training: a bar in a terminal, plain lines in a job log."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)
_POLL_S = 1.0
_SHOWN = ("loss", "grad_norm", "alpha", "rewards/margins", "rewards/accuracies")


@contextmanager
def followed(path: Path, title: str) -> Iterator[None]:
    """Show the lines that appear in the metrics file at `path` until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, title, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(path: Path, title: str, stop: threading.Event) -> None:
    bar = tqdm(desc=title, unit="step") if sys.stderr.isatty() else None
    shown = 0
    while True:
        last_look = stop.wait(_POLL_S)
        lines = _complete_lines(path)
        for metrics in lines[shown:]:
            _show(title, metrics, bar)
        shown = len(lines)
        if last_look:
            break
    if bar is not None:
        bar.close()


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """Return the finished lines; the last one may still be in the making."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _show(title: str, metrics: dict[str, Any], bar: tqdm[Any] | None) -> None:
    text = ", ".join(f"{name} {metrics[name]:.4g}" for name in _SHOWN if name in metrics)
    if bar is None:
        log.info("%s step %d: %s", title, metrics["step"], text)
    else:
        bar.set_postfix_str(text)
        bar.update(metrics["step"] - bar.n)
