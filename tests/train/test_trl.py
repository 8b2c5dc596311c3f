"""DPO against TRL's own DPOTrainer: same model, same rows, same loss and gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from tests.train import plain, runs
from wrpo_ray.batching import MicroBatch
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.models import load_tokenizer
from wrpo_ray.policy import Policy
from wrpo_ray.train.collate import Collate
from wrpo_ray.train.tasks import WRPOTask
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, tokenise


def trl_loss(policy, frozen, rows, tokenizer, config, loss_type, folder):
    """Return TRL's loss on our token ids, from TRL's collator and DPOTrainer.compute_loss; gradients go to `policy`."""
    arguments = DPOConfig(
        str(folder), beta=config.beta, loss_type=loss_type, use_cpu=True, bf16=False, report_to=[],
        gradient_checkpointing=False,
    )  # fmt: skip
    unused = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = DPOTrainer(policy, frozen, args=arguments, train_dataset=unused, processing_class=tokenizer)
    names = {"prompt_ids": "prompt", "chosen_ids": "target_chosen", "rejected_ids": "rejected"}
    pairs = [{theirs: row[ours] for theirs, ours in names.items()} for row in rows]
    return trainer.compute_loss(trainer.model, DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)(pairs))


@pytest.mark.parametrize(
    ("loss_type", "fields"),
    [
        ("sigmoid", {"objective": "dpo"}),
        ("sigmoid_norm", {"objective": "dpo", "length_normalized": True, "beta": 5.0}),
    ],
)
@pytest.mark.parametrize("share_prompts", [True, False])
def test_dpo_has_the_loss_and_gradient_of_trl(model, loss_type, fields, share_prompts, tmp_path):
    tokenizer = load_tokenizer(str(model))
    config = runs.make_config(model, wrpo=fields).wrpo
    rows, _ = tokenise(runs.quadruples(4), QUADRUPLE_RESPONSES, ChatTokenizer(tokenizer), config)
    frozen, ours = plain.load(model), plain.load(model)
    # A policy that has moved, so that the loss is not log 2 and the gradient depends on it.
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    theirs = copy.deepcopy(ours)
    with torch.no_grad():
        names = QUADRUPLE_RESPONSES
        rows = [{**row, **{f"{name}_logps": plain.logp(frozen, row, name).item() for name in names}} for row in rows]

    task = WRPOTask(config, 10, Collate(QUADRUPLE_RESPONSES, share_prompts, tokenizer.pad_token_id))
    result = task.run(Policy(ours, share_prompts), rows, MicroBatch((0, 1, 2, 3), (1.0,) * 4), 5, torch.device("cpu"))
    loss = result.loss_sum / 4
    loss.backward()
    expected = trl_loss(theirs, frozen, rows, tokenizer, config, loss_type, tmp_path)
    expected.backward()

    assert abs(loss.item() - 0.6931) > 0.01
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    gradients = dict(theirs.named_parameters())
    largest = max(parameter.grad.abs().max().item() for parameter in gradients.values())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-5 * largest, rtol=1e-5, msg=name)
