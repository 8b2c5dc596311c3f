"""A store that breaks at a chosen call: before it, or after it with the reply lost, with a crash or with an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.stores import Stat, Store, Stored

Mode = Literal["crash_before", "crash_after", "fail_before", "fail_after", "meanwhile_before", "meanwhile_after"]


class CrashError(BaseException):
    """The process is dead from here on. Nothing may catch it; every later call raises it again."""


@dataclass
class FaultStore:
    """Satisfies Store; counts all calls, and breaks call number `at` (from 0) as `mode` says.

    crash_*: this call and every later one raises CrashError, as after kill -9. fail_*: this call alone raises
    StorageError, as when all retries are spent. *_after: the call has been carried out, its reply is lost.
    meanwhile_*: `meanwhile` runs while this process stands still there (SIGSTOP, a long pause), then it goes on.
    """

    inner: Store
    mode: Mode | None = None
    at: int = -1
    calls: list[tuple[str, str]] = field(default_factory=list)
    dead: bool = False
    meanwhile: Callable[[], None] = lambda: None

    def _call(self, method: str, key: str, carry_out: Callable[[], Any]) -> Any:
        number = len(self.calls)
        if self.dead:
            raise CrashError("a dead process does not call")
        self.calls.append((method, key))
        if number == self.at:
            self._break("before", method, key)
        try:
            return carry_out()
        finally:
            # "There is none" is a reply too, and may be lost.
            if number == self.at:
                self._break("after", method, key)

    def _break(self, moment: str, method: str, key: str) -> None:
        if self.mode == f"crash_{moment}":
            self.dead = True
            raise CrashError(f"{self.mode} call {self.at}: {method} {key}")
        if self.mode == f"fail_{moment}":
            raise StorageError(f"{self.mode} call {self.at}: {method} {key}")
        if self.mode == f"meanwhile_{moment}":
            self.meanwhile()

    def uri(self, key: str) -> str:
        return self.inner.uri(key)

    def read(self, key: str) -> bytes:
        return self._call("read", key, lambda: self.inner.read(key))

    def write(self, key: str, content: bytes) -> None:
        self._call("write", key, lambda: self.inner.write(key, content))

    def create(self, key: str, content: bytes) -> bool:
        return self._call("create", key, lambda: self.inner.create(key, content))

    def stat(self, key: str) -> Stat | None:
        return self._call("stat", key, lambda: self.inner.stat(key))

    def list(self, prefix: str) -> list[str]:
        return self._call("list", prefix, lambda: self.inner.list(prefix))

    def delete(self, key: str) -> None:
        self._call("delete", key, lambda: self.inner.delete(key))

    def delete_folder(self, prefix: str) -> None:
        self._call("delete_folder", prefix, lambda: self.inner.delete_folder(prefix))

    def now(self, folder: str) -> float:
        return self._call("now", folder, lambda: self.inner.now(folder))

    def upload(self, source: Path, key: str) -> Stored:
        return self._call("upload", key, lambda: self.inner.upload(source, key))

    def download(self, key: str, destination: Path) -> None:
        self._call("download", key, lambda: self.inner.download(key, destination))
