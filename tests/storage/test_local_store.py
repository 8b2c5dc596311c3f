"""What only a file system can do wrong. The contract that all stores share is in test_object_store.py."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from wrpo_ray.errors import StorageError
from wrpo_ray.storage import stores
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.objects import probe
from wrpo_ray.storage.stores import LocalStore


def fail_with(number: int):
    def call(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_with_needed_and_free_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "fsync", fail_with(number))
    monkeypatch.setattr(stores, "free_bytes", lambda _: 4096)
    for call in (LocalStore().write, LocalStore().create):
        with pytest.raises(StorageError, match=r"a\.bin: no space left .*12,345 bytes are needed, 4,096") as raised:
            call(str(tmp_path / "a.bin"), b"x" * 12345)
        assert (raised.value.code, raised.value.exit_code) == ("WRPO-S002", 6)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_while_uploading_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"new")
    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "link", fail_with(errno.EXDEV))
    monkeypatch.setattr(stores.shutil, "copyfile", fail_with(errno.ENOSPC))
    with pytest.raises(StorageError, match="3 bytes are needed"):
        LocalStore().upload(tmp_path / "source", str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["source", "x"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_nothing_can_be_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "link", fail_with(number))
    with pytest.raises(StorageError, match="no hard links") as raised:
        probe(locate(tmp_path))
    assert raised.value.code == "WRPO-S007"
    assert os.listdir(tmp_path) == []


def test_probe_names_a_place_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot create .*file/runs"):
        probe(locate(tmp_path / "file" / "runs"))
    monkeypatch.setattr(Path, "open", fail_with(errno.EROFS))
    with pytest.raises(StorageError, match="Read-only file system"):
        probe(locate(tmp_path))


def test_a_link_whose_first_answer_was_lost_is_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def link_and_deny(source: Path, destination: str) -> None:
        link(source, destination)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link_and_deny)
    assert LocalStore().create(str(tmp_path / "x"), b"own")


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """os.walk says nothing of such a folder; a listing without it would make finished work look undone."""
    monkeypatch.setattr(os, "scandir", fail_with(errno.EACCES))
    with pytest.raises(StorageError, match=r"cannot list .*Permission denied"):
        LocalStore().list(str(tmp_path))


def test_bytes_are_on_disk_before_the_name_and_the_name_before_the_call_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    final = tmp_path / "new" / "deep" / "x"
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append((os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")), final.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    LocalStore().write(str(final), b"1")
    names = [name for name, _ in synced]
    assert sorted(names[:2]) == sorted(["new", tmp_path.name])
    assert names[2].startswith(".x.")
    assert synced[2][1] is False
    assert synced[3:] == [("deep", True)]


def test_upload_on_one_file_system_copies_nothing_and_follows_links(tmp_path: Path) -> None:
    """Files of a model cache are links to elsewhere, which may be gone tomorrow."""
    blob, name = tmp_path / "blob", tmp_path / "model.safetensors"
    blob.write_bytes(b"weights")
    name.symlink_to(blob)
    stored = LocalStore().upload(name, str(tmp_path / "run" / "model.safetensors"))
    kept = tmp_path / "run" / "model.safetensors"
    assert stored.num_bytes == 7
    assert kept.stat().st_ino == blob.stat().st_ino
    blob.unlink()
    name.unlink()
    assert kept.read_bytes() == b"weights"


def test_upload_again_of_the_same_file_leaves_no_second_name(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"1")
    for _ in range(2):
        LocalStore().upload(tmp_path / "source", str(tmp_path / "run" / "x"))
    assert os.listdir(tmp_path / "run") == ["x"]


def test_upload_of_what_is_absent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LocalStore().upload(tmp_path / "none", str(tmp_path / "x"))


def test_two_may_delete_one_folder(tmp_path: Path) -> None:
    for number in range(200):
        LocalStore().write(str(tmp_path / f"d/{number % 20}/{number}"), b"")
    errors: list[BaseException] = []

    def delete() -> None:
        try:
            LocalStore().delete_folder(str(tmp_path / "d"))
        except (OSError, StorageError) as error:
            errors.append(error)

    threads = [threading.Thread(target=delete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert not (tmp_path / "d").exists()
