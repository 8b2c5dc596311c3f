"""Canaries: secrets of every kind are taken out of texts and logs, and what only looks a little like one stays."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_ray.redaction import HIDDEN, has_secret, is_secret_name, last_line, redact_logs, redacted, secret_values

# Made up; written in two pieces so that no scanner takes this file for a leak.
HF = "hf_" + "CaNaRyCaNaRyCaNaRyCaNaRyCaNaRy0001"
SECRETS = {
    "hugging face": (f"token {HF} was refused", HF),
    "aws key": ("key " + "AKIA" + "CANARYCANARY0001" + ".", "AKIA" + "CANARYCANARY0001"),
    "aws secret": ("aws_secret_access_key = " + "c4nary/" * 5 + "abcde", "c4nary/" * 5 + "abcde"),
    "github": ("ghp_" + "c4nary" * 6, "ghp_" + "c4nary" * 6),
    "openai": ("sk-proj-" + "c4nary" * 5, "sk-proj-" + "c4nary" * 5),
    "wandb": ("wandb_v1_" + "c4nary" * 6, "wandb_v1_" + "c4nary" * 6),
    "wandb, old": ("WANDB_API_KEY=" + "0123456789" * 4, "0123456789" * 4),
    "slack": ("xoxb-" + "1234567890-canary", "xoxb-" + "1234567890-canary"),
    "jwt": ("eyJ" + "canary00.eyJcanary00.c4narysig", "eyJ" + "canary00.eyJcanary00.c4narysig"),
    "bearer": ("Authorization: Bearer c4narycanary", "c4narycanary"),
    "json": ('{"api_key": "c4nary-canary-canary"}', "c4nary-canary-canary"),
    "url": ("http://user:c4nary@host:5000/x", "c4nary"),
    "url, user alone": ("https://c4nary-c4nary@host/x", "c4nary-c4nary"),
    "groq": ("gsk_" + "c4nary" * 6, "gsk_" + "c4nary" * 6),
    "xai": ("xai-" + "c4nary" * 6, "xai-" + "c4nary" * 6),
    "nvidia": ("nvapi-" + "c4nary" * 6, "nvapi-" + "c4nary" * 6),
    "databricks": ("dapi" + "c0ffee00" * 4, "dapi" + "c0ffee00" * 4),
    "azure storage": ("AccountName=a;AccountKey=" + "c4nary" * 6 + "==;", "c4nary" * 6),
    "signed url": ("https://b.s3.amazonaws.com/k?X-Amz-Signature=c4narycanary&x=1", "c4narycanary"),
    "private key": ("-----BEGIN RSA PRIVATE KEY-----\nc4nary\n-----END RSA PRIVATE KEY-----", "c4nary"),
    "cut private key": ("-----BEGIN PRIVATE KEY-----\nc4nary", "c4nary"),
}
HARMLESS = [
    "revision 0123456789abcdef0123456789abcdef01234567",
    "s3://bucket/runs/demo/manifest.json",
    "prompt_tokens: 91234 of max_num_batched_tokens=8192",
    "sha256 " + "ab" * 32,
    "the one-character control token U+0041",
    "http://127.0.0.1:5000/path@2x",
    "token: <|im_end|>",
    "key=value",
    "sk-learn and hf_hub are packages",
]


@pytest.mark.parametrize("name", SECRETS)
def test_secrets_of_known_shape(name: str) -> None:
    text, secret = SECRETS[name]
    shown = redacted(text, {})
    assert secret not in shown
    assert HIDDEN in shown
    assert redacted(shown, {}) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_stays(text: str) -> None:
    assert redacted(text, {}) == text


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "wandb-api-key", "DB_PASSWORD", "GH_PAT"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert redacted("it is c4narycanary!", {name: "c4narycanary"}) == f"it is {HIDDEN}!"


@pytest.mark.parametrize(
    "name",
    ["TOKENIZERS_PARALLELISM", "RAY_AUTH_TOKEN_PATH", "GOOGLE_APPLICATION_CREDENTIALS", "PATH", "SSH_AUTH_SOCK",
     "MAX_NUM_BATCHED_TOKENS", "AWS_WEB_IDENTITY_TOKEN_FILE", "PYTHONPATH", "KEYBOARD", "RAY_AUTH_MODE"],
)  # fmt: skip
def test_names_of_settings(name: str) -> None:
    assert not is_secret_name(name)
    assert not has_secret("it is c4narycanary!", {name: "c4narycanary"})


def test_short_values_are_settings() -> None:
    assert secret_values({"RAY_TOKEN": "token", "HF_TOKEN": ""}) == []


def test_longer_secret_goes_first() -> None:
    environment = {"A_TOKEN": "c4narycanary", "B_TOKEN": "c4narycanary-and-more"}
    assert redacted("c4narycanary-and-more", environment) == HIDDEN


@given(st.text(max_size=60), st.text(max_size=60))
def test_secret_of_the_environment_is_found_anywhere(before: str, after: str) -> None:
    assert "c4naryC4NARY" not in redacted(f"{before}c4naryC4NARY{after}", {"X_TOKEN": "c4naryC4NARY"})


@pytest.fixture
def clean_logging() -> Iterator[None]:
    factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(factory)


@pytest.mark.usefixtures("clean_logging")
def test_logs_hold_no_secret(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "c4naryC4NARY")
    redact_logs()
    redact_logs()
    log = logging.getLogger("some.library")
    log.warning("plain %s and %s", HF, "c4naryC4NARY")
    log.warning("in a dict: %s", {"token": HF})
    try:
        raise ValueError(f"the hub says no to {HF}")
    except ValueError:
        log.exception("failed")
    log.warning("nothing to hide %d", 7)
    assert HF not in caplog.text
    assert "c4naryC4NARY" not in caplog.text
    assert "ValueError: the hub says no to [redacted]" in caplog.text
    assert caplog.records[-1].args == (7,)


@pytest.mark.usefixtures("clean_logging")
def test_log_call_with_wrong_arguments_is_left_to_logging() -> None:
    redact_logs()
    record = logging.getLogger("x").makeRecord("x", logging.INFO, "f", 1, "%d %d", (1,), None)
    assert record.args == (1,)


def test_the_last_line_that_says_something() -> None:
    assert last_line(f"inside\n  ValueError: {HF} \n\n \n") == f"ValueError: {HIDDEN}"
    assert last_line("long", most_characters=2) == "lo"
    assert last_line(" \n") == ""
