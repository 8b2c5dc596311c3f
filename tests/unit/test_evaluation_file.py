"""evaluation.json is shown whole or not at all: what its format has and it lacks is named, wherever it is read."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic_run import evaluation_by_contract, finished
from wrpo_ray.cli import main
from wrpo_ray.errors import StorageError
from wrpo_ray.evaluate.evaluation_file import read_evaluation_file
from wrpo_ray.storage.location import json_bytes, locate
from wrpo_ray.storage.manifest import Manifest
from wrpo_ray.storage.tables import write_file

# Those of the correction for several pairs came later.
OPTIONAL = {"p_value", "p_value_corrected"}


def paths(value: Any, head: str = "") -> list[str]:
    """Return the dotted paths of all keys, of lists those of the last entry."""
    if isinstance(value, list):
        return paths(value[-1], f"{head}{len(value) - 1}.")
    if not isinstance(value, dict):
        return []
    return [path for key, inner in value.items() for path in (f"{head}{key}", *paths(inner, f"{head}{key}."))]


def at(value: Any, path: list[str]) -> Any:
    for part in path:
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


def read(folder: Path, written: Any) -> dict[str, Any] | None:
    place = locate(folder)
    entry = write_file(place, "evaluation.json", json_bytes(written))
    return read_evaluation_file(place, Manifest("evaluate", "f", {}, {}, (entry,), {}, {}, 0.0))


REQUIRED = [path for path in paths(evaluation_by_contract()) if path.rpartition(".")[2] not in OPTIONAL | {"format"}]


@pytest.mark.parametrize("path", REQUIRED)
def test_a_key_that_is_missing_or_of_another_kind_is_named(tmp_path: Path, path: str) -> None:
    *above, key = path.split(".")
    lacking = evaluation_by_contract()
    del at(lacking, above)[key]
    with pytest.raises(StorageError, match=f"has format 1, and does not: {path}: Field required") as caught:
        read(tmp_path, lacking)
    assert (caught.value.code, str(tmp_path) in caught.value.message) == ("WRPO-S051", True)
    wrong = evaluation_by_contract()
    at(wrong, above)[key] = "0.5" if not isinstance(at(wrong, above)[key], str) else 0.5
    with pytest.raises(StorageError, match=f"{path}.*: Input should be a valid"):
        read(tmp_path, wrong)


def test_what_is_whole_comes_as_it_is(tmp_path: Path) -> None:
    told = evaluation_by_contract()
    assert read(tmp_path, told) == told
    assert read(tmp_path, told | {"later": 1, "safety": None, "benchmarks": None}) is not None
    older = copy.deepcopy(told)
    for pair in older["pairs"]:
        del pair["p_value"], pair["p_value_corrected"]
    assert read(tmp_path, older) == older
    assert read(tmp_path, {"models": {}}) is None
    with pytest.raises(StorageError, match="has format 2, this version reads format 1") as caught:
        read(tmp_path, told | {"format": 2})
    assert caught.value.code == "WRPO-S050"


def test_only_the_first_faults_are_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"models.0.name: Field required; .* and \d+ more"):
        read(tmp_path, {"format": 1, "models": [{}, {}]})


def test_report_compare_and_evaluate_say_so_and_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = evaluation_by_contract()
    del told["pairs"][3]["judged_by"]
    runs = [str(tmp_path / name) for name in ("one", "two")]
    finished(Path(runs[0]), num_prompts=12, evaluation=evaluation_by_contract())
    finished(Path(runs[1]), num_prompts=12, evaluation=told)
    for command in (["report", runs[1]], ["compare", *runs], ["evaluate", runs[1]]):
        assert main(command) == 6
        said = capsys.readouterr().err
        assert "WRPO-S051" in said
        assert "pairs.3.judged_by: Field required" in said
        assert "Traceback" not in said
    assert main(["evaluate", runs[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == evaluation_by_contract()
