"""`wrpo-ray inspect` names what is wrong, where, and what it affects; `--repair` asks for the lease first."""

import argparse
import json
from pathlib import Path

import pytest

from tests.storage.sample_run import NUM_PROMPTS, SampleRun, finished, tree
from wrpo_ray import run_inspect
from wrpo_ray.errors import ConfigError, LeaseError, StorageError
from wrpo_ray.storage.lease import held


def inspect(run: Path, *more: str) -> int:
    parser = argparse.ArgumentParser()
    run_inspect.add_arguments(parser)
    return run_inspect.main(parser.parse_args([str(run), *more]))


def model(run: SampleRun) -> Path:
    return Path(str(run.at("train") / "model/model.safetensors"))


def shard_file(run: SampleRun) -> Path:
    """Return the data file of shard 1."""
    return sorted(Path(str(run.at("sample") / "data")).iterdir())[1]


def spoil(path: Path) -> None:
    """Change the last byte of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    before = tree(tmp_path)
    assert inspect(tmp_path) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("everything verifies\n")
    assert [line.split()[0] for line in shown.splitlines() if line.endswith("whole")] == [
        step.name for step in run.steps
    ]
    assert tree(tmp_path) == before


def test_damage_is_told_with_path_hashes_and_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    path = shard_file(run)
    spoil(path)
    with pytest.raises(StorageError, match="1 file") as caught:
        inspect(tmp_path)
    assert caught.value.exit_code == 6
    shown = capsys.readouterr().out
    written, found = (line.split()[-1] for line in shown.splitlines() if "    sha256 " in line)
    assert len(written) == len(found) == 64
    assert written != found
    assert str(path) in shown
    # Shard 1 has prompts 3, 4 and 5, and 4 was set aside.
    assert "affects shard 1 (of 0 to 3): 4 rows, 3 items" in shown


def test_one_step_in_detail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    spoil(model(run))
    assert inspect(tmp_path, "sample") == 0
    shown = capsys.readouterr().out
    for text in ('"model": "m"', '"num_responses": 20', "data/shard-000003-", f"prompts {run['prompts'].fingerprint}"):
        assert text in shown
    assert "1 engine_crash  " in shown
    assert "train" not in shown


def test_unknown_step_is_named_with_the_close_one(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(ConfigError, match="has no step `smaple`") as caught:
        inspect(tmp_path, "smaple")
    assert caught.value.code == "WRPO-C041"
    assert "did you mean `sample`?" in str(caught.value.help)


def test_folder_that_is_no_run_is_not_repaired(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("else")
    with pytest.raises(ConfigError, match="is no run"):
        inspect(tmp_path, "--repair")
    assert list(tree(tmp_path)) == ["something"]


def test_repair_refuses_while_a_driver_is_alive(tmp_path: Path) -> None:
    run = finished(tmp_path)
    spoil(model(run))
    with held(run.layout.leases, 4):
        before = {name: kept for name, kept in tree(tmp_path).items() if not name.startswith("lease/")}
        with pytest.raises(LeaseError, match="is in use: held by driver pid") as caught:
            inspect(tmp_path, "--repair")
        assert (caught.value.code, caught.value.exit_code) == ("WRPO-L001", 5)
        assert {name: kept for name, kept in tree(tmp_path).items() if not name.startswith("lease/")} == before
    assert inspect(tmp_path, "--repair") == 0
    assert not model(run).exists()


def test_repair_of_a_whole_run_removes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path)
    before = set(tree(tmp_path))
    assert inspect(tmp_path, "--repair") == 0
    assert "nothing to repair" in capsys.readouterr().out
    assert {name for name in tree(tmp_path) if not name.startswith("lease/")} == before


def test_repair_tells_what_it_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path, until="sample")
    before, path = set(tree(tmp_path)), shard_file(run)
    spoil(path)
    assert inspect(tmp_path, "--repair") == 0
    shown = capsys.readouterr().out
    after = {name for name in tree(tmp_path) if not name.startswith("lease/")}
    gone = before - after
    assert all(str(tmp_path / name) in shown.split("removed:")[1] for name in gone)
    assert sorted(name.split("/")[2] for name in gone) == ["commits", "data", "manifest.json"]
    assert [name.rsplit("/", 1)[1] for name in after - before] == ["manifest.json.damaged-1"]


def test_repair_of_one_step_leaves_the_others(tmp_path: Path) -> None:
    run = finished(tmp_path)
    spoil(Path(str(run.at("prompts") / "data/prompts.parquet")))
    spoil(Path(str(run.at("export") / "model/model.safetensors")))
    assert inspect(tmp_path, "export", "--repair") == 0
    assert Path(str(run.at("prompts") / "data/prompts.parquet")).exists()
    with pytest.raises(StorageError, match=r"prompts\.parquet"):
        inspect(tmp_path)


def test_what_nobody_reads_is_told_and_is_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    folder = Path(str(run.at("sample")))
    (folder / "data/.shard.parquet.0123.tmp").write_bytes(b"half")
    (tmp_path / "sample/00000000000000aa/data").mkdir(parents=True)
    (tmp_path / "sample/00000000000000aa/data/old.parquet").write_bytes(b"old")
    assert inspect(tmp_path) == 0
    shown = capsys.readouterr().out
    assert ".shard.parquet.0123.tmp: left by a writer that did not finish" in shown
    assert "sample/00000000000000aa: belongs to no step of the present config, nobody reads it" in shown
    assert inspect(tmp_path, "--repair") == 0
    assert not (folder / "data/.shard.parquet.0123.tmp").exists()
    assert (tmp_path / "sample/00000000000000aa/data/old.parquet").exists()


def test_lost_commit_of_a_finished_step_is_found(tmp_path: Path) -> None:
    run = finished(tmp_path, until="sample")
    name = run.shards()[2].name
    (run.at("sample") / f"commits/{name}.json").delete()
    with pytest.raises(StorageError, match="missing, the manifest lists its file"):
        inspect(tmp_path)
    inspect(tmp_path, "--repair")
    assert run.run(until="sample") == [name]


def test_leftover_attempt_of_an_unfinished_step_is_no_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, until="prompts")
    run.commit_shard(run.shards()[0])
    lost = run.at("sample") / f"data/{run.shards()[1].name}-0123456789abcdef.parquet"
    lost.write_bytes(b"of an attempt that was killed before its commit")
    assert inspect(tmp_path) == 0
    assert f"data/{lost.name}: no record names it, nobody reads it" in capsys.readouterr().out
    assert len(run.run(until="sample")) == 3
    assert not lost.exists()


def test_json_tells_every_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished(tmp_path)
    spoil(model(run))
    with pytest.raises(StorageError):
        inspect(tmp_path, "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["whole"] is False
    (finding,) = [finding for step in told["steps"] for finding in step["findings"]]
    assert finding["path"] == str(model(run))
    assert told["steps"][0]["manifest"]["files"][0]["num_rows"] == NUM_PROMPTS
