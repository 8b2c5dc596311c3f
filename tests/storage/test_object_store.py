"""What every store promises, on a file system and over the S3 protocol, and what S3 does when it fails (P-22 to 25)."""

from __future__ import annotations

import logging
import os
import pickle
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.storage.s3_server import Fault, S3Server
from wrpo_ray.errors import StorageError
from wrpo_ray.storage.leftovers import remove_leftovers
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.objects import ObjectStore, object_store, probe
from wrpo_ray.storage.retries import RetryPolicy, retry_counts
from wrpo_ray.storage.stores import temporary_name

_MIB = 2**20
_QUICK = RetryPolicy(budget_s=10.0, request_timeout_s=5.0, first_wait_s=0.005, longest_wait_s=0.05)


@pytest.fixture
def bucket(s3: S3Server) -> Location:
    return Location(ObjectStore(f"s3://{s3.new_bucket()}", _QUICK), "runs/r1")


@pytest.fixture
def google_bucket(s3: S3Server) -> Location:
    return Location(ObjectStore(f"gs://{s3.new_bucket()}", _QUICK), "runs/r1")


@pytest.fixture(params=["local", "s3", "gs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "local":
        return locate(tmp_path / "r1")
    return request.getfixturevalue("bucket" if request.param == "s3" else "google_bucket")


class TestContract:
    def test_of_sixteen_creators_of_one_key_one_wins(self, folder: Location) -> None:
        place = folder / "deep" / "commit.json"

        def create(number: int) -> bool:
            return place.create_json({"writer": number})

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(create, range(16)))
        assert won.count(True) == 1
        assert place.read_json() == {"writer": won.index(True)}

    def test_create_again_with_equal_content_is_taken_for_our_own_lost_reply(self, folder: Location) -> None:
        place = folder / "a.json"
        assert [place.create_json(1), place.create_json(1), place.create_json(2)] == [True, True, False]
        assert place.read_json() == 1

    def test_write_replaces(self, folder: Location) -> None:
        place = folder / "x"
        place.write_bytes(b"old and longer")
        place.write_bytes(b"new")
        assert place.read_bytes() == b"new"
        assert place.stat().num_bytes == 3

    def test_what_is_absent(self, folder: Location) -> None:
        place = folder / "none"
        assert place.stat() is None
        assert place.walk() == []
        place.delete()
        place.delete_folder()
        with pytest.raises(FileNotFoundError, match="none"):
            place.read_bytes()
        with pytest.raises(FileNotFoundError, match="none"):
            place.download(Path("never"))
        assert not Path("never").exists()

    def test_a_key_below_a_file_is_absent(self, folder: Location) -> None:
        (folder / "file").write_bytes(b"1")
        place = folder / "file" / "below"
        assert place.stat() is None
        place.delete()
        with pytest.raises(FileNotFoundError):
            place.read_bytes()

    def test_list_is_sorted_deep_and_ends_at_the_folders_name(self, folder: Location) -> None:
        names = ["a/2.json", "a/10.json", "a/b/c/x y#?%é.bin", "ab/1"]
        for name in names:
            (folder / name).write_bytes(name.encode())
        assert [place.relative_to(folder) for place in (folder / "a").walk()] == [
            "a/10.json",
            "a/2.json",
            "a/b/c/x y#?%é.bin",
        ]
        assert [place.read_bytes().decode() for place in folder.walk()] == sorted(names)

    def test_more_keys_than_one_answer_holds(self, folder: Location) -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: (folder / f"n/{number:04d}").write_bytes(b""), range(1005)))
        assert [place.name for place in folder.walk()] == [f"{number:04d}" for number in range(1005)]
        (folder / "n").delete_folder()
        assert folder.walk() == []

    def test_stat_tells_times_by_the_clock_of_now(self, folder: Location) -> None:
        before = folder.now()
        (folder / "x").write_bytes(b"12345")
        found, after = (folder / "x").stat(), folder.now()
        # S3 tells whole seconds.
        assert found.num_bytes == 5
        assert int(before) <= int(found.modified) <= int(after) <= int(before) + 5
        assert [place.name for place in folder.walk()] == ["x"]

    @pytest.mark.parametrize("num_bytes", [0, 1, 33 * _MIB])
    def test_upload_and_download(self, folder: Location, tmp_path: Path, num_bytes: int) -> None:
        source, copy = tmp_path / "source", tmp_path / "deep" / "copy"
        source.write_bytes(os.urandom(num_bytes))
        stored = (folder / "model.safetensors").upload(source)
        (folder / "model.safetensors").download(copy)
        assert copy.read_bytes() == source.read_bytes()
        assert (stored.num_bytes, len(stored.sha256)) == (num_bytes, 64)
        assert os.listdir(copy.parent) == ["copy"]

    def test_write_and_read_of_more_than_one_request_carries(self, folder: Location) -> None:
        content = os.urandom(17 * _MIB)
        (folder / "big").write_bytes(content)
        assert (folder / "big").read_bytes() == content

    def test_a_location_travels_as_text_and_as_pickle(self, folder: Location) -> None:
        (folder / "x").write_bytes(b"1")
        for arrived in (locate(str(folder)), pickle.loads(pickle.dumps(folder))):
            assert arrived == folder
            assert (arrived / "x").read_bytes() == b"1"

    def test_leftovers_of_killed_writers_are_hidden_and_removed_when_old(self, folder: Location) -> None:
        (folder / "data.parquet").write_bytes(b"1")
        (folder / temporary_name("data.parquet")).write_bytes(b"half")
        assert [place.name for place in folder.walk()] == ["data.parquet"]
        assert remove_leftovers(folder, older_than_s=3600) == 0
        assert remove_leftovers(folder, older_than_s=-3600) == 1
        assert remove_leftovers(folder, older_than_s=-3600) == 0
        assert (folder / "data.parquet").exists()

    def test_probe_passes_and_leaves_nothing(self, folder: Location) -> None:
        probe(folder)
        assert folder.walk() == []


