"""`wrpo-ray export RUN --to FOLDER [--push-to-hub NAME]`: a finished run's model and data as folders with cards.

FOLDER/model                                 the fused model, as the step `export` made it
FOLDER/dataset/README.md                     the data card
FOLDER/dataset/quadruples/train-*.parquet    the same as trl_preference and wrpo_release; and sft, its examples
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from wrpo_ray.config_ablation import AblationConfig, departures
from wrpo_ray.data_card import QUADRUPLES, SFT, TRL_PREFERENCE, WRPO_RELEASE, DataFacts, ModelFacts, data_card
from wrpo_ray.errors import ConfigError
from wrpo_ray.export import deliver
from wrpo_ray.hub import push
from wrpo_ray.model_card import shown_path
from wrpo_ray.model_paths import in_object_store, is_local
from wrpo_ray.run_state import no_run
from wrpo_ray.run_state.records import submission_places
from wrpo_ray.schema import Quadruple
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import FileEntry, Manifest, RunLayout, content_digest, read_manifest, verify_files
from wrpo_ray.storage.tables import parquet_entries, read_verified, verified_bytes
from wrpo_ray.submissions import submission_record

_CARD = "README.md"


@dataclass(frozen=True)
class Finished:
    """A finished step: where it lies and what it made."""

    folder: Location
    manifest: Manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    parser.add_argument("run", metavar="RUN", help="the run's folder, or s3:// or gs:// URI: run.root/run.name")
    parser.add_argument("--to", metavar="FOLDER", required=True, help="empty folder on this machine")
    parser.add_argument(
        "--push-to-hub", metavar="NAME", help="upload both to the Hugging Face hub as NAME, private unless --public"
    )
    parser.add_argument("--public", action="store_true", help="let everybody see what is pushed")


def main(options: argparse.Namespace) -> int:
    """Write model and data of a run, push them when asked, and return 0.

    Raises ConfigError when the run is not finished, the folder is not empty or the hub refuses, StorageError when a
    file of the run is not what was written.
    """
    config, steps = read_finished(locate(options.run))
    folder = Path(options.to).expanduser()
    write_all(config, steps, folder)
    print(f"model:   {folder / 'model'}\ndataset: {folder / 'dataset'}")
    if options.push_to_hub:
        for address in push(folder, options.push_to_hub, options.public):
            print(f"pushed:  {address}")
    return 0


def read_finished(run: Location) -> tuple[Mapping[str, Any], dict[str, Finished]]:
    """Return the config of a run's last start and its finished steps by name; raises ConfigError as `main` does."""
    places = submission_places(RunLayout(run))
    if not places:
        raise no_run(run)
    place = places[0][1]
    raw = place.read_sealed()
    submission_record(raw, place)
    reused = {f"{step['name']}/{step['fingerprint']}": step["run"] for step in raw["steps"] if step.get("run")}
    layout = RunLayout(run, reused)
    found: dict[str, Finished] = {}
    for step in raw["steps"]:
        folder = layout.step_folder(step["name"], step["fingerprint"])
        if (manifest := read_manifest(folder)) is not None:
            found[step["name"]] = Finished(folder, manifest)
    # Without SFT nothing is chosen for it.
    wanted = ("fuse", "export") if _ablation(raw["config"]).skip_sft else ("select_sft", "fuse", "export")
    if missing := [name for name in wanted if name not in found]:
        raise ConfigError(
            f"{run}: the steps {', '.join(missing)} are not complete",
            code="WRPO-C092",
            help=f"run it to its end; `wrpo-ray status {run}` says what is missing",
        )
    return raw["config"], found


def write_all(config: Mapping[str, Any], steps: Mapping[str, Finished], folder: Path) -> None:
    """Write model and data below `folder`, each file compared with the run's manifests."""
    fuse, export = steps["fuse"], steps["export"]
    files = dict(_data_files(steps))
    model = [entry.path for entry in export.manifest.files if entry.path.startswith("model/")]
    _require_own(folder, {*model, *(f"dataset/{name}" for name in files), f"dataset/{_CARD}"})
    verify_files(export.folder, "model")
    deliver(export.folder / "model", str(folder / "model"))
    target = locate(folder / "dataset")
    for name, (place, entry) in files.items():
        (target / name).write_bytes(verified_bytes(place, entry))
    card = data_card(_facts(config, fuse, {name: entry for name, (_, entry) in files.items()}))
    (target / _CARD).write_bytes(card.encode("utf-8"))


