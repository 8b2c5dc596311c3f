"""A small run made by the real steps and the real ledger, that counts what it makes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wrpo_ray.schema import Prompt, Response, to_table
from wrpo_ray.steps import Step, StepResult, execute
from wrpo_ray.storage.ledger import QuarantinedRow, Shard, commit, finish, pending, planned
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import RunLayout
from wrpo_ray.storage.tables import read_rows, write_file, write_rows
from wrpo_ray.submissions import record, submission

NUM_PROMPTS, PROMPTS_PER_SHARD, NUM_SAMPLES = 11, 3, 2
POISON = 4


def prompt(number: int) -> Prompt:
    """Return prompt `number`."""
    return Prompt(f"prompt-{number:03d}", [{"role": "user", "content": f"Question {number}?"}], "sft", None)


@dataclass
class SampleRun:
    """prompts (one file) -> sample (4 shards, one row set aside) -> train (a model) -> export (a copy of it).

    made: names of all shards and steps that were made, in order. salt: changes what is sampled, as a GPU may do.
    """

    folder: Location
    salt: str = ""
    made: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        prompts = Step("prompts", {"content": "p"}, (), self._prompts)
        sample = Step("sample", {"model": "m"}, (prompts,), self._sample, source="m")
        train = Step("train", {"rate": 1e-5}, (sample,), self._train, scratch=("scratch",))
        export = Step("export", {"license": None}, (prompts, train), self._export)
        self.steps: Sequence[Step] = (prompts, sample, train, export)
        self.layout = RunLayout(self.folder)

    def __getitem__(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def at(self, name: str) -> Location:
        """Return the folder of a step."""
        return self[name].folder(self.layout)

    def submit(self) -> None:
        """Record a start."""
        record(self.layout.submissions, submission(1, {"run": {"name": "r"}}, self.steps, {"ray": "2.60.0"}))

    def run(self, until: str = "export") -> list[str]:
        """Start the run, work up to the step `until`, and return what was made."""
        self.made.clear()
        self.submit()
        for step in self.steps:
            execute(step, self.layout, {"ray": "2.60.0"})
            if step.name == until:
                break
        return list(self.made)

    def shards(self) -> list[Shard]:
        """Return the shards of the sampling step."""
        items = [prompt(number).prompt_id for number in range(NUM_PROMPTS)]
        return planned(self.at("sample"), items, PROMPTS_PER_SHARD)

    def commit_shard(self, shard: Shard) -> None:
        """Make one shard of the sampling step."""
        self.made.append(shard.name)
        poison = prompt(POISON).prompt_id
        kept = [item for item in shard.items if item != poison]
        rows = [self._response(item, index) for item in kept for index in range(NUM_SAMPLES)]
        aside = [QuarantinedRow(poison, "engine_crash", 2, "exit code 1")] if poison in shard.items else []
        commit(self.at("sample"), shard, to_table(rows, Response), kept, aside, {"num_responses": len(rows)})

    def _response(self, item: str, index: int) -> Response:
        text = hashlib.sha256(f"{item} {index} {self.salt}".encode()).hexdigest()
        return Response(item, "m", index, text, [1, 2, 3], "stop", 3)

    def _prompts(self, folder: Location) -> StepResult:
        self.made.append("prompts")
        rows = [prompt(number) for number in range(NUM_PROMPTS)]
        return StepResult((write_rows(folder, "data/prompts.parquet", rows, Prompt),), {"num_prompts": len(rows)})

    def _sample(self, folder: Location) -> StepResult:
        shards = self.shards()
        for shard in pending(folder, shards):
            self.commit_shard(shard)
        done = finish(folder, shards)
        return StepResult(done.files, dict(done.counts))

    def _train(self, folder: Location) -> StepResult:
        self.made.append("train")
        texts = sorted(row.text for row in read_rows(self.at("sample"), Response))
        weights = hashlib.sha256("".join(texts).encode()).digest() * 200
        metrics = "".join(json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in range(1, 5))
        files = (
            write_file(folder, "model/model.safetensors", weights),
            write_file(folder, "metrics.jsonl", metrics.encode()),
        )
        return StepResult(files, {"num_steps": 4})

    def _export(self, folder: Location) -> StepResult:
        self.made.append("export")
        weights = (self.at("train") / "model/model.safetensors").read_bytes()
        return StepResult((write_file(folder, "model/model.safetensors", weights),), {})


def finished(folder: Path, until: str = "export") -> SampleRun:
    """Return a run in `folder` that has worked up to the step `until`."""
    run = SampleRun(locate(folder))
    run.run(until)
    return run


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Return modification time and hash of every file below `folder`."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def contents(folder: Path) -> dict[str, str]:
    """Return the hash of every data and model file; records tell times and differ."""
    return {name: digest for name, (_, digest) in tree(folder).items() if "/data/" in name or "/model/" in name}
