"""The lease with real processes, real files and real time: P-09, P-10, P-24; and over S3, P-23."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.small_run import RUN, require_one_version
from tests.storage.s3_server import Fault, running_server
from wrpo_ray.errors import LeaseError
from wrpo_ray.storage.lease import Clock, acquire, held
from wrpo_ray.storage.lease_records import read_holder
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.stores import LocalStore, Stat


@dataclass
class Driver:
    """A driver process and when it began to work."""

    process: subprocess.Popen[str]
    name: str

    def end(self) -> tuple[int, str]:
        """Wait for it; return its exit code and what it said."""
        said = self.process.communicate(timeout=60)[1]
        return self.process.returncode, said


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Start a driver on the run in `tmp_path`; it waits for `go`."""
    drivers: list[Driver] = []

    def start_one(name: str, timeout_s: float, shard_s: float, *flags: str) -> Driver:
        command = [sys.executable, "-m", "tests.faults.lease_driver", str(tmp_path), name, str(timeout_s), str(shard_s)]
        root = Path(__file__).parents[2]
        process = subprocess.Popen([*command, *flags], cwd=root, stderr=subprocess.PIPE, text=True)
        drivers.append(Driver(process, name))
        return drivers[-1]

    yield start_one
    for driver in drivers:
        with contextlib.suppress(ProcessLookupError):
            driver.process.kill()
        driver.process.wait()


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def go(root: Path, *drivers: Driver) -> None:
    wait_for(lambda: all((root / f"ready-{driver.name}").exists() for driver in drivers))
    (root / "go").touch()


def generated(root: Path) -> list[tuple[str, str]]:
    """(driver, shard) of all that was generated so far."""
    place = root / "generated"
    lines = place.read_text(encoding="utf-8").splitlines() if place.exists() else []
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def leases(root: Path) -> Location:
    return locate(root / RUN / "lease")


def manifests(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("manifest.json")}


def test_of_two_drivers_at_once_one_works_and_the_other_names_it(tmp_path: Path, start: Callable[..., Driver]) -> None:
    drivers = [start(name, 60.0, 1.5) for name in ("one", "two")]
    go(tmp_path, *drivers)
    began = time.monotonic()
    wait_for(lambda: any(driver.process.poll() is not None for driver in drivers))
    took_s = time.monotonic() - began
    refused, works = sorted(drivers, key=lambda driver: driver.process.poll() is None)
    code, said = refused.end()
    assert code == 5
    assert took_s < 10
    assert "error[WRPO-L001]: run `small` is in use: held by driver pid" in said
    assert f"pid {works.process.pid} on {os.uname().nodename} since 20" in said
    assert "(epoch 1)" in said
    assert f"`kill {works.process.pid}`" in said
    assert works.end()[0] == 0
    assert {name for name, _ in generated(tmp_path)} == {works.name}
    holder = read_holder(leases(tmp_path))
    assert holder is not None
    assert (holder.state, holder.epoch, holder.owner.pid) == ("released", 1, works.process.pid)


def test_without_a_lease_two_drivers_at_once_double_no_row(tmp_path: Path, start: Callable[..., Driver]) -> None:
    drivers = [start(name, 0.0, 0.1) for name in ("one", "two")]
    go(tmp_path, *drivers)
    assert [driver.end()[0] for driver in drivers] == [0, 0]
    both = generated(tmp_path)
    assert {name for name, _ in both} == {"one", "two"}
    assert len(both) > len({shard for _, shard in both}), "they never met: the test proves nothing"
    require_one_version(locate(tmp_path / RUN))
    assert not list((tmp_path / RUN / "lease").glob("*"))


