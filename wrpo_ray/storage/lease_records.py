"""What drivers write down about holding a run. Every driver that ever held it has a number, its epoch:

<run>/lease/000001.json       who; created once, so of all that want one epoch exactly one gets it
<run>/lease/000001.beat       written again every few seconds by who holds it; the store's time of it is the heartbeat
<run>/lease/000001.released   written at the end, however the run ended, unless the driver was killed

The highest epoch holds the run. Nothing is ever changed or removed, so no store needs more than create-only writes.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal

from wrpo_ray.errors import StorageError
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.owner import Owner
from wrpo_ray.storage.typed_records import typed_record

_RECORD_NAME = re.compile(r"(\d{6,})\.json")


@dataclass(frozen=True)
class Record:
    """One driver's claim: its epoch, and for how many seconds it may be silent before the next one takes over."""

    epoch: int
    owner: Owner
    timeout_s: float


@dataclass(frozen=True)
class Holder:
    """Who holds a run, or held it last; `heartbeat_age_s` is by the store's clock, 0 when it was released."""

    owner: Owner
    epoch: int
    timeout_s: float
    state: Literal["live", "stale", "released"]
    heartbeat_age_s: float


def read_holder(leases: Location) -> Holder | None:
    """Return who holds the run, or None when nobody ever did; writes a probe to ask the store for its time.

    Raises StorageError when the store cannot be used or the record is not one.
    """
    epoch = highest_epoch(leases)
    if epoch == 0:
        return None
    record = read_record(leases, epoch)
    if released_place(leases, epoch).exists():
        return Holder(record.owner, epoch, record.timeout_s, "released", 0.0)
    age_s = heartbeat_age_s(leases, epoch)
    state = "live" if age_s <= record.timeout_s else "stale"
    return Holder(record.owner, epoch, record.timeout_s, state, age_s)


def highest_epoch(leases: Location) -> int:
    """Return the epoch that holds the run, 0 when there is none."""
    return max((int(match[1]) for place in leases.walk() if (match := _RECORD_NAME.fullmatch(place.name))), default=0)


def record_place(leases: Location, epoch: int) -> Location:
    return leases / f"{epoch:06d}.json"


def heartbeat_place(leases: Location, epoch: int) -> Location:
    return leases / f"{epoch:06d}.beat"


def released_place(leases: Location, epoch: int) -> Location:
    return leases / f"{epoch:06d}.released"


def create_record(leases: Location, record: Record) -> bool:
    """Claim an epoch; tell whether it is this claim that counts."""
    return record_place(leases, record.epoch).create_json(dataclasses.asdict(record))


def read_record(leases: Location, epoch: int) -> Record:
    """Return the claim of `epoch`; raises StorageError when it is broken."""
    place = record_place(leases, epoch)
    help = f"make sure that no driver of the run is alive, then remove {leases}"
    try:
        return typed_record(Record, place.read_json(), place, "a lease", "WRPO-S040", help)
    except FileNotFoundError as error:
        raise StorageError(f"{place} is not there any more", code="WRPO-S040", help=help) from error


def heartbeat_age_s(leases: Location, epoch: int) -> float:
    """Return how long ago, by the store's clock alone, the driver of `epoch` gave its last sign of life.

    The time is asked for first: what the calls take makes an owner look younger, never dead.
    """
    now = leases.now()
    beat = heartbeat_place(leases, epoch).stat() or record_place(leases, epoch).stat()
    return max(0.0, now - beat.modified) if beat else 0.0
