"""Looks for known vulnerabilities in the lock files: python requirements/audit.py [--service URL] [FILE ...].

Exit codes: 0 every package was asked about and nothing is known of it; 1 something is known; 2 some packages could not
be asked about, so nothing is said of them. An advisory service that cannot be reached is a 2, never a 0.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

FOLDER = Path(__file__).parent
LOCK_FILES = ("cpu.txt", "torch-cpu.txt", "image-cpu.txt", "image-gpu.txt", "image-source.txt")
FLOORS = FOLDER / "floors.txt"
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}\b")


@dataclass
class Findings:
    """What is known of the packages of a lock file, and which of them nothing could be learned of."""

    known: list[str] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)

    def exit_code(self) -> int:
        """Return 1 when something is known, else 2 when something could not be asked, else 0."""
        return 1 if self.known else 2 if self.not_asked else 0


def pinned(text: str) -> dict[str, str]:
    """Return the version of each package of a lock file, without the local part (`+cpu`) that no advisory names."""
    return {name.lower(): version.partition("+")[0] for name, version in _PINNED.findall(text)}


def without_hash(text: str) -> list[str]:
    """Return what a lock file would have installed without a sha256, or under no version at all."""
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and line.lstrip()[0] not in "#-"]
    return [line.split()[0] for line in lines if not _HASH.search(line) or not _PINNED.match(line)]


def below_floors(versions: dict[str, str], floors: str) -> Iterator[str]:
    """Yield each package that is older than the file of lowest versions allows."""
    for line in floors.splitlines():
        if not line or line.startswith("#"):
            continue
        floor = Requirement(line)
        version = versions.get(floor.name)
        if version and not floor.specifier.contains(Version(version), prereleases=True):
            yield f"{floor.name} {version}: {line} is the lowest version without a known hole (requirements/floors.txt)"


def asked(versions: dict[str, str], service: str | None) -> Findings:
    """Ask an OSV service about the packages. service: its query URL; None for the public one."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as stream:
        stream.write("".join(f"{name}=={version}\n" for name, version in sorted(versions.items())))
        stream.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", stream.name, "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--progress-spinner", "off", "--vulnerability-service", "osv"]
        found = subprocess.run(
            [*command, *(["--osv-url", service] if service else [])], capture_output=True, text=True, check=False
        )
    if not found.stdout.strip():
        reason = (found.stderr.strip().splitlines() or ["no answer"])[-1]
        return Findings(not_asked=[f"all {len(versions)} packages: {reason}"])
    return _read(json.loads(found.stdout), versions)


def _read(answer: dict, versions: dict[str, str]) -> Findings:
    findings, named = Findings(), set()
    for package in answer["dependencies"]:
        name = package["name"].lower()
        named.add(name)
        if "skip_reason" in package:
            findings.not_asked.append(f"{name}: {package['skip_reason']}")
        for known in package.get("vulns", ()):
            fixed = ", ".join(known["fix_versions"]) or "none yet"
            names = ", ".join(sorted({known["id"], *known["aliases"]}))
            findings.known.append(f"{name} {package['version']}: {names} (fixed in: {fixed})")
    findings.not_asked += sorted(set(versions) - named)
    return findings


def audit(path: Path, service: str | None) -> Findings:
    """Return what is wrong with one lock file: hashes, lowest versions, advisories."""
    text = path.read_text(encoding="utf-8")
    versions = pinned(text)
    findings = asked(versions, service)
    findings.known[:0] = [f"{name}: no sha256, or no version" for name in without_hash(text)]
    findings.known[:0] = below_floors(versions, FLOORS.read_text(encoding="utf-8"))
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was found and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", metavar="URL", help="query URL of an OSV service; https://osv.dev's otherwise")
    parser.add_argument("files", nargs="*", type=Path, default=[FOLDER / name for name in LOCK_FILES])
    options = parser.parse_args(arguments)
    codes = set()
    for path in options.files:
        findings = audit(path, options.service)
        codes.add(findings.exit_code())
        said = {1: "known holes", 2: "NOT AUDITED", 0: "nothing known"}[findings.exit_code()]
        print(f"{path.name}: {len(pinned(path.read_text(encoding='utf-8')))} packages, {said}")
        for line in [*findings.known, *(f"not audited: {line}" for line in findings.not_asked)]:
            print(f"  {line}")
    return 1 if 1 in codes else max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
