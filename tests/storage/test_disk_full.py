"""P-18: a full disk stops the run with exit code 6 and says how much is missing; nothing half-written counts."""

import errno
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.storage.sample_run import SampleRun, contents, finished, tree
from wrpo_ray.errors import StorageError
from wrpo_ray.run_state import read_run
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import MANIFEST
from wrpo_ray.storage.stores import is_temporary

MEBIBYTE = 1 << 20


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root; the injected twins below run everywhere")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "wrpo-test", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free and return the file that takes the space."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        for size in (65536, 4096):
            with pytest.raises(OSError, match="No space left on device"):
                write_for_ever(stream, bytes(size))
    return filler


def write_for_ever(stream: io.RawIOBase, block: bytes) -> None:
    """Write until the system refuses."""
    while stream.write(block):
        pass


def require_says_all(error: StorageError, folder: Path) -> None:
    """The error names the file, that the disk is full, and needed and free bytes."""
    assert (error.code, error.exit_code) == ("WRPO-S002", 6)
    assert str(folder) in str(error)
    assert "no space left on device" in str(error)
    assert " bytes are needed, " in str(error)
    assert " bytes are free there" in str(error)
    assert error.help is not None


def require_nothing_half_done(run: SampleRun, root: Path) -> None:
    """No unfinished file is left, and what is recorded can be read."""
    assert [path for path in root.rglob("*") if is_temporary(path)] == []
    state = read_run(run.folder)
    assert state.every_damage == ()


def test_full_disk_stops_and_the_run_goes_on_after_space_is_made(tiny_disk: Path, tmp_path: Path) -> None:
    root = tiny_disk / "run"
    run = finished(root, until="prompts")
    first, *others = run.shards()
    run.commit_shard(first)
    run.made.clear()
    committed = tree(root)
    filler = fill(tiny_disk)
    with pytest.raises(StorageError) as caught:
        run.commit_shard(others[0])
    require_says_all(caught.value, root)
    assert tree(root) == committed
    require_nothing_half_done(run, root)
    filler.unlink()
    assert run.run() == [*(shard.name for shard in others), "train", "export"]
    finished(tmp_path / "clean")
    assert contents(root) == contents(tmp_path / "clean")


def test_disk_that_fills_up_on_the_way(tiny_disk: Path, tmp_path: Path) -> None:
    """The rows themselves fill the disk: some shards are committed, the next one is not there at all."""
    root = tiny_disk / "run"
    run = finished(root, until="prompts")
    run.salt = "x" * 10
    (tiny_disk / "ballast").write_bytes(bytes(MEBIBYTE - used(tiny_disk) - 24 * 1024))
    with pytest.raises(StorageError) as caught:
        run.run()
    require_says_all(caught.value, root)
    require_nothing_half_done(run, root)
    done = len(read_run(run.folder).steps[1].quarantined) + sum("shard" in name for name in run.made[:-1])
    assert done > 0
    (tiny_disk / "ballast").unlink()
    before = {name for name in run.made[:-1] if name.startswith("shard")}
    again = run.run()
    assert before.isdisjoint(again)
    assert {name for name in again if name.startswith("shard")} | before == {shard.name for shard in run.shards()}


def used(disk: Path) -> int:
    """Return the bytes that are taken on a file system."""
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> Callable[[], int]:
    """Make call `number` of os.`name` fail as on a full disk; return how many calls there were."""
    real, calls = getattr(os, name), [0]

    def call(*arguments: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **named)

    monkeypatch.setattr(os, name, call)
    return lambda: calls[0]


@pytest.mark.parametrize("name", ["fsync", "link"])
def test_disk_that_is_full_at_any_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The twin without root: each single call fails in turn; every time the run ends as an undisturbed one."""
    with monkeypatch.context() as patch:
        count = fail_at(patch, name, -1)
        finished(tmp_path / "clean", until="sample")
        num_calls = count()
    assert num_calls > 5
    clean = contents(tmp_path / "clean")
    for number in range(1, num_calls + 1):
        root = tmp_path / f"{name}-{number}"
        run = SampleRun(locate(root))
        with monkeypatch.context() as patch:
            fail_at(patch, name, number)
            with pytest.raises(StorageError) as caught:
                run.run(until="sample")
        require_says_all(caught.value, root)
        if (root / "submissions").exists() and any((root / "submissions").iterdir()):
            require_nothing_half_done(run, root)
        run.run(until="sample")
        assert contents(root) == clean


def test_manifest_is_not_there_when_the_disk_was_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(tmp_path, until="prompts")
    for shard in run.shards():
        run.commit_shard(shard)
    real = os.link

    def link(source: object, target: object) -> None:
        if str(target).endswith(MANIFEST):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        with pytest.raises(StorageError) as caught:
            run.run(until="sample")
    require_says_all(caught.value, tmp_path)
    assert not (run.at("sample") / MANIFEST).exists()
    assert run.run(until="sample") == []
    assert (run.at("sample") / MANIFEST).exists()
