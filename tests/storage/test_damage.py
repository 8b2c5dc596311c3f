"""P-19, P-20, P-21: whatever happens to the bytes of a run, nobody uses them, and a repair redoes just them."""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import random
import re
import shutil
from pathlib import Path

import pytest

from tests.storage.s3_server import S3Server
from tests.storage.sample_run import SampleRun, contents, finished, tree
from wrpo_ray import run_inspect, run_status
from wrpo_ray.errors import StorageError
from wrpo_ray.run_state import read_run
from wrpo_ray.run_state.records import read_plan
from wrpo_ray.schema import Response, to_table
from wrpo_ray.storage.ledger import read_commit
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import create_manifest, read_manifest
from wrpo_ray.storage.tables import parquet_bytes, read_rows

NUM_FLIPS = 40
MAX_BITS = 1500
SEED = 20_261_121


def inspect(run: Path | str, *more: str) -> str:
    """Return what the command prints; raises what it raises."""
    parser = argparse.ArgumentParser()
    run_inspect.add_arguments(parser)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert run_inspect.main(parser.parse_args([str(run), *more])) == 0
    return printed.getvalue()


def damaged(run: Path | str) -> StorageError:
    """Return the error that names the run as damaged."""
    with pytest.raises(StorageError) as caught:
        inspect(run)
    assert (caught.value.code, caught.value.exit_code) == ("WRPO-S031", 6)
    return caught.value


@pytest.fixture
def run(tmp_path: Path) -> SampleRun:
    return finished(tmp_path, until="sample")


def shard_files(run: SampleRun) -> list[Path]:
    """Return the data files of the sampling step in the order of their shards."""
    folder = run.at("sample").local_path
    assert folder
    return sorted((folder / "data").iterdir())


@pytest.mark.parametrize("end", [0, 3, 8, "half", -1, -4, -100])
def test_cut_parquet_is_refused_and_named(run: SampleRun, end: int | str) -> None:
    path = shard_files(run)[1]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 if end == "half" else int(end)])
    with pytest.raises(StorageError, match=re.escape(str(path))) as caught:
        read_rows(run.at("sample"), Response)
    assert caught.value.exit_code == 6
    assert str(path) in str(damaged(Path(str(run.folder))))


def test_missing_file_is_refused_and_named(run: SampleRun) -> None:
    path = shard_files(run)[1]
    path.unlink()
    with pytest.raises(StorageError, match=re.escape(f"{path} is missing")):
        read_rows(run.at("sample"), Response)
    assert f"{path}: missing, the manifest lists it" in str(damaged(Path(str(run.folder))))


def test_short_but_valid_parquet_is_refused(run: SampleRun) -> None:
    """A writer that is stopped by an exception leaves a file that opens and has too few rows."""
    path = shard_files(run)[1]
    path.write_bytes(parquet_bytes(to_table(read_rows(run.at("sample"), Response)[6:9], Response)))
    with pytest.raises(StorageError, match=f"{path.name} was changed"):
        read_rows(run.at("sample"), Response)
    assert path.name in str(damaged(Path(str(run.folder))))


def test_short_parquet_is_refused_even_when_its_hash_was_noted(run: SampleRun) -> None:
    """Bytes that were hashed after rows had been lost: only the count tells."""
    folder = run.at("sample")
    manifest = read_manifest(folder)
    assert manifest is not None
    more = dataclasses.replace(manifest.files[1], num_rows=(manifest.files[1].num_rows or 0) + 2)
    (folder / "manifest.json").delete()
    create_manifest(folder, dataclasses.replace(manifest, files=(manifest.files[0], more, *manifest.files[2:])))
    with pytest.raises(StorageError, match="holds 4 rows, its manifest says 6"):
        read_rows(folder, Response)
    damaged(Path(str(run.folder)))


def test_foreign_file_is_not_read_and_is_told(run: SampleRun) -> None:
    rows = read_rows(run.at("sample"), Response)
    first = shard_files(run)[0]
    shutil.copy(first, first.with_name("zzz.parquet"))
    assert read_rows(run.at("sample"), Response) == rows
    assert "sample: data/zzz.parquet: no record names it, nobody reads it" in inspect(Path(str(run.folder)))


def test_swapped_shards_are_refused(run: SampleRun) -> None:
    first, second = shard_files(run)[:2]
    contents_of_first = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(contents_of_first)
    with pytest.raises(StorageError, match="was changed"):
        read_rows(run.at("sample"), Response)
    told = str(damaged(Path(str(run.folder))))
    assert first.name in told
    assert second.name in told


def test_copied_commit_is_refused(run: SampleRun) -> None:
    """One shard's commit in another one's place would double its rows and lose the other's."""
    folder = run.at("sample")
    first, second = (f"commits/{shard.name}.json" for shard in run.shards()[:2])
    (folder / second).write_bytes((folder / first).read_bytes())
    assert f"{folder / second}: is the commit of {run.shards()[0].name}" in str(damaged(Path(str(run.folder))))
    with pytest.raises(StorageError, match="commit of"):
        read_commit(folder, run.shards()[1].name)


