"""Log-probs of responses against a plain log-softmax over everything, values and gradients."""

import pytest
import torch
from transformers import LlamaForCausalLM

from tests import tiny
from wrpo_ray import logprobs
from wrpo_ray.batching import pad_sequences
from wrpo_ray.logprobs import (
    cut_cross_entropy_logps,
    padded_sequence_logps,
    selected_logps,
    sum_by_sequence,
    token_logps,
)


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
    found = padded_sequence_logps(model, pad_sequences(PROMPTS, RESPONSES, pad_token_id=0))
    (weights * found).sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected_gradients[name], atol=1e-4, rtol=1e-4, msg=name)


def test_a_model_that_gives_all_positions_is_read_at_the_right_ones(model):
    def without_logits_to_keep(logits_to_keep, **inputs):
        return model(**inputs)

    batch = pad_sequences(PROMPTS, RESPONSES, pad_token_id=0)
    found, expected = padded_sequence_logps(without_logits_to_keep, batch), padded_sequence_logps(model, batch)
    torch.testing.assert_close(found, expected)


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    tokens = torch.tensor([1, 2, 3, 4])
    expected = logits.double().log_softmax(-1)[torch.arange(4), tokens]
    found = selected_logps(logits, tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


NUM_TOKENS, HIDDEN, VOCABULARY = 37, 16, 53


def head(dtype=torch.float32, bias=False):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in ((NUM_TOKENS, HIDDEN), (VOCABULARY, HIDDEN))]
    if bias:
        tensors.append(torch.randn(VOCABULARY, generator=generator))
    targets = torch.randint(0, VOCABULARY, (NUM_TOKENS,), generator=generator)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors], targets


def gradients(logps, tensors):
    """Of a sum in which every token has a weight of its own, some of them negative or zero."""
    return torch.autograd.grad((logps * torch.linspace(-1.0, 1.0, NUM_TOKENS)).sum(), tensors)


@pytest.mark.parametrize("chunk_tokens", [1, 5, NUM_TOKENS, 1000])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kept_tokens", [0, 11, 1000])
def test_chunks_of_the_head_give_the_log_softmax_and_its_gradients(chunk_tokens, kept_tokens, bias, monkeypatch):
    monkeypatch.setitem(logprobs._CHUNK_ELEMENTS, "cpu", chunk_tokens * VOCABULARY)
    monkeypatch.setitem(logprobs._KEPT_ELEMENTS, "cpu", kept_tokens * VOCABULARY)
    tensors, targets = head(bias=bias)
    logits = torch.nn.functional.linear(*tensors)
    expected = logits.log_softmax(-1)[torch.arange(NUM_TOKENS), targets]
    found = token_logps(tensors[0], tensors[1], tensors[2] if bias else None, targets)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)
    for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_bfloat16_is_summed_in_float32(monkeypatch):
    monkeypatch.setitem(logprobs._CHUNK_ELEMENTS, "cpu", 4 * VOCABULARY)
    tensors, targets = head(torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    expected = torch.nn.functional.linear(*exact).log_softmax(-1)[torch.arange(NUM_TOKENS), targets]
    found = token_logps(*tensors, None, targets)
    assert found.dtype == torch.float32
    # No logit is rounded to bfloat16, which would cost up to 2^-8 of it.
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    for one, other in zip(gradients(found, tensors), gradients(expected, exact), strict=True):
        assert one.dtype == torch.bfloat16
        assert ((one.double() - other).norm() / other.norm()).item() < 4e-3


@pytest.mark.slow
def test_the_fused_kernel_is_called_for_the_same_numbers():
    """Its own version in torch runs on a CPU; what is compared is sign, order and that no gradient is left out."""
    pytest.importorskip("cut_cross_entropy")
    tensors, targets = head()
    found = cut_cross_entropy_logps(*tensors, None, targets, impl="torch_compile")
    expected = token_logps(*tensors, None, targets)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)
    for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="head has a bias"):
        cut_cross_entropy_logps(*tensors, torch.zeros(VOCABULARY), targets)


def test_weights_that_are_frozen_get_no_gradient():
    tensors, targets = head()
    frozen = tensors[1].detach()
    found = token_logps(tensors[0], frozen, None, targets)
    (gradient,) = gradients(found, tensors[:1])
    expected = gradients(
        torch.nn.functional.linear(tensors[0], frozen).log_softmax(-1)[range(NUM_TOKENS), targets], tensors[:1]
    )
    torch.testing.assert_close(gradient, expected[0], atol=1e-5, rtol=1e-5)


def test_no_tokens_at_all_are_no_error():
    tensors, _ = head()
    found = token_logps(tensors[0][:0], tensors[1], None, torch.zeros(0, dtype=torch.int64))
    assert found.shape == (0,)
    assert sum_by_sequence(found, torch.zeros(0, dtype=torch.int64), 2).tolist() == [0.0, 0.0]


def test_tokens_are_summed_by_sequence():
    found = sum_by_sequence(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 2]), 3)
    assert found.tolist() == [2.0, 0.0, 5.0]


def test_a_second_backward_through_the_same_graph_is_right_too():
    tensors, targets = head()
    total = token_logps(*tensors, None, targets).sum()
    first = torch.autograd.grad(total, tensors, retain_graph=True)
    second = torch.autograd.grad(total, tensors)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


def test_only_a_fixed_share_of_the_logits_is_computed_once(monkeypatch):
    computed = []
    real = logprobs._chunk
    monkeypatch.setattr(logprobs, "_chunk", lambda hidden, *rest: computed.append(len(hidden)) or real(hidden, *rest))
    monkeypatch.setitem(logprobs._CHUNK_ELEMENTS, "cpu", 10 * VOCABULARY)
    monkeypatch.setitem(logprobs._KEPT_ELEMENTS, "cpu", 20 * VOCABULARY)
    tensors, targets = head()
    token_logps(*tensors, None, targets).sum().backward()
    # Chunks of 10, 10, 10 and 7 tokens; the first two are kept.
    assert computed == [10, 10, 10, 7, 10, 7]
    with torch.no_grad():
        token_logps(*tensors, None, targets)
    assert sum(computed[6:]) == NUM_TOKENS
