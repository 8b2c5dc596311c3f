"""What is installed is named by hash and comes as wheels, and `make audit` never takes silence for innocence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "requirements"))
import audit  # noqa: E402  # pyright: ignore[reportMissingImports]

sys.path.pop(0)
LOCKS = [ROOT / "requirements" / name for name in audit.LOCK_FILES]
# What PyPI has as a source archive alone. Nothing else is ever built, so nothing else runs while it is installed.
SOURCE_ONLY = {"deepspeed", "rouge-score", "sqlitedict", "wavedrom", "word2number"}
IMAGES = {"image-cpu.txt": ["cpu"], "image-gpu.txt": ["gpu", "lora", "cce"]}


def versions(name: str) -> dict[str, str]:
    return audit.pinned((ROOT / "requirements" / name).read_text())


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_a_version_and_a_sha256(path: Path) -> None:
    text = path.read_text()
    assert versions(path.name)
    assert audit.without_hash(text) == []
    assert not re.search(r"https?://(?!download\.pytorch\.org/whl/cpu$)|git\+|file:|^-e", text, re.MULTILINE)


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_no_locked_package_is_below_the_lowest_safe_version(path: Path) -> None:
    assert list(audit.below_floors(versions(path.name), audit.FLOORS.read_text())) == []


def test_pip_takes_wheels_alone_but_for_what_there_is_no_wheel_of() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (listed,) = re.findall(r"^FROM_SOURCE := (.*)$", makefile, re.MULTILINE)
    assert set(listed.split(",")) == SOURCE_ONLY
    assert set(versions("cpu.txt")) >= SOURCE_ONLY
    (command,) = re.findall(r"^.*-r requirements/cpu\.txt$", makefile, re.MULTILINE)
    assert "--require-hashes --only-binary :all: --no-binary $(FROM_SOURCE)" in command
    assert set(versions("image-source.txt")) == {"deepspeed"}
    assert all(not SOURCE_ONLY & set(versions(name)) for name in IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_what_the_package_asks_for_in_the_versions_that_the_tests_ran_with(name: str) -> None:
    """After a change of dependencies or of requirements/cpu.txt: `make lock-images`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in IMAGES[name] for line in project["optional-dependencies"][extra]]
    installed = {**versions("image-source.txt"), **versions(name)}
    if name == "image-cpu.txt":
        installed |= versions("torch-cpu.txt")
    for line in [*project["dependencies"], *extras]:
        needed = Requirement(line)
        found = installed.get(needed.name.lower().replace("_", "-"))
        assert found, f"{name} lacks {needed}"
        assert needed.specifier.contains(found, prereleases=True), f"{name}: {needed.name} {found}"
    tested = versions("cpu.txt")
    # CUDA's torch asks for its own triton.
    others = {package for package, version in installed.items() if tested.get(package, version) != version} - {"triton"}
    assert others == set() or name == "image-gpu.txt"
    assert len(others) <= 5


def test_a_line_that_would_install_anything_is_found() -> None:
    text = (
        "a==1 \\\n    --hash=sha256:"
        + "0" * 64
        + "\nb==2\nc>=1 --hash=sha256:"
        + "0" * 64
        + "\n# d\n--extra-index-url e\n"
    )
    assert audit.without_hash(text) == ["b==2", "c>=1"]
    assert audit.pinned(text) == {"a": "1", "b": "2"}
    assert audit.pinned("torch==2.13.0+cpu \\\n") == {"torch": "2.13.0"}


def test_an_old_version_is_found() -> None:
    found = list(audit.below_floors({"ray": "2.53.0", "jinja2": "3.1.6", "other": "1"}, audit.FLOORS.read_text()))
    assert len(found) == 1
    assert found[0].startswith("ray 2.53.0: ray>=2.60")


# The fields of an answer of https://api.osv.dev/v1/query that are read.
ADVISORY = {
    "id": "GHSA-cpwx-vrp4-4pq7",
    "aliases": ["CVE-2025-27516"],
    "summary": "Jinja2 vulnerable to sandbox breakout through attr filter selecting format method",
    "affected": [
        {
            "package": {"name": "jinja2", "ecosystem": "PyPI", "purl": "pkg:pypi/jinja2"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.6"}]}],
        }
    ],
}


@contextmanager
def osv_service() -> Iterator[tuple[str, list[dict]]]:
    """Yield the address of a service that knows one advisory, and what it was asked."""
    asked: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(query)
            known = (query["package"]["name"], query["version"]) == ("jinja2", "3.1.5")
            body = json.dumps({"vulns": [ADVISORY]} if known else {}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query", asked
    finally:
        server.shutdown()
        server.server_close()


def run_audit(tmp_path: Path, jinja2: str, service: str) -> tuple[int, str]:
    lock = tmp_path / "lock.txt"
    line = " \\\n    --hash=sha256:" + "0" * 64 + "\n"
    lock.write_text(f"jinja2=={jinja2}{line}markupsafe==3.0.3{line}torch==2.13.0+cpu{line}")
    command = [sys.executable, "requirements/audit.py", "--service", service, str(lock)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    return found.returncode, found.stdout + found.stderr


def test_a_known_hole_is_told(tmp_path: Path) -> None:
    with osv_service() as (service, asked):
        code, said = run_audit(tmp_path, "3.1.5", service)
    assert code == 1, said
    assert "jinja2 3.1.5: CVE-2025-27516, GHSA-cpwx-vrp4-4pq7 (fixed in: 3.1.6)" in said
    assert {(query["package"]["name"], query["version"]) for query in asked} == {
        ("jinja2", "3.1.5"), ("markupsafe", "3.0.3"), ("torch", "2.13.0"),
    }  # fmt: skip


def test_nothing_known(tmp_path: Path) -> None:
    with osv_service() as (service, _):
        code, said = run_audit(tmp_path, "3.1.6", service)
    assert (code, said) == (0, "lock.txt: 3 packages, nothing known\n")


def test_a_service_that_does_not_answer_is_no_clean_bill(tmp_path: Path) -> None:
    code, said = run_audit(tmp_path, "3.1.6", "http://127.0.0.1:9/v1/query")
    assert code == 2, said
    assert "NOT AUDITED" in said
    assert "all 3 packages" in said


def test_a_package_that_was_passed_over_is_no_clean_one() -> None:
    answer = {"dependencies": [{"name": "A", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}]}
    findings = audit._read(answer, {"a": "1", "b": "2", "c": "3"})
    assert (findings.exit_code(), findings.not_asked) == (2, ["b: not found", "c"])
