"""Remove what does not verify, and nothing else, so that the next run makes just that again.

A shard whose file or commit is damaged loses both, and its step loses its manifest, which is kept aside under another
name; the shards that verify stay. A step that is not cut into shards loses its folder. What is made again may come out
with other bytes (sampling on GPUs does), and nothing may stay that was made from bytes that are gone:
- a later step whose manifest notes the content of its inputs stays: once the input is there again, the run and
  `wrpo-ray inspect` compare, and one that was made from other bytes counts as damaged then;
- any other later step that has begun goes: it cannot tell what it was made from;
- a step that is known to be made from other bytes goes with all that was made from it.
Later steps are removed before the ones that they were made from, and a manifest before what it lists: a crash in
between can cost work and never mixes results.
Steps that are read from another run are that run's: nothing is removed there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from wrpo_ray.run_inspect.findings import Finding, RunReport, StepReport, shard_of_file
from wrpo_ray.run_inspect.verify import DAMAGED_MANIFEST
from wrpo_ray.run_state import Contents, PlannedStep
from wrpo_ray.run_state.contents import commit_place, read_contents
from wrpo_ray.run_state.records import PLAN
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import MANIFEST, RunLayout


@dataclass(frozen=True)
class Removal:
    """One thing that a repair removes: a file, or a folder with everything below it; and why.

    manifest_of: the step's folder, when it is a manifest, of which a copy is kept.
    """

    place: Location
    folder: bool
    why: str
    manifest_of: Location | None = None

    def __str__(self) -> str:
        return f"{self.place}{'/' if self.folder else ''}: {self.why}"


def planned_removals(report: RunReport, layout: RunLayout) -> list[Removal]:
    """Return what has to go for every finding of `report`, in the order in which it must go."""
    submission = report.state.submission
    steps, layout = (submission.steps, submission.layout(layout.folder)) if submission else ((), layout)
    reports = {checked.step.name: checked for checked in report.steps}
    per_step: list[list[Removal]] = []
    lost: set[str] = set()
    void: set[str] = set()
    for step in steps:
        folder, checked = layout.step_folder(step.name, step.fingerprint), reports.get(step.name)
        if step.run is not None:
            lost |= {step.name} if checked and checked.findings else set()
            continue
        contents = checked.contents if checked else read_contents(folder)
        removals = _of_step(checked) if checked else []
        cause = _cause(step, contents, lost, void, bool(removals))
        if cause is not None:
            removals = [Removal(folder, True, f"made from step {cause}, which is made again")]
        if cause is not None or _loses_content(folder, removals):
            lost.add(step.name)
        if cause in void or (checked and _made_from_others(checked)):
            void.add(step.name)
        per_step.append(removals)
    of_steps = [removal for removals in reversed(per_step) for removal in removals]
    records = [Removal(locate(finding.path), False, finding.reason) for finding in report.findings]
    unfinished = [Removal(locate(path), False, "never finished") for path in report.temporaries]
    return [*of_steps, *records, *unfinished]


def carry_out(removals: Iterable[Removal], still_ours: Callable[[], None]) -> Iterator[Removal]:
    """Remove one thing after the other and yield what is gone; `still_ours` raises when the run is another's."""
    for removal in removals:
        still_ours()
        if removal.manifest_of is not None:
            set_manifest_aside(removal.manifest_of)
        if removal.folder:
            removal.place.delete_folder()
        else:
            removal.place.delete()
        yield removal


def set_manifest_aside(folder: Location) -> Location | None:
    """Keep a copy of the manifest under a name that no reader knows, and return its place; None when there is none.

    The copy shows later what the files were that are made again.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None
    number = 1
    while not folder.store.create((folder / f"{DAMAGED_MANIFEST}{number}").key, content):
        number += 1
    return folder / f"{DAMAGED_MANIFEST}{number}"


def _of_step(checked: StepReport) -> list[Removal]:
    contents, findings = checked.contents, checked.findings
    checkpoints = _checkpoints(contents, findings)
    serious = [finding for finding in findings if finding.kind != "checkpoint"]
    if not serious:
        return checkpoints
    if not contents.is_ledger or _made_from_others(checked):
        return [Removal(contents.folder, True, serious[0].reason)]
    return [*_of_ledger(contents, serious), *checkpoints]


def _made_from_others(checked: StepReport) -> bool:
    return any(finding.kind == "made_from" for finding in checked.findings)


def _of_ledger(contents: Contents, findings: Sequence[Finding]) -> list[Removal]:
    folder = contents.folder
    removals = []
    # A finished step is read by its manifest alone; its plan is not needed any more.
    if MANIFEST in contents.names and any(finding.kind != "plan" for finding in findings):
        removals.append(Removal(folder / MANIFEST, False, f"kept as {DAMAGED_MANIFEST}<n>, written again", folder))
    removals += [Removal(folder / PLAN, False, each.reason) for each in findings if each.kind == "plan"]
    shards = {each.shard: each.reason for each in reversed(findings) if each.shard is not None and _spoils_shard(each)}
    for shard, reason in sorted(shards.items()):
        removals.append(Removal(commit_place(folder, shard), False, reason))
        files = [name for name in sorted(contents.names) if shard_of_file(name) == shard]
        removals += [Removal(folder / name, False, f"file of {shard}") for name in files]
    removals += [Removal(locate(each.path), False, each.reason) for each in findings if each.kind == "quarantine"]
    return removals


def _spoils_shard(finding: Finding) -> bool:
    """A manifest that is wrong about a file says nothing against the file: the commit and the file agree."""
    return finding.kind in ("file", "commit")


def _checkpoints(contents: Contents, findings: Sequence[Finding]) -> list[Removal]:
    marked = [name.rsplit("/", 1)[0] for name in sorted(contents.names) if name.endswith("/checkpoint.json")]
    reasons = {
        name: finding.reason
        for name in marked
        for finding in findings
        if finding.kind == "checkpoint" and finding.path.startswith(f"{contents.folder / name}/")
    }
    return [Removal(contents.folder / name, True, reason) for name, reason in reasons.items()]


def _loses_content(folder: Location, removals: Sequence[Removal]) -> bool:
    """Tell whether bytes that later steps may have read are made again."""
    own = {removal.place.key for removal in removals}
    return folder.key in own or any(key.startswith(f"{folder.key}/commits/") for key in own)


def _cause(step: PlannedStep, contents: Contents, lost: set[str], void: set[str], damaged: bool) -> str | None:
    """Return an input because of which the whole step has to go, if there is one.

    lost: steps that are made again, perhaps with the same bytes. void: those known to come out otherwise.
    """
    if not contents.names:
        return None
    # A manifest that is to go proves nothing any more: what stays of the step would meet new bytes.
    recorded = contents.manifest.input_contents if contents.manifest and not damaged else {}
    causes = (name for name in step.inputs if name in void or (name in lost and name not in recorded))
    return next(causes, None)
