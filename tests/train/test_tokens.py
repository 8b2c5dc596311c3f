"""What does not fit is counted: prompts left out, responses cut one by one."""

import pytest

from tests.train import runs
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.errors import DataError
from wrpo_ray.models import load_tokenizer
from wrpo_ray.storage.location import locate
from wrpo_ray.train.tokens import QUADRUPLE_RESPONSES, TokenTable, tokenise, write_tokens


@pytest.fixture
def chat(model):
    return ChatTokenizer(load_tokenizer(str(model)))


def test_long_prompts_are_left_out_and_long_responses_cut_on_their_own(model, chat, tmp_path):
    quadruples = runs.quadruples(10)
    whole, _ = tokenise(quadruples, QUADRUPLE_RESPONSES, chat, runs.make_config(model).wrpo)
    lengths = sorted(len(row["prompt"]) for row in whole)
    limits = {"max_prompt_length": lengths[5], "max_length": lengths[5] + 4}
    rows, counts = tokenise(quadruples, QUADRUPLE_RESPONSES, chat, runs.make_config(model, wrpo=limits).wrpo)
    fitting = [row for row in whole if len(row["prompt"]) <= lengths[5]]
    assert [row["prompt_id"] for row in rows] == [row["prompt_id"] for row in fitting]
    assert counts.num_rows_too_long_prompt == 10 - len(fitting)
    num_cut = 0
    for row, before in zip(rows, fitting, strict=True):
        for name in QUADRUPLE_RESPONSES:
            room = limits["max_length"] - len(row["prompt"])
            assert row[name] == before[name][:room]
            num_cut += len(before[name]) > room
    assert counts.num_responses_cut == num_cut > 0
    entry = write_tokens(locate(tmp_path), rows, QUADRUPLE_RESPONSES)
    table = TokenTable(locate(tmp_path), entry, QUADRUPLE_RESPONSES)
    assert table.rows([2, 0]) == [rows[2], rows[0]]
    assert table.count([1]) == sum(len(rows[1][name]) for name in QUADRUPLE_RESPONSES)


def test_no_row_left_is_an_error(model, chat):
    config = runs.make_config(model, wrpo={"max_prompt_length": 1}).wrpo
    with pytest.raises(DataError, match="none of 2 rows"):
        tokenise(runs.quadruples(2), QUADRUPLE_RESPONSES, chat, config)
