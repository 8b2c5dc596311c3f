"""Sources that a run goes on without: recorded once, so that a restart does not find another set of sources."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from wrpo_ray.config import FuseConfig
from wrpo_ray.errors import ConfigError, WrpoError
from wrpo_ray.redaction import redacted
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.typed_records import typed_record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BrokenSource:
    """A source that the run goes on without, and why."""

    source: str
    error: str
    code: str


def read_broken(folder: Location) -> dict[str, BrokenSource]:
    """Return the records of all broken sources, by name; raises StorageError when one is damaged."""
    records = [read_broken_source(place) for place in folder.walk() if place.name.endswith(".json")]
    return {record.source: record for record in records}


def read_broken_source(place: Location) -> BrokenSource:
    """Return one record; raises FileNotFoundError, and StorageError when it is damaged."""
    return typed_record(BrokenSource, place.read_sealed(), place, "the record of a broken source", "WRPO-S030")


def mark_broken(folder: Location, source: str, error: WrpoError, epoch: int) -> str:
    """Record that the run goes on without `source`, and return why."""
    reason = redacted(error.message)
    (folder / f"{source}.json").create_sealed({"source": source, "code": error.code, "error": reason, "epoch": epoch})
    log.warning("the run goes on without the source %s: %s", source, json.dumps(reason))
    return reason


def forget_broken(folder: Location) -> None:
    """Let the run try its broken sources again."""
    for place in folder.walk():
        log.info("%s is tried again", place.name.removesuffix(".json"))
        place.delete()


def without(config: FuseConfig, names: set[str]) -> FuseConfig:
    """Return `config` without the sources `names`; raises ConfigError when fewer than min_sources are left."""
    left = tuple(source for source in config.sources if source.name not in names)
    needed = len(config.sources) if config.min_sources is None else config.min_sources
    if len(left) < needed:
        raise ConfigError(
            f"{len(left)} usable sources are left, min_sources asks for {needed}; broken: {', '.join(sorted(names))}",
            code="WRPO-R003",
            help="repair the sources and add --retry-broken-sources, or lower min_sources",
        )
    return config.model_copy(update={"sources": left, "min_sources": None if names else config.min_sources})


def may_go_on(config: FuseConfig, num_broken: int) -> bool:
    """Tell whether `config` allows for `num_broken` broken sources in all."""
    return config.min_sources is not None and len(config.sources) - num_broken >= config.min_sources
