"""Alpha and learning rate against values worked out by hand."""

import math

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from wrpo_ray.config import AlphaConfig
from wrpo_ray.schedules import alpha_at, learning_rate_factor


def values(num_steps=8, **fields):
    config = AlphaConfig.model_validate({"end": 0.8, **fields})
    return [alpha_at(step, num_steps, config) for step in range(num_steps)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"schedule": "linear"}, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ({"schedule": "constant"}, [0.8] * 8),
        ({"schedule": "cosine"}, [0.4 * (1 - math.cos(math.pi * t / 8)) for t in range(8)]),
        ({"schedule": "exponential", "rate": 2.0}, [0.8 * (math.exp(t / 4) - 1) / (math.exp(2) - 1) for t in range(8)]),
        ({"schedule": "step", "num_stages": 3}, [0, 0, 0, 0.4, 0.4, 0.4, 0.8, 0.8]),
    ],
)
def test_alpha(fields, expected):
    assert values(**fields) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "exponential", "step"])
def test_alpha_starts_at_exactly_zero_and_never_falls(schedule):
    found = values(97, schedule=schedule)
    assert found[0] == 0.0
    assert found == sorted(found)
    assert found[-1] <= 0.8


def test_every_stage_of_step_has_its_share_of_the_steps():
    found = values(312, schedule="step", num_stages=4)
    assert [found.count(value) for value in sorted(set(found))] == [78, 78, 78, 78]


@pytest.mark.parametrize(
    ("schedule", "reference"),
    [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)],
)
def test_learning_rate_is_that_of_transformers(schedule, reference):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = reference(optimizer, num_warmup_steps=4, num_training_steps=35)
    for step in range(35):
        assert learning_rate_factor(step, 35, 0.1, schedule) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_constant_learning_rate_after_the_warm_up():
    assert [learning_rate_factor(step, 4, 0.5, "constant") for step in range(4)] == [0.0, 0.5, 1.0, 1.0]
    assert learning_rate_factor(0, 4, 0.0, "cosine") == 1.0
