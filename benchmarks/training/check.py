"""Same loss and same gradient, in float32, before anything is measured."""

from __future__ import annotations

import copy
from typing import Any

import torch

from benchmarks.training.cases import Case, make_model
from benchmarks.training.ours import Ours
from benchmarks.training.padded import Padded

LARGEST_ERROR = 1e-5
# The policy has moved away from the reference, so that the loss is not log 2 and its gradient depends on it.
_MOVED = 0.02


def relative_errors(case: Case) -> dict[str, float]:
    """Return how far ours is from the padded step on the case's first batch: of the loss, and of the whole gradient.

    The gradient's error is the norm of the difference over the norm of the padded step's.
    """
    model = make_model(case)
    found = [_loss_and_gradient(variant) for variant in (Padded(case, copy.deepcopy(model)), Ours(case, model=model))]
    (expected_loss, expected), (loss, gradient) = found
    error = (gradient - expected).norm() / expected.norm()
    return {"loss": abs(loss / expected_loss - 1.0), "gradient": float(error), "loss_value": loss}


def _loss_and_gradient(variant: Any) -> tuple[float, torch.Tensor]:
    """Return the loss of batch 0 and its gradient, float64 [parameters], of a policy that has moved."""
    variant.prepare()
    generator = torch.Generator().manual_seed(1)
    parameters = list(variant.model.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(_MOVED * torch.randn(parameter.shape, generator=generator))
    loss = variant.backward(0)
    return loss, torch.cat([parameter.grad.double().flatten() for parameter in parameters])
