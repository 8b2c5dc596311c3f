"""Bad results of models, and records of a run that somebody or something has changed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.bad_input import BadInput, Use
from tests.storage.sample_run import SampleRun, finished
from wrpo_ray.config import OpenAISourceConfig, VerifierRewardConfig
from wrpo_ray.data.scoring import finite_reward
from wrpo_ray.engines.isolation import require_one_each
from wrpo_ray.engines.openai_reply import read_reply
from wrpo_ray.engines.protocol import SetAside
from wrpo_ray.run_state import read_run
from wrpo_ray.run_status import damaged_run
from wrpo_ray.storage.lease_records import read_holder
from wrpo_ray.verifier import verify


def _reward(reward: object) -> Use:
    def use(folder: Path) -> object:
        found = finite_reward(reward, "score a")
        assert isinstance(found, SetAside) == (not -math.inf < float(reward) < math.inf)  # type: ignore[arg-type]
        return found

    return use


def _refused(status: int, body: bytes) -> Use:
    source = OpenAISourceConfig(name="s", type="openai", base_url="https://host/v1", model="m")
    return lambda folder: read_reply(status, {}, body, source)


def _never_right(folder: Path) -> object:
    rule = VerifierRewardConfig(type="verifier", mode="numeric")
    assert verify("5", "1e999", rule) == verify("1e999", "5", rule) == 0.0
    return None


RESULTS: list[tuple[str, Use, str | None, str]] = [
    ("a reward of NaN", _reward(math.nan), None, "set aside as reward_not_finite; counts against the budget"),
    ("a reward of inf (float16 overflow)", _reward(math.inf), None, "set aside as reward_not_finite"),
    ("a reward of -0.0", _reward(-0.0), None, "taken; equal to 0"),
    ("no reward (None)", _reward(None), "WRPO-E007", "gave a NoneType as a reward"),
    ("a reward as text", _reward("0.5"), "WRPO-E007", "gave a str as a reward"),
    ("a reward as a list", _reward([0.5]), "WRPO-E007", "gave a list as a reward"),
    ("a truth value for a reward", _reward(True), "WRPO-E007", "gave a bool as a reward"),
    (
        "a result too few",
        lambda folder: require_one_each([1.0], [1, 2], "score a"),
        "WRPO-E005",
        "1 results for 2 rows",
    ),
    (
        "a result too many",
        lambda folder: require_one_each([1.0] * 3, [1, 2], "score a"),
        "WRPO-E005",
        "3 results for 2",
    ),
    ("a number that no float can hold", _never_right, None, "no number: equal to nothing"),
    ("an endpoint's error of 100,000 nested lists", _refused(401, b"[" * 100_000), "WRPO-E040", "refuses the key"),
    (
        "an endpoint's error with half a surrogate pair",
        _refused(402, b'{"error": {"message": "\\ud800"}}'),
        "WRPO-E043",
        "has nothing left",
    ),
]


def _with_record(record: str, change: Callable[[bytes], bytes], look: Callable[[SampleRun], object]) -> Use:
    def use(folder: Path) -> object:
        run = finished(folder, until="sample")
        (path,) = folder.glob(record)
        path.write_bytes(change(path.read_bytes()))
        return look(run)

    return use


def _status(run: SampleRun) -> None:
    state = read_run(run.folder)
    if state.every_damage:
        raise damaged_run(state.folder, state.every_damage, state)


def _sealed(**values: Any) -> Callable[[bytes], bytes]:
    """Return a change of some values of a record, which then gets the hash that fits."""

    def change(content: bytes) -> bytes:
        record = {**json.loads(content), **values}
        record.pop("sha256")
        text = json.dumps(record, sort_keys=True)
        return json.dumps({**record, "sha256": hashlib.sha256(text.encode("ascii")).hexdigest()}).encode()

    return change


_ENTRY = {"path": "../../secrets", "num_bytes": 1, "sha256": "0" * 64, "num_rows": 1, "key_range": None}
_MANIFEST, _SUBMISSION, _PLAN = "sample/*/manifest.json", "submissions/000001.json", "sample/*/plan.json"


def _plan(run: SampleRun) -> object:
    return run.shards()


def _lease(folder: Path) -> object:
    run = finished(folder, until="prompts")
    (run.layout.leases / "000001.json").write_json({"epoch": "1", "owner": {}, "timeout_s": None})
    return read_holder(run.layout.leases)


RECORDS: list[tuple[str, Use, str | None, str]] = [
    (
        "a manifest with one byte changed",
        _with_record(_MANIFEST, lambda text: text.replace(b"20", b"21", 1), _status),
        "WRPO-S031",
        "its own hash does not fit",
    ),
    (
        "a manifest that is cut",
        _with_record(_MANIFEST, lambda text: text[:50], _status),
        "WRPO-S031",
        "is not the JSON",
    ),
    ("an empty manifest", _with_record(_MANIFEST, lambda text: b"", _status), "WRPO-S031", "is not the JSON"),
    (
        "NaN in a manifest",
        _with_record(_MANIFEST, lambda text: text.replace(b'"seconds": ', b'"seconds": NaN, "x": '), _status),
        "WRPO-S031",
        "its own hash does not fit",
    ),
    (
        "100,000 nested lists for a manifest",
        _with_record(_MANIFEST, lambda text: b"[" * 100_000, _status),
        "WRPO-S031",
        "is not the JSON",
    ),
    (
        "a manifest, hash and all, of other types",
        _with_record(_MANIFEST, _sealed(seconds="1"), _status),
        "WRPO-S031",
        "is not a manifest of this version: seconds",
    ),
    (
        "a manifest, hash and all, of a file outside",
        _with_record(_MANIFEST, _sealed(files=[_ENTRY]), _status),
        "WRPO-S031",
        "must be a path below the step's folder",
    ),
    (
        "a plan that does not add up",
        _with_record(_PLAN, _sealed(num_items=12), _plan),
        "WRPO-S030",
        "numbers out of range",
    ),
    ("a plan of other items", _with_record(_PLAN, _sealed(items_sha256="0" * 64), _plan), "WRPO-S018", "other items"),
    (
        "a start whose step climbs",
        _with_record(
            _SUBMISSION, _sealed(steps=[{"name": "../x", "fingerprint": "f", "inputs": [], "identity": {}}]), _status
        ),
        "WRPO-S031",
        "must be a name of letters",
    ),
    ("a lease of other types", _lease, "WRPO-S040", "make sure that no driver of the run is alive"),
]
RESULTS_AND_RECORDS = [
    BadInput(group, *case)
    for group, cases in (("Results of models", RESULTS), ("Records of a run", RECORDS))
    for case in cases
]