class TestFailingStore:
    """P-22 and P-23. Faults of every kind at once, and replies lost after the change was made."""

    @staticmethod
    def _every_kind(probability: float) -> list[Fault]:
        kinds = ("slow_down", "internal_error", "reset", "lost_reply", "lost_reply_500")
        # One after the other: each takes its share of the requests that the ones before it let pass.
        shares = [probability / len(kinds) / (1 - number * probability / len(kinds)) for number in range(len(kinds))]
        return [Fault(kind, share) for kind, share in zip(kinds, shares, strict=True)]

    @pytest.mark.parametrize("probability", [0.1, 0.5])
    def test_small_objects_arrive_and_retries_are_counted(
        self, s3: S3Server, bucket: Location, probability: float
    ) -> None:
        before = retry_counts()
        with s3.failing(*self._every_kind(probability)) as injected:
            for number in range(20):
                assert (bucket / f"commits/{number}").create_json({"shard": number})
                (bucket / f"data/{number}").write_bytes(bytes([number]) * 1000)
            assert len((bucket / "commits").walk()) == 20
            assert [(bucket / f"data/{number}").read_bytes()[0] for number in range(20)] == list(range(20))
            (bucket / "data").delete_folder()
        assert [place.read_json()["shard"] for place in (bucket / "commits").walk()] == sorted(range(20), key=str)
        assert (bucket / "data").walk() == []
        assert (retry_counts() - before).total() == sum(injected.values()) > 20 * probability

    @pytest.mark.parametrize("probability", [0.1, 0.5])
    def test_large_files_arrive(self, s3: S3Server, bucket: Location, tmp_path: Path, probability: float) -> None:
        source, copy = tmp_path / "source", tmp_path / "copy"
        source.write_bytes(os.urandom(40 * _MIB))
        with s3.failing(*self._every_kind(probability), seed=3) as injected:
            stored = (bucket / "weights").upload(source)
            (bucket / "weights").download(copy)
        assert copy.read_bytes() == source.read_bytes()
        assert stored.num_bytes == 40 * _MIB
        assert injected.total() >= 1

    @pytest.mark.parametrize("kind", ["slow_down", "internal_error", "reset", "lost_reply"])
    def test_a_store_that_never_answers_ends_the_call_after_its_budget(
        self, s3: S3Server, bucket: Location, kind: str, tmp_path: Path
    ) -> None:
        policy = replace(_QUICK, budget_s=0.6)
        folder = Location(ObjectStore(bucket.store.root_uri, policy), "runs/r1")
        place = folder / "x"
        source = tmp_path / "source"
        source.write_bytes(b"1" * 100)
        calls = [
            place.read_bytes,
            place.stat,
            place.walk,
            place.delete,
            place.now,
            lambda: place.write_bytes(b"1"),
            lambda: place.create_json(1),
            lambda: place.upload(source),
            lambda: place.download(tmp_path / "copy"),
        ]

        def check(call: Callable[[], object]) -> None:
            began = time.monotonic()
            with pytest.raises(StorageError, match=rf"{folder}.*tried \d+ times in \d+\.\d s") as raised:
                call()
            assert 0.6 <= time.monotonic() - began < 2.0
            assert (raised.value.exit_code, raised.value.code) == (6, "WRPO-S003")

        with s3.failing(Fault(kind)), ThreadPoolExecutor(len(calls)) as pool:
            list(pool.map(check, calls))
        assert not (tmp_path / "copy").exists()

    def test_each_retry_is_logged_with_place_reason_and_wait(
        self, s3: S3Server, bucket: Location, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO), s3.failing(Fault("slow_down", times=3)):
            (bucket / "x").write_bytes(b"1")
        pattern = rf"storage: write {bucket}/x failed \(.*503.*SlowDown.*\); try \d in 0\.\d s, giving up in \d+ s"
        assert [bool(re.fullmatch(pattern, message)) for message in caplog.messages] == [True] * 3
        assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]

    def test_create_finds_its_own_success_after_a_lost_reply(self, s3: S3Server, bucket: Location) -> None:
        for kind in ("lost_reply", "lost_reply_500"):
            with s3.failing(Fault(kind, methods=("PUT",), times=1)) as injected:
                assert (bucket / kind).create_json({"writer": "own"})
            assert injected.total() == 1
            assert (bucket / kind).read_json() == {"writer": "own"}

    def test_create_loses_to_another_writer_while_its_replies_are_lost(self, s3: S3Server, bucket: Location) -> None:
        assert (bucket / "x").create_json({"writer": "other"})
        with s3.failing(Fault("lost_reply", times=3)) as injected:
            assert not (bucket / "x").create_json({"writer": "own"})
        assert injected.total() == 3
        assert (bucket / "x").read_json() == {"writer": "other"}

    def test_a_conflict_is_no_defeat(self, s3: S3Server, bucket: Location) -> None:
        """409 is told to one of two writers at once, and obstore calls it AlreadyExists although nothing is there."""
        with s3.failing(Fault("conflict", times=2)) as injected:
            assert (bucket / "x").create_json(1)
        assert injected["conflict"] == 2

    def test_a_cut_upload_leaves_nothing_under_its_name(self, s3: S3Server, bucket: Location, tmp_path: Path) -> None:
        (tmp_path / "source").write_bytes(b"1" * 40 * _MIB)
        place = Location(ObjectStore(bucket.store.root_uri, replace(_QUICK, budget_s=0.4)), "weights")
        with s3.failing(Fault("slow_down", methods=("PUT",), query="*partNumber=2*")), pytest.raises(StorageError):
            place.upload(tmp_path / "source")
        assert place.stat() is None

    def test_a_file_replaced_while_it_is_downloaded_is_refused(
        self, s3: S3Server, bucket: Location, tmp_path: Path
    ) -> None:
        place = bucket / "weights"
        place.write_bytes(b"1" * 100)
        with s3.failing(Fault("slow", methods=("GET",), wait_s=0.5)), ThreadPoolExecutor(1) as pool:
            copying = pool.submit(place.download, tmp_path / "copy")
            time.sleep(0.2)
            place.write_bytes(b"2" * 100)
            with pytest.raises(StorageError, match="was replaced while it was read"):
                copying.result()
        assert not (tmp_path / "copy").exists()


