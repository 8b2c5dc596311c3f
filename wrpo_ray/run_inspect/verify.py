"""Check a run: every record parses, every file is the one that was written, and all of them tell the same story."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from wrpo_ray.run_inspect.checkpoint_checks import checkpoint_findings
from wrpo_ray.run_inspect.files import Measured, changed_bytes, measure
from wrpo_ray.run_inspect.findings import Finding, Kind, RunReport, StepReport, shard_number, shard_of_file
from wrpo_ray.run_inspect.ledger_checks import affected_rows, check_ledger
from wrpo_ray.run_inspect.manifest_checks import made_from, manifest_findings
from wrpo_ray.run_state import METRICS, PROGRESS, QUARANTINE, Contents, Damage, PlannedStep, RunState
from wrpo_ray.run_state.contents import commit_place, read_contents
from wrpo_ray.run_state.records import PLAN, attempt, read_submission, submission_places
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import MANIFEST, FileEntry, RunLayout
from wrpo_ray.storage.stores import is_temporary

_NUM_FILES_AT_ONCE = 8
DAMAGED_MANIFEST = f"{MANIFEST}.damaged-"
_CHECKPOINT = "/checkpoint.json"
_CHANGED, _MISSING, _NO_PARQUET, _ROWS = "WRPO-S017", "WRPO-S016", "WRPO-S013", "WRPO-S014"
_MANIFEST_CODE, _MADE_FROM = "WRPO-S011", "WRPO-S033"


def verify_run(state: RunState, folder: Location, only: str | None = None) -> RunReport:
    """Return what a check of the run, or of the one step called `only`, finds; nothing is changed.

    Raises StorageError when the store cannot be read.
    """
    layout = state.submission.layout(folder) if state.submission else RunLayout(folder)
    planned = state.submission.steps if state.submission else ()
    selected = [step for step in planned if only in (None, step.name)]
    all_contents = {
        step.name: read_contents(layout.step_folder(step.name, step.fingerprint), every_commit=step in selected)
        for step in planned
    }
    reports = tuple(_verify_step(step, planned, all_contents, state.live) for step in selected)
    records = () if only else tuple(_record_findings(state, layout))
    return RunReport(
        state,
        reports,
        records,
        () if only else _other_fingerprints(layout, planned),
        () if only else tuple(_temporaries(folder, state)),
    )


def _verify_step(
    step: PlannedStep, planned: Sequence[PlannedStep], all_contents: Mapping[str, Contents], live: bool
) -> StepReport:
    contents = all_contents[step.name]
    measured = _measure_all(contents)
    findings = [_of_damage(contents, damage) for damage in contents.damages]
    findings += _file_findings(contents, measured)
    if contents.manifest is not None:
        findings += manifest_findings(contents.manifest, step, planned, contents.folder)
        findings += made_from(contents.manifest, step, all_contents, contents.folder)
    if contents.is_ledger:
        findings += check_ledger(contents, measured)
    if not live and step.run is None:
        findings += checkpoint_findings(contents)
    present = [found for found in measured.values() if found is not None]
    num_bytes = sum(found.num_bytes for found in present)
    # What else lies in the folder of another run is told when that one is inspected.
    warnings = () if step.run else tuple(_warnings(step, contents, all_contents, live))
    return StepReport(step, contents, tuple(dict.fromkeys(findings)), warnings, len(present), num_bytes)


def _entries(contents: Contents) -> dict[str, list[tuple[Kind, FileEntry]]]:
    """Return what the manifest and the commits say about each file."""
    entries: dict[str, list[tuple[Kind, FileEntry]]] = {}
    for entry in contents.manifest.files if contents.manifest else ():
        entries.setdefault(entry.path, []).append(("manifest", entry))
    for commit in (contents.commits or {}).values():
        entries.setdefault(commit.file.path, []).append(("commit", commit.file))
    return entries


def _measure_all(contents: Contents) -> dict[str, Measured | None]:
    entries = _entries(contents)

    def look(path: str) -> Measured | None:
        return measure(contents.folder / path, parquet=any(entry.num_rows is not None for _, entry in entries[path]))

    with ThreadPoolExecutor(_NUM_FILES_AT_ONCE) as pool:
        return dict(zip(entries, pool.map(look, entries), strict=True))


def _of_damage(contents: Contents, damage: Damage) -> Finding:
    path = damage.path.removeprefix(f"{contents.folder}/")
    kind: Kind = "quarantine" if path.startswith(QUARANTINE) else "file"
    shard = shard_of_file(path)
    if path == MANIFEST:
        kind = "manifest"
    elif path == PLAN:
        kind = "plan"
    elif path.startswith("commits/"):
        name = path.removeprefix("commits/").removesuffix(".json")
        kind, shard = "commit", name if shard_number(name) is not None else None
    elif shard in (contents.commits or {}) and path not in _committed_files(contents):
        # The shard has its file, so it is the manifest that names another one.
        return Finding(
            "manifest", str(contents.folder / MANIFEST), f"it lists {path}, which is missing", _MANIFEST_CODE
        )
    return Finding(kind, damage.path, damage.reason, damage.code, shard=shard, affected=affected_rows(contents, shard))


def _committed_files(contents: Contents) -> set[str]:
    return {commit.file.path for commit in (contents.commits or {}).values()}


def _file_findings(contents: Contents, measured: Mapping[str, Measured | None]) -> Iterator[Finding]:
    for path, entries in _entries(contents).items():
        found = measured[path]
        if found is None:
            continue  # A missing file is among the contents' damages.
        wrong: list[tuple[Kind, FileEntry]] = [(kind, entry) for kind, entry in entries if _difference(found, entry)]
        # Two records of one file: the one that does not fit the file is the one that was changed.
        if len(wrong) == len(entries):
            wrong = [("file", wrong[0][1])]
        for kind, entry in wrong:
            yield _file_finding(contents, kind, entry, found)


def _difference(found: Measured, entry: FileEntry) -> tuple[str, str] | None:
    if not found.is_entry(entry):
        return changed_bytes(found, entry), _CHANGED
    if found.problem is not None:
        return found.problem, _NO_PARQUET
    if entry.num_rows is not None and found.num_rows != entry.num_rows:
        return f"it holds {found.num_rows} rows, {entry.num_rows} were written", _ROWS
    return None


def _file_finding(contents: Contents, kind: Kind, entry: FileEntry, found: Measured) -> Finding:
    reason, code = _difference(found, entry) or ("", _CHANGED)
    shard = shard_of_file(entry.path)
    place = contents.folder / entry.path
    if kind == "manifest":
        place, reason, code = contents.folder / MANIFEST, f"its entry of {entry.path} was changed", _MANIFEST_CODE
    elif kind == "commit" and shard is not None:
        place, reason = commit_place(contents.folder, shard), f"its entry of {entry.path} was changed"
    elif entry.path.startswith(QUARANTINE):
        kind = "quarantine"
    affected = affected_rows(contents, shard) or ("" if entry.num_rows is None else f"{entry.num_rows} rows")
    return Finding(kind, str(place), reason, code, entry.sha256, found.sha256, shard, affected)


def _warnings(step: PlannedStep, contents: Contents, all_contents: Mapping[str, Contents], live: bool) -> Iterator[str]:
    if contents.manifest is not None:
        open_inputs = [name for name in step.inputs if all_contents[name].manifest is None]
        if open_inputs:
            yield f"its inputs {', '.join(open_inputs)} are to be made again"
    if contents.manifest is None and (live or not contents.is_ledger):
        return  # Work in progress.
    known = {MANIFEST, PLAN, PROGRESS, METRICS, *_entries(contents)}
    for name in sorted(contents.names - known):
        if name.startswith((DAMAGED_MANIFEST, "commits/")) or (
            contents.manifest is None and name.startswith("scratch/")
        ):
            continue
        yield f"{name}: no record names it, nobody reads it"


def _record_findings(state: RunState, layout: RunLayout) -> Iterator[Finding]:
    present = state.submission.number if state.submission else -1
    for damage in state.damages:
        kind: Kind = "submission" if damage.path.startswith(f"{layout.submissions}/") else "broken_source"
        yield Finding(kind, damage.path, damage.reason, damage.code)
    for number, place in submission_places(layout):
        if number >= present:
            continue
        found = attempt(place, functools.partial(read_submission, number, place))
        if isinstance(found, Damage):
            yield Finding("submission", found.path, found.reason, found.code)


def _other_fingerprints(layout: RunLayout, planned: Iterable[PlannedStep]) -> tuple[str, ...]:
    """Return what the run's folder holds of other configs: kept, and read by nobody now."""
    own = {f"{step.name}/{step.fingerprint}" for step in planned}
    names = {"/".join(place.relative_to(layout.folder).split("/")[:2]) for place in layout.folder.walk()}
    records = {layout.submissions.name, layout.leases.name, layout.broken_sources.name}
    return tuple(
        f"{name}: belongs to no step of the present config, nobody reads it"
        for name in sorted(names - own)
        if name.split("/")[0] not in records
    )


def _temporaries(folder: Location, state: RunState) -> list[str]:
    """Return the files that writers left unfinished; while a driver is at work they may be its own."""
    list_all = getattr(folder.store, "list_all", None)
    if list_all is None or state.live:
        return []
    return [str(Location(folder.store, key)) for key in list_all(folder.key) if is_temporary(key)]
