"""Links in a run's folder: none may lead out of the root of runs, or what a step writes would land there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location


def require_no_links_out(folder: Location) -> None:
    """Raise StorageError when the run's folder, a step's, or that of a fingerprint is a link that leaves the root.

    An object store has no links. The root may be a link itself: that is the operator's choice.
    """
    run = folder.local_path
    if run is None:
        return
    root = run.parent.resolve()
    for path in _folders(run):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise StorageError(
                f"{path} is a link to {path.resolve()}, outside of {root}", code="WRPO-S061",
                help="remove the link; a root of runs that is itself a link is fine",
            )  # fmt: skip


def _folders(run: Path) -> Iterator[Path]:
    """Yield the run's folder and what lies up to two levels below it, following no link."""
    yield run
    if run.is_dir() and not run.is_symlink():
        for step in run.iterdir():
            yield step
            if step.is_dir() and not step.is_symlink():
                yield from step.iterdir()
