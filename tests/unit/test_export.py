"""Exported data sets: every quadruple, file by file, as other tools read them."""

from pathlib import Path

from datasets import load_dataset

from wrpo_ray.config_file import parse_config
from wrpo_ray.data.exporters import to_trl_preference, to_wrpo_release
from wrpo_ray.export import export_datasets
from wrpo_ray.schema import Quadruple
from wrpo_ray.storage.location import locate
from wrpo_ray.storage.manifest import Manifest, create_manifest
from wrpo_ray.storage.tables import verified_bytes, write_rows

_CONFIG = """
run: {name: r, root: runs}
prompts: {path: prompts.jsonl, answer_column: answer}
sources: [{name: a, path: a}]
target: {name: t, path: t}
reward: {type: verifier}
sft: {learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}
wrpo: {learning_rate: 1e-3, max_length: 64, max_prompt_length: 32}
"""
SYSTEM = {"role": "system", "content": "x"}


def quadruple(number: int) -> Quadruple:
    """Return one whose prompt has several messages when its number is 4 or more."""
    messages = [*([SYSTEM] if number >= 4 else []), {"role": "user", "content": str(number)}]
    return Quadruple(f"p{number}", messages, "ws", "wt", "l", "a", 0.8, 0.3, -0.4, "stop", "stop", "length")


def test_data_sets_are_written_file_by_file_and_read_as_one(tmp_path: Path) -> None:
    rows, folder, step = (
        [quadruple(number) for number in range(7)],
        locate(tmp_path / "export"),
        locate(tmp_path / "fuse"),
    )
    # Of the last file nothing fits the paper's format.
    files = [
        write_rows(step, f"data/train-{number:05d}-of-00003.parquet", part, Quadruple)
        for number, part in enumerate((rows[:3], rows[3:4], rows[4:]))
    ]
    create_manifest(step, Manifest("fuse", "f", {}, {}, tuple(files), {}, {}, 0.0))
    entries, counts = export_datasets(parse_config(_CONFIG, "c.yaml", ()), step, folder)
    assert counts == {"num_preference_pairs": 14, "num_release_rows": 4, "num_not_in_release_format": 3}
    assert len(entries) == 3 + 2 + 2
    for entry in entries:
        verified_bytes(folder, entry)
    expected = {"trl_preference": to_trl_preference(rows, "t"), "wrpo_release": to_wrpo_release(rows)}
    for name, table in expected.items():
        read = load_dataset(str(tmp_path / "export" / "datasets" / name), split="train", cache_dir=str(tmp_path / "c"))
        assert read.to_list() == table.to_pylist()