def test_finished_step_is_not_finished_again_with_a_copied_commit(tmp_path: Path) -> None:
    run = finished(tmp_path, until="prompts")
    for shard in run.shards():
        run.commit_shard(shard)
    folder, (first, second, *_) = run.at("sample"), run.shards()
    (folder / f"commits/{second.name}.json").write_bytes((folder / f"commits/{first.name}.json").read_bytes())
    with pytest.raises(StorageError, match="commit of"):
        run.run(until="sample")


TARGETS = {
    "data page": ("sample", "data/*.parquet"),
    "commit": ("sample", "commits/*.json"),
    "manifest": ("sample", "manifest.json"),
    "plan": ("sample", "plan.json"),
    "quarantine": ("sample", "quarantine/*.jsonl"),
    "model": ("train", "model/model.safetensors"),
    "submission": ("", "submissions/*.json"),
}


def flipped(content: bytes, rng: random.Random, part: str) -> bytes:
    """Return `content` with one random bit changed; of Parquet, in the pages or in the footer."""
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little") if content[:4] == b"PAR1" else len(content)
    place = rng.randrange(footer, len(content)) if part == "footer" else rng.randrange(footer)
    changed = bytearray(content)
    changed[place] ^= 1 << rng.randrange(8)
    return bytes(changed)


def same_data(before: bytes, after: bytes, path: Path) -> bool:
    """Tell whether a flip left a record's meaning as it was: other white space, or 1.50 for 1.5."""
    if path.suffix != ".json":
        return False
    try:
        return json.loads(before) == json.loads(after)
    except ValueError:
        return False


def found_out(run: Path) -> bool:
    """Tell whether a check ends with exit code 6."""
    try:
        inspect(run)
    except StorageError:
        return True
    return False


@pytest.mark.parametrize("part", [*TARGETS, "footer"])
def test_every_flip_that_changes_data_is_found(tmp_path: Path, part: str) -> None:
    run = finished(tmp_path, until="train")
    rng = random.Random(f"{SEED} {part}")
    step, pattern = TARGETS.get(part, TARGETS["data page"])
    folder = Path(str(run.at(step) if step else run.folder))
    missed = []
    for _ in range(NUM_FLIPS):
        path = rng.choice(sorted(folder.glob(pattern)))
        content = path.read_bytes()
        changed = flipped(content, rng, part)
        path.write_bytes(changed)
        if not found_out(tmp_path) and not same_data(content, changed, path):
            missed.append((path.name, [pair for pair in zip(content, changed, strict=True) if pair[0] != pair[1]]))
        path.write_bytes(content)
    assert missed == []
    inspect(tmp_path)


READERS = {
    "manifest.json": lambda folder, shard: read_manifest(folder),
    "plan.json": lambda folder, shard: read_plan(folder),
    "commits/{shard}.json": lambda folder, shard: read_commit(folder, shard),
}