class TestSlowStore:
    """P-24."""

    def test_it_succeeds_and_says_what_it_waits_for(
        self, s3: S3Server, bucket: Location, caplog: pytest.LogCaptureFixture
    ) -> None:
        place = Location(ObjectStore(bucket.store.root_uri, replace(_QUICK, notice_after_s=0.2)), "commit.json")
        with caplog.at_level(logging.WARNING), s3.failing(Fault("slow", wait_s=0.7)):
            assert place.create_json(1)
        notices = [record.getMessage() for record in caplog.records]
        assert len(notices) == 3
        assert all(f"waiting for create {place} since" in notice for notice in notices)

    def test_a_request_without_an_answer_is_given_up_and_tried_again(self, s3: S3Server, bucket: Location) -> None:
        place = Location(ObjectStore(bucket.store.root_uri, replace(_QUICK, request_timeout_s=0.3)), "commit.json")
        with s3.failing(Fault("slow", wait_s=1.0, times=1)):
            assert place.create_json({"writer": "own"})
        time.sleep(1.0)
        assert place.read_json() == {"writer": "own"}

    def test_a_fast_call_says_nothing(self, bucket: Location, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            (bucket / "x").write_bytes(b"1")
        assert caplog.messages == []


class TestProbe:
    """P-25: each refusal within five seconds, with its reason."""

    @pytest.mark.parametrize(
        ("faults", "code", "text"),
        [
            ([Fault("no_conditions")], "WRPO-S007", "no conditional writes"),
            ([Fault("ignored_conditions")], "WRPO-S007", "takes no notice of conditional writes"),
            ([Fault("forbidden")], "WRPO-S004", "cannot create .*access is denied"),
            ([Fault("forbidden", methods=("PUT",))], "WRPO-S004", "cannot create .*access is denied"),
            ([Fault("forbidden", methods=("HEAD",))], "WRPO-S004", "cannot look at .*access is denied"),
            ([Fault("forbidden", methods=("POST", "DELETE"))], "WRPO-S004", "cannot delete .*access is denied"),
            ([Fault("forbidden", query="list-type*")], "WRPO-S004", "cannot list .*access is denied"),
            ([Fault("wrong_region")], "WRPO-S006", "lies in another region"),
            ([Fault("slow_down")], "WRPO-S003", "503"),
            ([Fault("reset")], "WRPO-S003", "error sending request"),
            ([Fault("slow", wait_s=6.0)], "WRPO-S003", "tried"),
        ],
        ids=lambda value: (
            "+".join(f"{fault.kind}-{fault.methods[0]}{fault.query}" for fault in value)
            if isinstance(value, list)
            else None
        ),
    )
    def test_reasons(self, s3: S3Server, bucket: Location, faults: list[Fault], code: str, text: str) -> None:
        began = time.monotonic()
        with s3.failing(*faults), pytest.raises(StorageError, match=text) as raised:
            probe(bucket)
        assert time.monotonic() - began < 5
        assert (raised.value.code, raised.value.exit_code) == (code, 6)
        assert str(bucket) in raised.value.message

    def test_missing_bucket(self, s3: S3Server) -> None:
        with pytest.raises(StorageError, match="bucket does not exist") as raised:
            probe(locate("s3://no-such-bucket/runs"))
        assert raised.value.code == "WRPO-S005"

    def test_no_server(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        began = time.monotonic()
        with pytest.raises(StorageError, match="tried"):
            probe(Location(ObjectStore("s3://bucket1", _QUICK), "runs"))
        assert time.monotonic() - began < 5

    def test_endpoint_without_tls_must_be_allowed(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ALLOW_HTTP")
        with pytest.raises(StorageError) as raised:
            probe(Location(ObjectStore("s3://bucket1", _QUICK), "runs"))
        assert "AWS_ALLOW_HTTP=true" in raised.value.help

    def test_other_calls_do_not_retry_refusals_either(self, s3: S3Server, bucket: Location) -> None:
        began = time.monotonic()
        with s3.failing(Fault("forbidden")) as injected, pytest.raises(StorageError, match="access is denied"):
            (bucket / "x").write_bytes(b"1")
        assert injected["forbidden"] == 1
        assert time.monotonic() - began < 1


class TestGoogle:
    """What differs from S3. The server speaks S3's dialect; real Google Cloud Storage was never called."""

    def test_deleting_what_is_absent_is_no_error(self, s3: S3Server, google_bucket: Location) -> None:
        with s3.failing(Fault("absent", methods=("DELETE",))) as injected:
            (google_bucket / "x").delete()
        # All at once first, then one by one: of many, only one may be the absent one.
        assert injected["absent"] == 2

    def test_too_many_writes_of_one_object_are_tried_again(self, s3: S3Server, google_bucket: Location) -> None:
        with s3.failing(Fault("too_many", times=2)) as injected:
            (google_bucket / "heartbeat").write_bytes(b"1")
        assert injected["too_many"] == 2

    @pytest.mark.parametrize(
        ("kind", "code"), [("forbidden", "WRPO-S004"), ("ignored_conditions", "WRPO-S007"), ("slow_down", "WRPO-S003")]
    )
    def test_probe(self, s3: S3Server, google_bucket: Location, kind: str, code: str) -> None:
        with s3.failing(Fault(kind)), pytest.raises(StorageError) as raised:
            probe(google_bucket)
        assert raised.value.code == code


class TestSecrets:
    def test_errors_hold_no_credentials(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY-SECRET")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "CANARY-TOKEN")
        store = ObjectStore(f"s3://{s3.new_bucket()}", replace(_QUICK, budget_s=0.1))
        for kind in ("forbidden", "slow_down", "reset", "wrong_region"):
            with s3.failing(Fault(kind)), pytest.raises(StorageError) as raised:
                store.create("x", b"1")
            assert "CANARY" not in f"{raised.value.message} {raised.value.help} {raised.value.__cause__}"
        assert b"CANARY" not in pickle.dumps(store)


def test_the_endpoint_for_s3_alone_goes_first(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.new_bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
    probe(Location(ObjectStore(f"s3://{bucket}", _QUICK), "runs"))


def test_one_store_per_bucket_and_process(s3: S3Server) -> None:
    assert object_store("s3://bucket1") is object_store("s3://bucket1")
    assert object_store("s3://bucket1") != object_store("s3://bucket2")


@pytest.mark.parametrize("text", ["-1", "0", "soon", "inf", "nan"])
def test_a_budget_that_is_no_time_is_refused(s3: S3Server, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("WRPO_RAY_STORAGE_BUDGET_S", text)
    with pytest.raises(ValueError, match="WRPO_RAY_STORAGE_BUDGET_S"):
        object_store("s3://bucket1")