def test_a_killed_driver_is_taken_over_and_its_work_kept(tmp_path: Path, start: Callable[..., Driver]) -> None:
    killed = start("killed", 60.0, 0.1)
    go(tmp_path, killed)
    wait_for(lambda: len(generated(tmp_path)) == 4)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    began = time.monotonic()
    code, said = start("next", 60.0, 0.0).end()
    assert code == 0
    # On the same machine it is known to be dead: nobody waits for the 60 seconds.
    assert time.monotonic() - began < 20
    assert f"the driver pid {killed.process.pid} on {os.uname().nodename}" in said
    assert "(epoch 1) is dead: taking over" in said
    shards = [shard for _, shard in generated(tmp_path)]
    assert len(shards) - len(set(shards)) <= 1, "only the shard in flight is generated again"
    require_one_version(locate(tmp_path / RUN))


def test_a_driver_killed_elsewhere_is_taken_over_after_the_timeout(
    tmp_path: Path, start: Callable[..., Driver]
) -> None:
    killed = start("killed", 2.0, 0.1, "elsewhere")
    go(tmp_path, killed)
    wait_for(lambda: len(generated(tmp_path)) == 2)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    code, said = start("next", 2.0, 0.0).end()
    assert code == 0
    assert "waiting at most" in said
    assert "(epoch 1) gave no sign of life for" in said
    holder = read_holder(leases(tmp_path))
    assert holder is not None
    assert holder.epoch == 2
    require_one_version(locate(tmp_path / RUN))


def test_a_driver_that_wakes_up_after_a_takeover_finishes_no_step(tmp_path: Path, start: Callable[..., Driver]) -> None:
    sleeper = start("sleeper", 2.0, 0.3)
    go(tmp_path, sleeper)
    wait_for(lambda: len(generated(tmp_path)) == 3)
    os.kill(sleeper.process.pid, signal.SIGSTOP)
    code, said = start("next", 2.0, 0.0).end()
    assert code == 0
    assert "(epoch 1) gave no sign of life for" in said
    before = manifests(tmp_path)
    os.kill(sleeper.process.pid, signal.SIGCONT)
    code, said = sleeper.end()
    assert code == 5
    assert "error[WRPO-L002]: run `small` was taken over by the driver pid" in said
    assert manifests(tmp_path) == before
    require_one_version(locate(tmp_path / RUN))


@dataclass(frozen=True)
class SlowStore(LocalStore):
    """Every call takes `wait_s`."""

    wait_s: float = 0.4

    def write(self, key: str, content: bytes) -> None:
        time.sleep(self.wait_s)
        super().write(key, content)

    def stat(self, key: str) -> Stat | None:
        time.sleep(self.wait_s)
        return super().stat(key)

    def now(self, folder: str) -> float:
        time.sleep(self.wait_s)
        return super().now(folder)


def test_a_slow_store_costs_nobody_the_lease(tmp_path: Path) -> None:
    place = Location(SlowStore(), str(tmp_path / "r1" / "lease"))
    with held(place, 3.0) as lease:
        for _ in range(2):
            with pytest.raises(LeaseError, match=r"run `r1` is in use: held by driver pid \d+ on .* \(epoch 1\)"):
                acquire(place, 3.0, Clock())
        lease.check()
    assert sorted(path.name for path in (tmp_path / "r1" / "lease").iterdir()) == [
        "000001.beat", "000001.json", "000001.released",
    ]  # fmt: skip


def test_over_s3_one_of_many_gets_an_epoch_even_when_replies_are_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_server() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        place = locate(f"s3://{s3.new_bucket()}/runs/r1/lease")
        faults = [Fault("lost_reply", 0.3, ("PUT",), times=10), Fault("conflict", 0.3, ("PUT",), times=5)]
        with s3.failing(*faults) as injected:
            won, refused = try_at_once(place, 6)
        assert injected["lost_reply"] > 0
        assert (won, refused) == ([1], ["WRPO-L001"] * 5)
        with held(place, 4.0) as lease:
            assert lease.epoch == 2


def try_at_once(place: Location, num_drivers: int) -> tuple[list[int], list[str]]:
    """Return the epochs that drivers got, and the codes that the others were refused with."""
    won: list[int] = []
    refused: list[str] = []

    def try_it() -> None:
        try:
            with held(place, 4.0) as lease:
                won.append(lease.epoch)
                time.sleep(4.0)
        except LeaseError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=try_it) for _ in range(num_drivers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won, refused
