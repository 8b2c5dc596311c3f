"""The boundary: each kind of end gets its exit code, no traceback without --debug, and no secret or prompt text."""

import errno
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from wrpo_ray.config_file import parse_config
from wrpo_ray.console import run_command
from wrpo_ray.errors import ConfigError, DataError, LeaseError, ModelError, QuarantineError, StorageError

CANARY = "hf_" + "CaNaRyCaNaRyCaNaRyCaNaRyCaNaRy0001"
PROMPT = "what-the-user-asked"


def raising(error: BaseException) -> Callable[[], int]:
    def function() -> int:
        raise error

    return function


class WrappedError(Exception):
    """As Ray wraps what a worker raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"a long story that quotes {PROMPT}")
        self.cause = cause


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("error", "exit_code", "code"),
    [
        (ConfigError("x"), 2, "WRPO-C001"),
        (DataError("x"), 3, "WRPO-D001"),
        (QuarantineError("x"), 4, "WRPO-Q001"),
        (LeaseError("x"), 5, "WRPO-L001"),
        (StorageError("x"), 6, "WRPO-S001"),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/x"), 6, "WRPO-S002"),
        (PermissionError(errno.EACCES, "Permission denied", "/models/x"), 6, "WRPO-S004"),
        (KeyboardInterrupt(), 7, "WRPO-I002"),
        (ModelError("x"), 8, "WRPO-M001"),
        (WrappedError(ModelError("x")), 8, "WRPO-M001"),
        (KeyError("x"), 70, "WRPO-B070"),
        (AssertionError(), 70, "WRPO-B070"),
        (RecursionError(), 70, "WRPO-B070"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_end_has_its_exit_code(
    error: BaseException, exit_code: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error)) == exit_code
    shown = capsys.readouterr().err
    assert shown.startswith(f"error[{code}]: ")
    assert "Traceback" not in shown


def test_result_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: 0) == 0
    assert run_command(lambda: 2) == 2
    assert capsys.readouterr() == ("", "")


def test_argparse_may_end_the_process() -> None:
    with pytest.raises(SystemExit, match="3"):
        run_command(raising(SystemExit(3)))


def test_debug_shows_the_traceback_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(ModelError("broken")), debug=True) == 8
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last)")
    assert shown.rstrip().endswith("error[WRPO-M001]: broken")


def test_bug_names_type_and_place_and_keeps_the_traceback(
    temporary_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: len(parse_config(PROMPT, "f.yaml", [None]))) == 2  # type: ignore[list-item]
    capsys.readouterr()
    assert run_command(lambda: len(parse_config("a: 1", "f.yaml", [None]))) == 70  # type: ignore[list-item]
    shown = capsys.readouterr().err
    assert re.search(
        r"library that it uses: AttributeError\n  --> wrpo_ray/config_file.py:\d+ in _apply_override", shown
    )
    (crash,) = temporary_folder.glob("wrpo-ray-crash-*.txt")
    assert str(crash) in shown
    assert "Traceback (most recent call last)" in crash.read_text()
    assert crash.stat().st_mode & 0o077 == 0


def test_bug_with_debug_writes_no_file(temporary_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(KeyError("x")), debug=True) == 70
    assert "Traceback" in capsys.readouterr().err
    assert list(temporary_folder.iterdir()) == []


def test_bug_where_no_file_can_be_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert run_command(raising(KeyError("x"))) == 70
    assert "show the traceback with --debug" in capsys.readouterr().err


def test_text_of_an_unforeseen_error_is_not_shown(
    temporary_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may quote a prompt."""
    assert run_command(raising(TypeError(f"cannot encode {PROMPT} with {CANARY}"))) == 70
    assert PROMPT not in capsys.readouterr().err
    (crash,) = temporary_folder.glob("wrpo-ray-crash-*.txt")
    assert CANARY not in crash.read_text()


@pytest.mark.parametrize("debug", [False, True])
def test_secrets_are_taken_out_of_every_error(debug: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(ModelError(f"401 for {CANARY}", help=CANARY)), debug) == 8
    assert CANARY not in capsys.readouterr().err


def test_text_that_is_no_unicode_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(DataError("half \ud800 a pair"))) == 3
    assert "half \\ud800 a pair" in capsys.readouterr().err


def test_reader_of_the_output_that_goes_away_is_no_bug(tmp_path: Path) -> None:
    body = 'sys.exit(run_command(lambda: print("x" * 10**6) or 0))'
    command = f"'{sys.executable}' -c '{PROGRAM.format(body=body)}' | true; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")
    assert list(tmp_path.iterdir()) == []


def test_broken_pipe_to_another_process_is_not_taken_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(BrokenPipeError("to an engine"))) == 70


PROGRAM = """
import sys
from wrpo_ray.console import run_command, start_logging
start_logging()
{body}
"""


@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        ("sys.exit(run_command(lambda: 1 // 0))", 70),
        ("import os, signal; sys.exit(run_command(lambda: os.kill(os.getpid(), signal.SIGINT) or 0))", 7),
    ],
)
def test_exit_codes_of_processes(body: str, exit_code: int, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == exit_code
    assert "Traceback" not in done.stderr
