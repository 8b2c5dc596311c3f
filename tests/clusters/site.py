"""Machines, and a bucket that they and the tests reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clusters.machines import Machines
from tests.storage.s3_server import S3Server


@dataclass(frozen=True)
class Site:
    """server: the way of this process to the bucket; the machines know another address of it."""

    machines: Machines
    server: S3Server
    bucket: str

    def upload(self, folder: Path, key: str) -> str:
        """Copy a folder into the bucket and return its URI."""
        client: Any = self.server.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.upload_file(str(path), self.bucket, f"{key}/{path.relative_to(folder)}")
        return f"s3://{self.bucket}/{key}"

    def keys(self, prefix: str, part: str = "") -> list[str]:
        """Return the keys below `prefix` that hold `part`."""
        pages = self.server.client().get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [each["Key"] for page in pages for each in page.get("Contents", ()) if part in each["Key"]]


def wait_until(holds: Callable[[], bool], timeout_s: float, told: Callable[[], str]) -> None:
    """Wait until something holds; fails with what is `told` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, told()
        time.sleep(0.1)
