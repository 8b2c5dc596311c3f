"""What a start of a run ended with, noted in the run's folder for whoever looks at it later.

<run>/failures/000001.json    the step, its error's code and text without secrets, and the driver's epoch
"""

from __future__ import annotations

import datetime
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from wrpo_ray.errors import StorageError, own_error
from wrpo_ray.redaction import last_line, redacted
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.typed_records import typed_record

log = logging.getLogger(__name__)
_FOLDER = "failures"
_MOST_CHARACTERS = 8000
# An object store answers each small read after tens of milliseconds, so they are asked side by side.
_NUM_AT_ONCE = 16


@dataclass(frozen=True)
class Failure:
    """Why a start ended: the step that failed, the error as the driver showed it, and when, in UTC.

    epoch: of the driver. code and help: None when the error was not foreseen.
    """

    step: str
    fingerprint: str
    error: str
    code: str | None
    help: str | None
    epoch: int
    at: str


def note_failure(run: Location, step: str, fingerprint: str, error: BaseException, epoch: int) -> None:
    """Record what a step failed with. When that cannot be written either, the error itself matters more: it is left."""
    known = own_error(error)
    text = redacted(known.message) if known else f"{type(error).__name__}: {last_line(str(error))}"
    record = {
        "step": step,
        "fingerprint": fingerprint,
        "error": text[:_MOST_CHARACTERS],
        "code": known.code if known else None,
        "help": redacted(known.help) if known and known.help else None,
        "epoch": epoch,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    folder = run / _FOLDER
    try:
        first = len(folder.walk()) + 1
        for number in range(first, first + 100):
            if (folder / f"{number:06d}.json").create_sealed(record):
                return
    except StorageError as not_written:
        log.debug("the failure of %s is not recorded: %s", step, not_written.message)


def read_failures(run: Location) -> list[Failure]:
    """Return all failures that were noted and can be read, the newest last."""
    places = [place for place in (run / _FOLDER).walk() if place.name.endswith(".json")]
    with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
        return [found for found in pool.map(_read, sorted(places, key=lambda place: place.name)) if found is not None]


def _read(place: Location) -> Failure | None:
    try:
        return typed_record(Failure, place.read_sealed(), place, "the record of a failure", "WRPO-S030")
    except (StorageError, FileNotFoundError) as error:
        log.debug("%s is no record of a failure: %s", place, error)
        return None
