"""Plan, commits and manifest of a step that is cut into shards: do they tell one and the same story?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping

from wrpo_ray.run_inspect.files import Measured
from wrpo_ray.run_inspect.findings import Finding, shard_number, shard_of_file
from wrpo_ray.run_state import QUARANTINE, Contents
from wrpo_ray.run_state.contents import commit_place
from wrpo_ray.run_state.records import PLAN
from wrpo_ray.storage.ledger import Commit

_LEDGER = "WRPO-S032"


def affected_rows(contents: Contents, shard: str | None) -> str:
    """Return which rows a shard holds, in words."""
    number = shard_number(shard) if shard else None
    if number is None:
        return ""
    words = f"shard {number}"
    if contents.plan is not None:
        words += f" (of 0 to {contents.plan.num_shards - 1})"
    commit = (contents.commits or {}).get(shard or "")
    if commit is not None:
        words += f": {commit.file.num_rows} rows, {commit.num_items} items"
    return words


def check_ledger(contents: Contents, measured: Mapping[str, Measured | None]) -> Iterator[Finding]:
    """Yield what does not fit together in a step that is cut into shards."""
    damaged = {shard for finding in contents.damages if (shard := _shard_of_commit(finding.path))}
    yield from _plan_against_commits(contents)
    if contents.manifest is not None:
        yield from _missing_shards(contents, damaged)
        yield from _quarantine_against_commits(contents)
    for commit in (contents.commits or {}).values():
        yield from _conservation(contents, commit, measured.get(commit.file.path))


def _shard_of_commit(path: str) -> str | None:
    name = path.rsplit("/", 1)[-1].removesuffix(".json")
    return name if shard_number(name) is not None else None


def _plan_against_commits(contents: Contents) -> Iterator[Finding]:
    plan, commits = contents.plan, contents.commits or {}
    if plan is None:
        return
    numbers = {name: number for name in commits if (number := shard_number(name)) is not None}
    odd = [name for name, number in numbers.items() if plan.size_of(number) != commits[name].num_items]
    if odd and len(odd) * 2 > len(numbers):
        yield Finding(
            "plan", str(contents.folder / PLAN), code=_LEDGER,
            reason=f"{len(odd)} of {len(numbers)} commits are of other sizes than it plans",
        )  # fmt: skip
        return
    for name in odd:
        yield _of_commit(
            contents, name, f"it is for {commits[name].num_items} items, the plan says {plan.size_of(numbers[name])}"
        )


def _missing_shards(contents: Contents, damaged: set[str]) -> Iterator[Finding]:
    assert contents.manifest is not None
    commits = contents.commits or {}
    listed = {entry.path for entry in contents.manifest.files if entry.path.startswith("data/")}
    named = {commit.file.path for commit in commits.values()}
    for path in sorted(listed - named):
        shard = shard_of_file(path)
        if shard not in damaged and shard is not None and shard not in commits:
            yield _of_commit(contents, shard, f"missing, the manifest lists its file {path}")
    for shard, commit in sorted(commits.items()):
        if commit.file.path not in listed:
            yield Finding(
                "manifest", str(contents.folder / "manifest.json"), f"it does not list {commit.file.path}, which the"
                f" commit of {shard} names", _LEDGER, affected=affected_rows(contents, shard),
            )  # fmt: skip
    if contents.plan is not None:
        shards = {*commits, *damaged, *(shard for path in listed if (shard := shard_of_file(path)))}
        for number in sorted(set(range(contents.plan.num_shards)) - {shard_number(shard) for shard in shards}):
            yield Finding(
                "manifest", str(contents.folder / "manifest.json"),
                f"shard {number} has neither a commit nor a file, the plan has {contents.plan.num_shards} shards",
                _LEDGER, affected=f"shard {number}: {contents.plan.size_of(number)} items",
            )  # fmt: skip


def _quarantine_against_commits(contents: Contents) -> Iterator[Finding]:
    expected = Counter(
        (row.code, row.item) for commit in (contents.commits or {}).values() for row in commit.quarantined
    )
    for code in sorted({code for code, _ in expected} | set(_listed_codes(contents))):
        place = contents.folder / f"{QUARANTINE}{code}.jsonl"
        try:
            found = Counter((row["code"], row["item"]) for row in map(json.loads, place.read_bytes().splitlines()))
        except FileNotFoundError:
            found = Counter()
        except (ValueError, KeyError, TypeError):
            continue  # Its hash tells that already.
        of_code = Counter({pair: count for pair, count in expected.items() if pair[0] == code})
        if found != of_code:
            yield Finding(
                "quarantine", str(place), f"it lists {found.total()} rows, the commits set {of_code.total()} aside"
                + (" (other ones)" if found.total() == of_code.total() else ""), _LEDGER,
            )  # fmt: skip


def _listed_codes(contents: Contents) -> list[str]:
    files = contents.manifest.files if contents.manifest else ()
    paths = [entry.path for entry in files if entry.path.startswith(QUARANTINE)]
    return [path.removeprefix(QUARANTINE).removesuffix(".jsonl") for path in paths]


def _conservation(contents: Contents, commit: Commit, measured: Measured | None) -> Iterator[Finding]:
    """Every item of a shard has one outcome; checked where rows name their prompt or response."""
    if measured is None or not measured.items or not measured.is_entry(commit.file):
        return
    set_aside = {row.item for row in commit.quarantined}
    if len(set_aside) != len(commit.quarantined):
        yield _of_commit(contents, commit.shard, "it sets a row aside twice")
    # An item is a prompt in one step and a response in another; one of the two must fit.
    if not any(len(items) + len(set_aside) == commit.num_items and not items & set_aside for items in measured.items):
        counts = " or ".join(str(len(items)) for items in measured.items)
        yield _of_commit(
            contents, commit.shard,
            f"it is for {commit.num_items} items: {counts} have a result, {len(set_aside)} are set aside",
        )  # fmt: skip


def _of_commit(contents: Contents, shard: str, reason: str) -> Finding:
    path = str(commit_place(contents.folder, shard))
    return Finding("commit", path, reason, _LEDGER, shard=shard, affected=affected_rows(contents, shard))
