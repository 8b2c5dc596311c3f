"""The command lines: every subcommand is found, answers at once, and ends with a documented exit code."""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wrpo_ray import __version__, cli, doctor
from wrpo_ray.cli import COMMANDS

ROOT = Path(__file__).parents[2]
FUSE = str(ROOT / "jobs" / "fuse.py")
HEAVY = ("torch", "ray", "transformers", "vllm", "pyarrow", "obstore")


def ended(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    printed = capsys.readouterr()
    return int(str(caught.value.code)), printed.out, printed.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_debug_and_version(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ended(command, "--help", capsys=capsys)
    assert code == 0
    assert "--debug" in out
    code, out, _ = ended(command, "--version", capsys=capsys)
    assert (code, out) == (0, f"wrpo-ray {__version__}\n")


def test_help_lists_the_commands_and_imports_none_of_them() -> None:
    program = f"""
import sys
from wrpo_ray import cli
try:
    cli.main(["--help"])
finally:
    print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.rstrip().endswith("[]")
    assert all(command in done.stdout for command in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["explain", "--nonsense"], ["doctor", "x"]])
def test_wrong_command_line_is_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = ended(*arguments, capsys=capsys)
    assert code == 2
    assert error.startswith("usage: wrpo-ray")


@pytest.mark.parametrize(
    ("arguments", "debug"), [(["--debug", "doctor"], True), (["doctor", "--debug"], True), (["doctor"], False)]
)
def test_debug_may_stand_on_either_side(
    arguments: list[str], debug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> int:
        raise KeyError("x")

    monkeypatch.setattr(doctor, "main", fail)
    assert cli.main(arguments) == 70
    assert ("Traceback" in capsys.readouterr().err) is debug


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "D012"]) == 0
    assert capsys.readouterr().out.startswith("WRPO-D012: ")
    assert cli.main(["explain", "nonsense"]) == 2
    assert capsys.readouterr().err.startswith("error[WRPO-C032]: ")


@pytest.mark.parametrize("command", ["status", "inspect"])
def test_folder_that_is_no_run(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error[WRPO-C0")


def fuse(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    # Without site-packages' torch and ray being imported this is quick.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, FUSE, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=60
    )


def test_bad_config_ends_a_job_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("run: {name: x}\nnonsense: 1\n")
    started = time.monotonic()
    done = fuse("--config", "bad.yaml", cwd=tmp_path)
    assert time.monotonic() - started < 5
    assert done.returncode == 2
    assert "error[WRPO-C003]: unknown field\n  --> bad.yaml:2:1 `nonsense`" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_job_shows_its_options(tmp_path: Path) -> None:
    done = fuse("--help", cwd=tmp_path)
    for option in ("--debug", "--version", "--only", "--dry-run", "--accept-changes", "--retry-broken-sources"):
        assert option in done.stdout