@pytest.mark.parametrize("name", READERS)
def test_every_bit_of_a_record_is_guarded(run: SampleRun, name: str) -> None:
    """Each single bit of a small record, every so many of a larger one, through the readers that a run uses."""
    folder, shard = run.at("sample"), run.shards()[1].name
    path = Path(str(folder / name.format(shard=shard)))
    content = path.read_bytes()
    unnoticed = []
    # An odd step meets all eight bits of the bytes.
    for bit in range(0, len(content) * 8, len(content) * 8 // MAX_BITS | 1):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        if same_data(content, bytes(changed), path):
            continue
        path.write_bytes(changed)
        with contextlib.suppress(StorageError):
            READERS[name](folder, shard)
            unnoticed.append((bit, bytes(changed[max(0, bit // 8 - 10) : bit // 8 + 10])))
    assert unnoticed == []


def test_damaged_checkpoint_is_found_and_alone_removed(tmp_path: Path) -> None:
    run = finished(tmp_path, until="sample")
    root = run.at("train") / "scratch/checkpoints"
    for number in (1, 2):
        write_checkpoint(root / f"step-{number:08d}-abc", number)
    inspect(tmp_path)
    rng = random.Random(SEED)
    for name in ("state.pt", "checkpoint.json"):
        path = Path(str(root / f"step-00000002-abc/{name}"))
        content = path.read_bytes()
        for _ in range(NUM_FLIPS):
            changed = flipped(content, rng, "")
            path.write_bytes(changed)
            if not same_data(content, changed, path):
                assert str(path) in str(damaged(tmp_path))
    inspect(tmp_path, "--repair")
    assert [path.name for path in Path(str(root)).iterdir() if any(path.iterdir())] == ["step-00000001-abc"]


def write_checkpoint(folder, number: int) -> None:
    """Write a checkpoint as training does, without torch."""
    from wrpo_ray.storage.tables import write_file
    from wrpo_ray.train.checkpoints import commit_checkpoint

    commit_checkpoint(folder, number, [write_file(folder, "state.pt", bytes(range(256)))], {"seed": 1})


def test_nothing_is_made_again_without_repair(run: SampleRun, tmp_path: Path) -> None:
    path = shard_files(run)[1]
    path.write_bytes(flipped(path.read_bytes(), random.Random(SEED), ""))
    before = tree(tmp_path)
    damaged(tmp_path)
    assert tree(tmp_path) == before
    with pytest.raises(StorageError, match="was changed"):
        run.run(until="train")
    assert run.made == ["train"]
    assert contents(tmp_path) == {
        name: digest for name, (_, digest) in before.items() if "/data/" in name or "/model/" in name
    }


@pytest.mark.parametrize("part", ["data page", "footer", "commit"])
def test_repair_makes_the_damaged_shard_again_and_no_other(tmp_path: Path, part: str) -> None:
    run = finished(tmp_path, until="sample")
    clean = contents(tmp_path)
    rng = random.Random(f"repair {part}")
    paths = sorted((Path(str(run.at("sample"))) / "commits").iterdir()) if part == "commit" else shard_files(run)
    content = paths[2].read_bytes()
    # A commit's first byte: what is no JSON at all cannot be a matter of opinion.
    paths[2].write_bytes(b"\x00" + content[1:] if part == "commit" else flipped(content, rng, part))
    inspect(tmp_path, "--repair")
    assert run.run(until="sample") == [run.shards()[2].name]
    assert contents(tmp_path) == clean
    assert "everything verifies" in inspect(tmp_path)


def test_status_inspect_and_repair_work_over_s3(s3: S3Server, capsys: pytest.CaptureFixture[str]) -> None:
    run = SampleRun(locate(f"s3://{s3.new_bucket()}/runs/r1"))
    run.run()
    uri = str(run.folder)
    assert [step.phase for step in read_run(locate(uri)).steps] == ["complete"] * 4
    assert run_status.main(argparse.Namespace(run=uri, json=False)) == 0
    assert f"{uri}/sample/" in capsys.readouterr().out
    assert "everything verifies" in inspect(uri)
    shard = run.shards()[1]
    file = run.at("sample") / read_commit(run.at("sample"), shard.name).file.path
    file.write_bytes(flipped(file.read_bytes(), random.Random(SEED), ""))
    assert f"{file}: changed after it was written" in str(damaged(uri))
    assert f"  {file}: file of {shard.name}" in inspect(uri, "--repair")
    assert run.run(until="sample") == [shard.name]


def test_damaged_model_is_made_again_whole(tmp_path: Path) -> None:
    run = finished(tmp_path, until="train")
    clean = contents(tmp_path)
    path = Path(str(run.at("train") / "model/model.safetensors"))
    path.write_bytes(flipped(path.read_bytes(), random.Random(SEED), ""))
    inspect(tmp_path, "--repair")
    assert run.run(until="train") == ["train"]
    assert contents(tmp_path) == clean


def test_damaged_manifest_alone_costs_no_shard(tmp_path: Path) -> None:
    run = finished(tmp_path, until="sample")
    path = Path(str(run.at("sample") / "manifest.json"))
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    inspect(tmp_path, "--repair")
    assert run.run(until="sample") == []
    assert read_manifest(run.at("sample")) is not None
    assert (run.at("sample") / "manifest.json.damaged-1").read_bytes() == content[:-5]


def test_damaged_plan_costs_nothing(tmp_path: Path) -> None:
    run = finished(tmp_path, until="sample")
    Path(str(run.at("sample") / "plan.json")).write_bytes(b"{")
    inspect(tmp_path, "--repair")
    assert run.run(until="sample") == []
    assert "everything verifies" in inspect(tmp_path)


def test_later_steps_stay_when_the_shard_comes_out_as_it_was(tmp_path: Path) -> None:
    run = finished(tmp_path)
    path = shard_files(run)[1]
    path.write_bytes(flipped(path.read_bytes(), random.Random(SEED), ""))
    inspect(tmp_path, "--repair")
    assert run.run() == [run.shards()[1].name]
    assert "everything verifies" in inspect(tmp_path)


def test_later_steps_are_made_again_when_the_shard_comes_out_otherwise(tmp_path: Path) -> None:
    """The shard comes out with other bytes: nothing made from the old ones may stay beside it."""
    run = finished(tmp_path)
    path = shard_files(run)[1]
    path.write_bytes(flipped(path.read_bytes(), random.Random(SEED), ""))
    inspect(tmp_path, "--repair")
    run.salt = "another GPU"
    with contextlib.suppress(StorageError):
        # With the content of inputs in manifests the run stops here, until what was made from other bytes is gone.
        run.run()
    if found_out(tmp_path):
        inspect(tmp_path, "--repair")
    run.run()
    again = SampleRun(locate(tmp_path), salt=run.salt)
    assert again.run() == []
    model = (run.at("train") / "model/model.safetensors").read_bytes()
    texts = sorted(row.text for row in read_rows(run.at("sample"), Response))
    assert model == hashlib.sha256("".join(texts).encode()).digest() * 200
    assert (run.at("export") / "model/model.safetensors").read_bytes() == model
    assert "everything verifies" in inspect(tmp_path)
