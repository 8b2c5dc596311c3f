"""A store in memory, as strict as an object store: whole objects, create-only writes, a clock of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from wrpo_ray.storage.stores import Stat, Stored


@dataclass
class FakeTime:
    """Time that passes only when somebody sleeps or looks; `skew_s` is what a store's clock is ahead by."""

    seconds: float = 1_000_000.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class MemoryStore:
    """Satisfies Store. `objects` outlives whoever writes: give it to the next store, and a process was restarted."""

    objects: dict[str, bytes] = field(default_factory=dict)
    modified: dict[str, float] = field(default_factory=dict)
    time: FakeTime = field(default_factory=FakeTime)

    def uri(self, key: str) -> str:
        return f"memory://{key}"

    def read(self, key: str) -> bytes:
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def write(self, key: str, content: bytes) -> None:
        self.objects[key] = content
        self.modified[key] = self.time.seconds

    def create(self, key: str, content: bytes) -> bool:
        if key not in self.objects:
            self.write(key, content)
        return self.objects[key] == content

    def stat(self, key: str) -> Stat | None:
        return Stat(len(self.objects[key]), self.modified[key]) if key in self.objects else None

    def list(self, prefix: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(f"{prefix}/"))

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)
        self.modified.pop(key, None)

    def delete_folder(self, prefix: str) -> None:
        for key in self.list(prefix):
            self.delete(key)

    def now(self, folder: str) -> float:
        return self.time.seconds

    def upload(self, source: Path, key: str) -> Stored:
        content = source.read_bytes()
        self.write(key, content)
        return Stored(len(content), hashlib.sha256(content).hexdigest())

    def download(self, key: str, destination: Path) -> None:
        destination.write_bytes(self.read(key))
