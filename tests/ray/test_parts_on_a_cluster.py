"""Parts that are made by tasks of a Ray cluster are the ones that are made here, and so are their errors."""

from pathlib import Path

import pytest

from tests.unit.test_joins import given_steps
from wrpo_ray.data import fusion, parts
from wrpo_ray.errors import StorageError
from wrpo_ray.events import ShardDone, WorkBegan, listening, within
from wrpo_ray.storage.location import locate


@pytest.mark.usefixtures("local_ray")
def test_parts_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, heard = locate(tmp_path), []
    given = given_steps(root, 12, 4)
    monkeypatch.setattr(fusion, "PROMPTS_PER_PART", 4)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "_made_by_tasks", None)
        with pytest.raises(TypeError):
            given.fuse(root / "fused")
        patch.setattr(parts, "_can_be_made_apart", lambda folder: False)
        here = given.fuse(root / "here")
    with listening(lambda step, event: heard.append((step, event))), within("fuse"):
        assert given.fuse(root / "fused") == here
    assert heard[0] == ("fuse", WorkBegan(12, 0, 3))
    assert [event.num_rows for _, event in heard[1:] if isinstance(event, ShardDone)] == [4, 4, 4]

    damaged = next(iter((given.target / "data").walk()))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError, match="was changed after it was written") as caught:
        given.fuse(root / "again")
    assert caught.value.code == "WRPO-S017"
