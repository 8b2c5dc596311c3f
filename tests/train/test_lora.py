"""Adapters: the gradient of plain torch and peft, in every ZeRO stage; saved merged and by themselves; resumed."""

from __future__ import annotations

import copy
import json
import sys
from types import SimpleNamespace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests import tiny
from tests.train import lora_ranks, plain, runs, two_ranks
from tests.train.crashing import Kill, dying
from wrpo_ray.batching import MicroBatch
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import LoraConfig, ModelFiles
from wrpo_ray.errors import ConfigError
from wrpo_ray.models import load_tokenizer
from wrpo_ray.policy import Policy
from wrpo_ray.schedules import learning_rate_factor
from wrpo_ray.storage.location import locate
from wrpo_ray.train.collate import Collate
from wrpo_ray.train.launch import run_wrpo
from wrpo_ray.train.lora import adapted_layers, add_adapters, count_parameters, merged, save_adapter
from wrpo_ray.train.metrics import read_metrics
from wrpo_ray.train.model import load_model, save_model
from wrpo_ray.train.tasks import WRPOTask
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, tokenise

LORA = LoraConfig(rank=4, alpha=8)
STAGES = {f"zero-{stage}": {"zero_stage": stage} for stage in range(4)}


def plain_lora(folder, lora, trained=None):
    """Return the model with adapters as peft's own documentation makes one; with the values of `trained`."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules=lora.target_modules, task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(base, config)
    if trained is not None:
        values = {f"base_model.model.{name}": value for name, value in trained.state_dict().items()}
        model.load_state_dict(values)
    return model


def adapters(state):
    """Return the adapters' values or gradients under peft's names or ours, without what the names begin with."""
    return {name.removeprefix("base_model.model."): value for name, value in state.items() if ".lora_" in name}


def moved(model, by=0.05):
    """Move the adapters away from their first values, of which half are zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return model


def make(folder, lora=LORA, **fields):
    train = runs.make_config(folder, sft=fields).sft
    model = load_model(ModelFiles(path=str(folder)), train)
    add_adapters(model, lora, 7)
    return model


@pytest.fixture(scope="module", params=["llama", "neox"])
def architecture(request, tmp_path_factory):
    save = {"llama": tiny.save_llama, "neox": tiny.save_neox}[request.param]
    return save(tmp_path_factory.mktemp(request.param), tiny.chatml_tokenizer())


@pytest.mark.parametrize("share_prompts", [True, False])
def test_the_gradient_is_that_of_plain_torch_and_peft(architecture, share_prompts):
    """WRPO's loss on whole rows, against one sequence at a time through peft's own model."""
    tokenizer = load_tokenizer(str(architecture))
    config = runs.make_config(architecture).wrpo
    rows, _ = tokenise(runs.quadruples(4), QUADRUPLE_RESPONSES, ChatTokenizer(tokenizer), config)
    ours, frozen = moved(make(architecture)), plain.load(architecture)
    theirs = plain_lora(architecture, LORA, ours)
    with torch.no_grad():
        names = QUADRUPLE_RESPONSES
        rows = [{**row, **{f"{name}_logps": plain.logp(frozen, row, name).item() for name in names}} for row in rows]

    task = WRPOTask(config, 10, Collate(QUADRUPLE_RESPONSES, share_prompts, tokenizer.pad_token_id))
    policy = Policy(ours, share_prompts)
    (task.run(policy, rows, MicroBatch((0, 1, 2, 3), (1.0,) * 4), 5, torch.device("cpu")).loss_sum / 4).backward()
    plain.wrpo_loss(theirs, frozen, config.beta, config.alpha.end)(rows, 5, 10).backward()

    expected = adapters({name: parameter.grad for name, parameter in theirs.named_parameters()})
    found = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert found.keys() == expected.keys()
    largest = max(grad.abs().max().item() for grad in expected.values())
    assert largest > 1e-3
    for name, grad in found.items():
        assert (grad - expected[name]).norm() <= 1e-5 * expected[name].norm(), name
    # Nothing but adapters has a gradient.
    assert all(parameter.grad is None for parameter in policy.parameters() if not parameter.requires_grad)


