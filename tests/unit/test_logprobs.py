"""Log-probs of responses against a plain log-softmax over everything, values and gradients."""

import pytest
import torch
from transformers import LlamaForCausalLM

from tests import tiny
from wrpo_ray.batching import pad_sequences
from wrpo_ray.logprobs import selected_logps, sequence_logps


@pytest.fixture
def model(tmp_path):
    return LlamaForCausalLM.from_pretrained(tiny.save_llama(tmp_path, tiny.chatml_tokenizer()), dtype=torch.float32)


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12]]
RESPONSES = [[20, 21], [22, 23, 24, 25], [26]]


def plain(model):
    """One sequence at a time, no padding."""
    totals = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        logps = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        totals.append(sum(logps[len(prompt) - 1 + index, token] for index, token in enumerate(response)))
    return torch.stack(totals)


def test_sums_and_gradients_are_those_of_unpadded_sequences(model):
    weights = torch.tensor([1.0, -2.0, 0.5])
    expected = plain(model)
    (weights * expected).sum().backward()
    expected_gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    found = sequence_logps(model, pad_sequences(PROMPTS, RESPONSES, pad_token_id=0))
    (weights * found).sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_gradients[name], atol=1e-4, rtol=1e-4, msg=name)


def test_a_model_that_gives_all_positions_is_read_at_the_right_ones(model):
    def without_logits_to_keep(logits_to_keep, **inputs):
        return model(**inputs)

    batch = pad_sequences(PROMPTS, RESPONSES, pad_token_id=0)
    torch.testing.assert_close(sequence_logps(without_logits_to_keep, batch), sequence_logps(model, batch))


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    tokens = torch.tensor([1, 2, 3, 4])
    expected = logits.double().log_softmax(-1)[torch.arange(4), tokens]
    found = selected_logps(logits, tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