def _data_files(steps: Mapping[str, Finished]) -> Iterator[tuple[str, tuple[Location, FileEntry]]]:
    """Yield the name of every data file below dataset/, and where it is read."""
    for name, step in ((QUADRUPLES, "fuse"), (SFT, "select_sft")):
        if step not in steps:
            continue
        folder = steps[step].folder
        # Data sets stumble over files without rows.
        for number, entry in enumerate(entry for entry in parquet_entries(folder) if entry.num_rows):
            yield f"{name}/train-{number:05d}.parquet", (folder, entry)
    export = steps["export"]
    for name in (TRL_PREFERENCE, WRPO_RELEASE):
        head = f"datasets/{name}/data/"
        for entry in export.manifest.files:
            if entry.path.startswith(head):
                yield f"{name}/{entry.path.removeprefix(head)}", (export.folder, entry)


def _require_own(folder: Path, names: set[str]) -> None:
    if "://" in str(folder):
        raise ConfigError(f"--to {folder} is no folder of this machine", code="WRPO-C093", help="name an empty folder")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if strangers := sorted(found - names):
        raise ConfigError(
            f"--to {folder} holds other files, such as {strangers[0]}", code="WRPO-C093", help="name an empty folder"
        )


def _facts(config: Mapping[str, Any], fuse: Finished, files: Mapping[str, FileEntry]) -> DataFacts:
    summary = fuse.manifest.summary
    num_rows: dict[str, int] = {}
    for name, entry in files.items():
        kind = name.partition("/")[0]
        num_rows[kind] = num_rows.get(kind, 0) + (entry.num_rows or 0)
    reward = config["reward"]
    shown = (
        f"rule-based verifier ({reward.get('mode')})" if reward["type"] == "verifier" else shown_path(reward["path"])
    )
    return DataFacts(
        run=config["run"]["name"],
        license=config["export"]["license"],
        models=_models(config, summary, _num_chosen(fuse)),
        reward=shown,
        prompts=Path(config["prompts"]["path"]).name,
        num_rows=num_rows,
        fuse=summary,
        fingerprint=fuse.manifest.fingerprint,
        content_sha256=content_digest(fuse.manifest),
        departures=departures(_ablation(config)),
    )


def _ablation(config: Mapping[str, Any]) -> AblationConfig:
    """Return what a run does otherwise than the method; older runs do not say so."""
    return AblationConfig.model_validate(config.get("ablation") or {})


def _num_chosen(fuse: Finished) -> Counter[str]:
    """Return on how many prompts each source wrote y_ws, one file at a time."""
    column = pa.schema([Quadruple.SCHEMA.field("source")])
    found: Counter[str] = Counter()
    for entry in parquet_entries(fuse.folder):
        found.update(read_verified(fuse.folder, entry, column)["source"].to_pylist())
    return found


def _models(config: Mapping[str, Any], fuse: Mapping[str, Any], num_chosen: Mapping[str, int]) -> list[ModelFacts]:
    """Return the sources that are left in the data, and the target."""
    facts = []
    for source in config["sources"]:
        name, path = source["name"], source.get("path")
        if name in fuse["best_share"]:
            shown = f"{source['model']} (API)" if path is None else shown_path(path)
            facts.append(ModelFacts(name, shown, model_license(path), num_chosen.get(name, 0)))
    target = config["target"]
    return [*facts, ModelFacts(target["name"], shown_path(target["path"]), model_license(target["path"]), None)]


def model_license(path: str | None) -> str | None:
    """Return the licence that the card (README.md) in a local model folder names, or None when nothing is found."""
    if path is None or in_object_store(path) or not is_local(path):
        return None
    card = Path(path).expanduser() / _CARD
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    head, dashes, _ = text.removeprefix("---\n").partition("\n---")
    if not text.startswith("---\n") or not dashes:
        return None
    try:
        header = yaml.safe_load(head)
    except yaml.YAMLError:
        return None
    found = header.get("license") if isinstance(header, dict) else None
    return found if isinstance(found, str) else None
