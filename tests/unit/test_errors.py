"""Errors: how they are shown, letter by letter, and that nothing of them is lost on the way from a worker."""

import pickle

import pytest

from wrpo_ray.errors import (
    ConfigError,
    DataError,
    InterruptedRunError,
    LeaseError,
    ModelError,
    Problem,
    QuarantineError,
    StorageError,
    WrpoError,
    own_error,
    raise_own,
    render,
)

UNKNOWN = Problem(
    "fuse.yaml:14:3 `wrpo.learning_rat`", "1e-05", "unknown field", "did you mean `learning_rate`?", "WRPO-C003",
    "14 |   learning_rat: 1e-5\n   |   ^^^^^^^^^^^^",
)  # fmt: skip
NO_TEMPLATE = Problem("target.chat_template", "null", "acme/mini has no chat template", "set it", "WRPO-M004")


def test_one_problem() -> None:
    assert render(ConfigError.of("cannot use fuse.yaml", [UNKNOWN])) == (
        "error[WRPO-C003]: unknown field\n"
        "  --> fuse.yaml:14:3 `wrpo.learning_rat`\n"
        "14 |   learning_rat: 1e-5\n"
        "   |   ^^^^^^^^^^^^\n"
        "   = value: 1e-05\n"
        "help: did you mean `learning_rate`?"
    )


def test_several_problems_are_counted() -> None:
    text = render(ConfigError.of("run r1 cannot start", [UNKNOWN, NO_TEMPLATE], help="repair them"))
    assert text.count("\n\n") == 2
    assert "error[WRPO-M004]: acme/mini has no chat template\n  --> target.chat_template\n   = value: null\n" in text
    assert text.endswith("\n\nerror: run r1 cannot start: 2 problems\nhelp: repair them")


def test_plain_error_with_notes_and_help() -> None:
    error = LeaseError("run `r1` is in use\nheld by pid 4121 on head-0", help="wait")
    assert render(error) == "error[WRPO-L001]: run `r1` is in use\n   held by pid 4121 on head-0\nhelp: wait"
    assert render(StorageError("disk", code="WRPO-S002")) == "error[WRPO-S002]: disk"


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [(ConfigError, 2), (DataError, 3), (QuarantineError, 4), (LeaseError, 5), (StorageError, 6),
     (InterruptedRunError, 7), (ModelError, 8), (WrpoError, 70)],
)  # fmt: skip
def test_exit_codes(kind: type[WrpoError], exit_code: int) -> None:
    assert kind("x").exit_code == exit_code
    assert kind("x").code == kind.default_code


def test_problems_survive_pickling() -> None:
    error = DataError.of("rows", [UNKNOWN, NO_TEMPLATE], help="repair")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is DataError
    assert (copy.problems, copy.code, copy.help, str(copy)) == (error.problems, "WRPO-C003", "repair", str(error))
    assert render(copy) == render(error)


def test_plain_errors_survive_pickling() -> None:
    copy = pickle.loads(pickle.dumps(ModelError("broken", code="WRPO-M009", help="choose another")))
    assert (copy.message, copy.code, copy.help, copy.exit_code) == ("broken", "WRPO-M009", "choose another", 8)


class WrappedError(Exception):
    """As Ray wraps what a worker raised."""

    def __init__(self, **attributes: object) -> None:
        super().__init__("wrapped")
        self.__dict__.update(attributes)


OWN = ModelError("own")


@pytest.mark.parametrize(
    "error",
    [
        OWN,
        WrappedError(cause=OWN),
        WrappedError(cause=WrappedError(cause=OWN)),
        WrappedError(worker_failures={0: KeyError("x"), 1: WrappedError(cause=OWN)}),
        WrappedError(controller_failure=OWN),
        ExceptionGroup("group", [KeyError("x"), OWN]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_own_error_is_found_under_every_wrapping(error: Exception) -> None:
    assert own_error(error) is OWN
    with pytest.raises(ModelError, match="own"):
        raise_own(error)


def test_error_that_is_its_own_cause_ends() -> None:
    error = WrappedError()
    error.cause = error
    assert own_error(error) is None
    raise_own(error)


def test_python_chain_is_followed() -> None:
    outer = KeyError("outer")
    outer.__cause__ = OWN
    assert own_error(outer) is OWN
