"""Reward models in transformers: batches, padding, and a model of its own class with a gated head, as ArmoRM is."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from tests.tiny import chatml_tokenizer, headers_tokenizer, save_classifier
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import TransformersRewardConfig
from wrpo_ray.engines.protocol import Answer, SetAside
from wrpo_ray.engines.transformers_scorer import TransformersScorer, batches_by_tokens
from wrpo_ray.errors import ModelError
from wrpo_ray.schema import Prompt

MESSAGES = [{"role": "user", "content": "Say Paris"}]
TEXTS = ["Paris", "The quick brown fox jumps over the lazy dog", "no", "x" * 400, "London <|im_end|> Rome"]
GATED = '''
from dataclasses import dataclass
import torch
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers.utils import ModelOutput

@dataclass
class GatedOutput(ModelOutput):
    score: torch.Tensor | None = None

class GatedRewardModel(LlamaPreTrainedModel):
    """Scores for three objectives, weighed by a gate that reads the same last token."""

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.objectives = torch.nn.Linear(config.hidden_size, 3)
        self.gate = torch.nn.Linear(config.hidden_size, 3)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **_):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        last = hidden[torch.arange(len(hidden)), attention_mask.sum(dim=1) - 1]
        return GatedOutput(score=(self.gate(last).softmax(-1) * self.objectives(last)).sum(-1))
'''


def answers() -> list[Answer]:
    prompt = Prompt("p", MESSAGES, "sft", None)
    return [Answer(prompt, text) for text in TEXTS]


def reward(path: Path, **fields: object) -> TransformersRewardConfig:
    common = {"type": "transformers", "path": str(path), "dtype": "float32", "max_model_len": 200}
    return TransformersRewardConfig.model_validate({**common, **fields})


def test_batches_by_tokens() -> None:
    assert list(batches_by_tokens([5, 2, 5, 2], 10)) == [[0, 2], [1, 3]]
    assert list(batches_by_tokens([30, 1], 10)) == [[0], [1]]
    assert list(batches_by_tokens([], 10)) == []


@pytest.mark.parametrize("make_tokenizer", [chatml_tokenizer, headers_tokenizer])
def test_batched_scores_are_those_of_one_row_at_a_time(tmp_path: Path, make_tokenizer: object) -> None:
    """Also where the end token doubles as padding: a classifier looks for padding to find a row's last token."""
    tokenizer = make_tokenizer()  # pyright: ignore[reportCallIssue]
    path = save_classifier(tmp_path / "model", tokenizer)
    scores = TransformersScorer(reward(path, max_batch_tokens=120)).score(answers(), lambda: None)
    model = AutoModelForSequenceClassification.from_pretrained(path)
    chat = ChatTokenizer(tokenizer)
    for text, score in zip(TEXTS, scores, strict=True):
        ids = chat.encode_conversation(MESSAGES, text)
        if len(ids) > 200:
            assert score == SetAside("answer_too_long", f"{len(ids)} tokens, the reward model holds 200")
        else:
            with torch.inference_mode():
                assert score == pytest.approx(float(model(torch.tensor([ids])).logits), abs=1e-5)
    assert sum(isinstance(score, SetAside) for score in scores) == 1


def test_gated_head_of_its_own_class(tmp_path: Path) -> None:
    path = save_classifier(tmp_path / "gated", chatml_tokenizer())
    (path / "modeling_gated.py").write_text(GATED)
    stored = json.loads((path / "config.json").read_text())
    stored["auto_map"] = {"AutoModelForSequenceClassification": "modeling_gated.GatedRewardModel"}
    (path / "config.json").write_text(json.dumps(stored))
    torch.manual_seed(3)
    config = AutoConfig.from_pretrained(path, trust_remote_code=True)
    model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=True).eval()
    model.save_pretrained(path)
    scorer = TransformersScorer(reward(path, score_field="score", trust_remote_code=True))
    scores = scorer.score(answers(), lambda: None)
    chat = ChatTokenizer(chatml_tokenizer())
    for text, score in zip(TEXTS[:3], scores[:3], strict=True):
        ids = torch.tensor([chat.encode_conversation(MESSAGES, text)])
        with torch.inference_mode():
            assert score == pytest.approx(float(model(ids, torch.ones_like(ids)).score), abs=1e-5)
    with pytest.raises(ModelError, match="gives logits of shape None"):
        TransformersScorer(reward(path, score_field="logits", trust_remote_code=True)).score(
            answers()[:1], lambda: None
        )