@torch.no_grad()
def test_what_is_saved_computes_what_was_trained(architecture, tmp_path):
    model = moved(make(architecture)).eval()
    ids = torch.tensor([[9, 8, 7, 30, 31, 32]])
    expected, base = model(ids).logits, plain.load(architecture)(ids).logits
    assert (expected - base).abs().max() > 0.01
    state = model.state_dict()
    save_model(model, merged(model, state), ModelFiles(path=str(architecture)), tmp_path / "model")
    save_adapter(model, state, str(architecture), tmp_path / "adapter")

    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    torch.testing.assert_close(whole(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert (tmp_path / "model" / "tokenizer.json").exists()
    # Whoever serves the model may be another user than the one that trained it.
    modes = {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "model" / "config.json").stat().st_mode}
    assert not adapted_layers(whole)
    # As peft merges, and as peft reads what lies beside it.
    theirs = plain_lora(architecture, LORA, model).merge_and_unload()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(whole.state_dict()[name], value, rtol=1e-6, atol=1e-7)
    loaded = peft.PeftModel.from_pretrained(plain.load(architecture), str(tmp_path / "adapter"))
    assert torch.equal(loaded(ids).logits, expected)


def test_the_same_seed_gives_the_same_adapters_whatever_was_drawn_before(model):
    torch.manual_seed(1)
    first = make(model)
    following = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), following)
    second = make(model)
    for (name, one), (_, other) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_adapters_are_made_in_the_precision_of_the_model(model):
    made = make(model, precision="bf16")
    assert {parameter.dtype for parameter in made.parameters()} == {torch.bfloat16}
    trained, total = count_parameters(made)
    assert trained == sum(
        LORA.rank * (layer.in_features + layer.out_features) for layer in adapted_layers(made).values()
    )
    assert total == trained + sum(parameter.numel() for parameter in plain.load(model).parameters())


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (("no_such_layer",), "not found in the base model"),
        (("lm_head", "q_proj"), "lm_head is the language model head"),
        (("embed_tokens",), "embed_tokens is no linear layer"),
        (("mlp",), "is not supported"),
    ],
)
def test_targets_that_do_not_fit_are_refused(model, targets, reason):
    with pytest.raises(ConfigError, match=reason) as raised:
        make(model, LoraConfig(target_modules=targets))
    assert (raised.value.code, ", ".join(targets) in str(raised.value)) == ("WRPO-T009", True)


def test_a_missing_package_is_named(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="needs the package peft") as raised:
        make(model)
    assert (raised.value.code, raised.value.help) == ("WRPO-T008", "pip install 'wrpo-ray[lora]' on all nodes")


