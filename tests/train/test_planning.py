"""What the plan says of activations is what autograd really keeps."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from wrpo_ray.packing import pack_groups
from wrpo_ray.planning.shapes import shape_of
from wrpo_ray.planning.training_memory import layer_bytes
from wrpo_ray.policy import Policy

NUM_TOKENS = 3 * (20 + 3 * 30)


def kept_bytes(config: LlamaConfig, dtype: torch.dtype, checkpointing: bool) -> int:
    """Return the bytes of all tensors that a forward pass over shared prompts keeps, parameters left out."""
    model = LlamaForCausalLM(config).to(dtype)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    policy = Policy(model.train(), share_prompts=True)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    batch = pack_groups([list(range(20))] * 3, [[list(range(30))] * 3] * 3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = policy(batch)
    assert output.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(8, 2, 32), (4, 4, 64), (16, 4, 64)])
def test_activations_of_a_layer(dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> None:
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
        intermediate_size=896, vocab_size=512,
    )  # fmt: skip
    width = torch.finfo(dtype).bits / 8
    for checkpointing in (False, True):
        whole = []
        for layers in (2, 4):
            config.num_hidden_layers = layers
            whole.append(kept_bytes(config, dtype, checkpointing))
        measured = (whole[1] - whole[0]) / 2 / NUM_TOKENS
        planned = layer_bytes(shape_of(config.to_dict()), width) if not checkpointing else config.hidden_size * width
        assert measured == pytest.approx(planned, rel=0.03)
