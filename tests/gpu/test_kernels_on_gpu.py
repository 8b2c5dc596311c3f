"""Attention kernels and the head on a GPU in bf16 against the padded path in float32: log-probs and gradients."""

import copy

import pytest
import torch

from tests.unit.test_policy import MODELS, relative_error, with_gradient
from wrpo_ray.batching import pad_sequences
from wrpo_ray.packing import pack_groups
from wrpo_ray.policy import Policy

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")


def groups():
    generator = torch.Generator().manual_seed(1)

    def ids(length):
        return torch.randint(0, 101, (length,), generator=generator).tolist()

    prompts = [ids(length) for length in (9, 33, 140)]
    return prompts, [[ids(length) for length in group] for group in ((50, 80, 1), (120,), (20, 0))]


@pytest.mark.parametrize("kernel", ["varlen", "flex", "decomposed"])
@pytest.mark.parametrize("name", MODELS)
def test_kernels_come_close_to_padded_float32(name, kernel):
    prompts, responses = groups()
    repeated = [prompt for prompt, group in zip(prompts, responses, strict=True) for _ in group]
    padded = pad_sequences(repeated, [response for group in responses for response in group], pad_token_id=0)
    torch.manual_seed(0)
    model = MODELS[name]().to(CUDA)
    expected, expected_gradient = with_gradient(Policy(copy.deepcopy(model), share_prompts=False), padded.to(CUDA))
    packed = pack_groups(prompts, responses).to(CUDA)
    rounded, rounded_gradient = with_gradient(Policy(copy.deepcopy(model).bfloat16(), False), padded.to(CUDA))
    found, gradient = with_gradient(Policy(model.bfloat16(), share_prompts=True, kernel=kernel), packed)
    # As close to float32 as the padded path in bf16 is, within a factor.
    assert relative_error(found, expected) < 2 * relative_error(rounded, expected) + 1e-4
    assert (
        relative_error(gradient.float(), expected_gradient)
        < 2 * relative_error(rounded_gradient.float(), expected_gradient) + 1e-3
    )
