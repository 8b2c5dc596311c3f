"""One global batch, however it is packed and spread: the loss and the gradient of the padded path."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.train import runs
from tests.unit.test_policy import MODELS, relative_error
from wrpo_ray.batching import BatchSizes, plan_step
from wrpo_ray.config import WRPOConfig
from wrpo_ray.policy import Policy
from wrpo_ray.storage.location import locate
from wrpo_ray.train.collate import Collate
from wrpo_ray.train.tasks import SFTTask, WRPOTask
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, SFT_RESPONSES, TokenTable, write_tokens

OBJECTIVES = {
    "wrpo": {"beta": 0.5},
    "wrpo_simpo": {"beta": 5.0, "gamma": 0.3},
    "wrpo_ipo": {"tau": 0.2},
    "dpo": {"beta": 0.5, "length_normalized": True},
    "ipo": {"tau": 0.2},
    "simpo": {"beta": 5.0},
}
NUM_ROWS = 6
ALL_IN_ONE = 10_000


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    generator = torch.Generator().manual_seed(3)

    def ids(longest):
        length = int(torch.randint(1, longest + 1, (1,), generator=generator))
        return torch.randint(0, 101, (length,), generator=generator).tolist()

    rows = [
        {
            "prompt_id": str(number),
            "prompt": ids(20),
            **{name: ids(15) for name in QUADRUPLE_RESPONSES},
            **{f"{name}_logps": -40.0 - number for name in QUADRUPLE_RESPONSES},
        }
        for number in range(NUM_ROWS)
    ]
    folder = locate(tmp_path_factory.mktemp("tokens"))
    return TokenTable(folder, write_tokens(folder, rows, QUADRUPLE_RESPONSES), QUADRUPLE_RESPONSES)


def loss_and_gradient(model, table, task_of, responses, share_prompts, sizes):
    """Go through all micro-batches of all ranks; return the loss, and its gradient as one vector."""
    policy = Policy(copy.deepcopy(model), share_prompts)
    collate = Collate(responses, share_prompts, pad_token_id=0)
    task = task_of(collate)
    plan = plan_step(0, range(NUM_ROWS), sizes, collate.row_tokens(table), collate.fit)
    total = 0.0
    for micro in (micro for micros in plan.ranks for micro in micros):
        result = task.run(policy, table.rows(micro.rows), micro, 5, torch.device("cpu"))
        loss = result.loss_sum / task.units(plan, table)
        loss.backward()
        total += loss.item()
    return total, torch.cat([parameter.grad.flatten() for parameter in policy.model.parameters()])


def assert_equal_to_padded(model, table, task_of, responses):
    expected, expected_gradient = loss_and_gradient(
        model, table, task_of, responses, False, BatchSizes(NUM_ROWS, ALL_IN_ONE, 1)
    )
    assert expected_gradient.norm() > 1e-3
    for max_tokens, num_ranks in ((ALL_IN_ONE, 1), (1, 1), (90, 2), (ALL_IN_ONE, 4)):
        sizes = BatchSizes(NUM_ROWS, max_tokens, num_ranks)
        found, gradient = loss_and_gradient(model, table, task_of, responses, True, sizes)
        assert found == pytest.approx(expected, rel=1e-5)
        assert relative_error(gradient, expected_gradient) < 1e-5


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_packed_batches_on_any_ranks_have_the_gradient_of_padded_ones(name, objective, table):
    torch.manual_seed(0)
    config = WRPOConfig(learning_rate=1e-3, objective=objective, alpha={"end": 0.8}, **OBJECTIVES[objective])
    model = MODELS[name]()
    assert_equal_to_padded(model, table, lambda collate: WRPOTask(config, 10, collate), QUADRUPLE_RESPONSES)


def test_sft_too(table):
    torch.manual_seed(0)
    renamed = copy.copy(table)
    renamed.table = table.table.rename_columns({"source_chosen": "response"})
    renamed.num_tokens = {"response": table.num_tokens["source_chosen"]}
    assert_equal_to_padded(MODELS["llama"](), renamed, SFTTask, SFT_RESPONSES)


def test_an_architecture_that_is_not_known_trains_on_padded_batches_and_says_so(tmp_path, caplog, model, monkeypatch):
    from wrpo_ray import policy
    from wrpo_ray.config import ModelFiles
    from wrpo_ray.train.model import load_policy

    train = runs.make_config(model).wrpo
    assert load_policy(ModelFiles(path=str(model)), train).share_prompts
    monkeypatch.setattr(policy, "SHARED_PROMPT_ARCHITECTURES", frozenset({"GPTNeoXForCausalLM"}))
    assert not load_policy(ModelFiles(path=str(model)), train).share_prompts
    assert "prompts are not shared, batches are padded: LlamaForCausalLM is none of" in caplog.text
