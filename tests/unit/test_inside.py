"""Nothing that a record names, and no link, leads out of a run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.inside import require_no_links_out
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, create_manifest, layout_of, read_manifest

OUTSIDE = ["../x", "a/../../x", "/etc/passwd", "..", "", "a\0b", "data/..", ".", "./a", "a//b", "data/"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_in_records(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must be a path below the step's folder"):
        FileEntry(name, 1, "0" * 64, None)
    with pytest.raises(StorageError) as caught:
        locate(tmp_path) / name
    assert caught.value.code == "WRPO-S060"


def test_names_below_a_folder(tmp_path: Path) -> None:
    for name in ("data/part..0.parquet", "a/b/c", "...", "a b"):
        assert str(locate(tmp_path) / name) == f"{tmp_path}/{name}"


def test_manifest_that_names_a_file_elsewhere(tmp_path: Path) -> None:
    """Whoever can write a manifest can seal it: the hash of a record says that it is whole, not who wrote it."""
    folder = locate(tmp_path)
    create_manifest(folder, Manifest("s", "f", {}, {}, (FileEntry("data/x", 1, "0" * 64, None),), {}, {}, 0.0))
    (tmp_path / "manifest.json").chmod(0o644)
    raw = (folder / "manifest.json").read_sealed()
    (folder / "manifest.json").write_sealed({**raw, "files": [{**raw["files"][0], "path": "../../etc/passwd"}]})
    with pytest.raises(StorageError) as caught:
        read_manifest(folder)
    assert caught.value.code == "WRPO-S011"
    assert "must be a path below the step's folder" in str(caught.value)


@pytest.mark.parametrize("depth", ["", "sample-a", "sample-a/0123"])
def test_links_that_leave_the_root(tmp_path: Path, depth: str) -> None:
    root, outside = tmp_path / "runs", tmp_path / "outside"
    outside.mkdir()
    place = root / "r" / depth
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    with pytest.raises(StorageError) as caught:
        require_no_links_out(layout_of(str(root), "r").folder)
    assert caught.value.code == "WRPO-S061"
    assert str(place) in str(caught.value)


def test_links_that_are_fine(tmp_path: Path) -> None:
    real = tmp_path / "disk" / "runs"
    (real / "other").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(real)
    folder = layout_of(str(tmp_path / "runs"), "r").folder
    require_no_links_out(folder)
    (real / "r" / "step").mkdir(parents=True)
    (real / "r" / "step" / "f").symlink_to(real / "other")
    require_no_links_out(folder)