@torch.no_grad()
def test_layers_that_hold_their_weights_the_other_way_round_are_merged():
    """GPT-2's Conv1D: [inputs, outputs], where all others have [outputs, inputs]."""
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=16)
    torch.manual_seed(0)
    base = GPT2LMHeadModel(config).eval()
    model = copy.deepcopy(base)
    add_adapters(model, LORA, 7)
    weights = merged(moved(model), model.state_dict())
    ids = torch.tensor([[1, 2, 3]])
    expected = model(ids).logits
    assert (base(ids).logits - expected).abs().max() > 0.01
    base.load_state_dict(weights)
    torch.testing.assert_close(base(ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def two_ranks_found(model, tmp_path_factory):
    """What each ZeRO stage found on each rank, and the weights after it: all in one pair of processes."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "cases.json").write_text(json.dumps({"model": str(model), "cases": STAGES}))
    return folder, two_ranks.start("tests.train.lora_ranks", folder)


def plain_steps(folder, train):
    """Return losses, norms and adapters of the steps of `two_ranks` in plain torch and peft."""
    model = plain_lora(folder, train.lora)
    first = load_model(ModelFiles(path=str(folder)), train)
    add_adapters(first, train.lora, two_ranks.SEED)
    model.load_state_dict({f"base_model.model.{name}": value for name, value in first.state_dict().items()})
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=train.learning_rate, eps=train.adam_epsilon, weight_decay=train.weight_decay
    )
    found = SimpleNamespace(losses=[], norms=[])
    steps = two_ranks.batches()
    for number, step in enumerate(steps):
        optimizer.param_groups[0]["lr"] = train.learning_rate * learning_rate_factor(
            number, len(steps), train.warmup_ratio, train.lr_schedule
        )
        optimizer.zero_grad()
        loss = sum(two_ranks.loss_of(model, ids) for micros in step for ids in micros) / two_ranks.num_targets(step)
        loss.backward()
        found.losses.append(loss.item())
        found.norms.append(torch.nn.utils.clip_grad_norm_(parameters, train.max_grad_norm).item())
        optimizer.step()
    return found, adapters(model.state_dict())


@pytest.mark.parametrize("case", STAGES)
def test_two_ranks_take_the_steps_of_plain_torch_and_peft_and_resume_bit_for_bit(two_ranks_found, model, case):
    folder, of_ranks = two_ranks_found
    expected, weights = plain_steps(model, lora_ranks.lora_section(**STAGES[case]))
    for found in (of_rank[case] for of_rank in of_ranks):
        assert found["losses"] == pytest.approx(expected.losses, rel=1e-6)
        assert found["norms"] == pytest.approx(expected.norms, rel=1e-5)
        # From a checkpoint that was copied after the first step and written after the second.
        assert found["resumed_losses"] == found["losses"][1:]
    assert of_ranks[0][case]["resumed_is_equal"]
    state, base = torch.load(folder / f"{case}.pt"), plain.load(model).state_dict()
    for name, value in weights.items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    for name, value in state.items():
        if ".lora_" not in name:
            assert torch.equal(value, base[name.replace(".base_layer.", ".")]), name


RUN = {
    "num_epochs": 3, "checkpoint_every_steps": 2, "learning_rate": 2e-2, "weight_decay": 0.1,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
}  # fmt: skip
TWO = {"num_workers": 2, "zero_stage": 2}


def weights_of(result):
    return {entry.path: entry.sha256 for entry in result.files if entry.path.startswith(("model/", "adapter/"))}


@pytest.mark.slow
def test_a_run_with_adapters_is_killed_and_goes_on_bit_for_bit(local_ray, model, examples, tmp_path, monkeypatch):
    """Rank 0 dies in the thread that would have made the third checkpoint whole, while training goes on."""
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    whole = runs.make_config(model, sft={**RUN, **TWO, "checkpoint_every_steps": 0})
    expected = runs.train_sft(whole, model, examples, tmp_path / "whole")
    config = runs.make_config(model, sft={**RUN, **TWO, "max_failures": 1})
    worker = dying([Kill(0, 6, "before-commit")], tmp_path / "notes")
    result = runs.train_sft(config, model, examples, tmp_path / "out", worker)
    # The one before was whole when the third one began.
    assert (result.summary["num_attempts"], result.summary["resumed_after_steps"]) == (2, [4])
    assert 2 <= result.summary["num_steps_redone"] <= 4
    assert weights_of(result) == weights_of(expected)
    saved = {"model/model.safetensors", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"}
    assert saved <= weights_of(result).keys()
    lines = [read_metrics(locate(tmp_path / name / "metrics.jsonl")) for name in ("whole", "out")]
    assert lines[0] == lines[1]
    losses = [line["loss"] for line in lines[0]]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    assert result.summary["num_trained_parameters"] == count_parameters(make(model))[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"num_workers": 1, "zero_stage": 2}, TWO),
        (TWO, {"num_workers": 1, "zero_stage": 2}),
        ({"num_workers": 2, "zero_stage": 3}, {"num_workers": 1, "zero_stage": 3}),
        ({"num_workers": 1, "zero_stage": 1}, {"num_workers": 2, "zero_stage": 3}),
    ],
)
def test_another_number_of_workers_goes_on_with_adapters(local_ray, model, examples, before, after, tmp_path):
    fields = {**RUN, "lora": {"rank": 4, "alpha": 8}, "checkpoint_in_background": False}
    config = runs.make_config(model, sft={**fields, **before})
    runs.train_sft(config, model, examples, tmp_path / "whole")
    stopped = runs.make_config(model, sft={**fields, **before, "max_failures": 0})
    with pytest.raises(ValueError, match="training workers failed 1 times"):
        runs.train_sft(stopped, model, examples, tmp_path / "out", dying([Kill(0, 5)], tmp_path / "notes"))
    moved_on = runs.make_config(model, sft={**fields, **after})
    result = runs.train_sft(moved_on, model, examples, tmp_path / "out")
    assert result.summary["resumed_after_steps"] == [4]
    expected, found = (read_metrics(locate(tmp_path / name / "metrics.jsonl")) for name in ("whole", "out"))
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in found] == pytest.approx([line[name] for line in expected], rel=1e-5)


@pytest.mark.slow
def test_wrpo_with_adapters_starts_at_its_frozen_reference(local_ray, model, quadruples, reference, tmp_path):
    """Adapters begin as nothing, so the first step is that of the reference: loss log 2, no margins."""
    config = runs.make_config(model, wrpo={**RUN, **TWO})
    run_wrpo(config, str(model), quadruples, reference, locate(tmp_path))
    first, *_, last = read_metrics(locate(tmp_path / "metrics.jsonl"))
    assert first["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert last["loss"] < first["loss"]
