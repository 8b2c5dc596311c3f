"""Reward models in transformers: batches, padding, and a model of its own class with a gated head, as ArmoRM is."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from tests.tiny import chatml_tokenizer, headers_tokenizer, save_classifier
from tests.unit.test_policy import HEADS, SIZES, SLIDING
from wrpo_ray.attention import SHARED_PROMPT
from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import TransformersRewardConfig
from wrpo_ray.engines.answer_groups import AnswerGroup, group_answers
from wrpo_ray.engines.protocol import Answer, SetAside
from wrpo_ray.engines.transformers_scorer import TransformersScorer
from wrpo_ray.errors import ModelError
from wrpo_ray.model_trust import code_files
from wrpo_ray.packing import pack_groups
from wrpo_ray.policy import SHARED_PROMPT_CLASSIFIERS, shared_prompt_logits, why_padded
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


def test_answers_of_a_prompt_share_what_they_begin_with() -> None:
    encoded = {0: [1, 2, 3, 4], 1: [7, 8], 3: [1, 2, 3, 5, 6], 4: [1, 2, 9], 5: [7, 8]}
    prompt_of = {0: "a", 1: "b", 3: "a", 4: "a", 5: "b"}
    of_a = AnswerGroup((0, 3, 4), [1, 2], ([3, 4], [3, 5, 6], [9]))
    # Equal answers: each keeps its last token, which gives its reward.
    of_b = AnswerGroup((1, 5), [7], ([8], [8]))
    assert group_answers(encoded, prompt_of, 100) == [of_a, of_b]
    assert [group.num_tokens for group in (of_a, of_b)] == [8, 3]
    cut = group_answers(encoded, prompt_of, 7)
    assert [group.positions for group in cut] == [(0, 3), (4,), (1, 5)]
    assert all(group.num_tokens <= 7 for group in cut)
    alone = group_answers({0: [1, 2], 1: [3, 4, 5]}, {0: "a", 1: "a"}, 100)
    assert alone == [AnswerGroup((0,), [1], ([2],)), AnswerGroup((1,), [3, 4], ([5],))]


CLASSIFIERS = {
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**HEADS, num_labels=1)),
    "qwen2": lambda: Qwen2ForSequenceClassification(Qwen2Config(**HEADS, num_labels=1)),
    "qwen3": lambda: Qwen3ForSequenceClassification(Qwen3Config(**HEADS, head_dim=8, num_labels=1)),
    "gemma3": lambda: Gemma3TextForSequenceClassification(
        Gemma3TextConfig(**HEADS, head_dim=8, sliding_window=6, layer_types=SLIDING, num_labels=1)
    ),
    "mistral": lambda: MistralForSequenceClassification(MistralConfig(**HEADS, sliding_window=5, num_labels=1)),
    "gpt-neox": lambda: GPTNeoXForSequenceClassification(
        GPTNeoXConfig(**SIZES, num_attention_heads=4, max_position_embeddings=128, num_labels=1)
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shared_prompts_give_the_reward_of_each_answer_alone(name: str) -> None:
    torch.manual_seed(0)
    model = CLASSIFIERS[name]().eval()
    assert type(model).__name__ in SHARED_PROMPT_CLASSIFIERS
    assert why_padded(model) is None
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(0, 101, (length,), generator=generator).tolist() for length in (11, 4)]
    rests = [[[5, 6, 7, 8, 9, 10, 11], [5, 6], [12]], [[3, 4, 5]]]
    model.config.pad_token_id = None
    with torch.inference_mode():
        alone = [
            float(model(torch.tensor([prompt + rest])).logits)
            for prompt, group in zip(prompts, rests, strict=True)
            for rest in group
        ]
        model.set_attn_implementation(SHARED_PROMPT)
        found = shared_prompt_logits(model, pack_groups(prompts, rests))
    assert found.shape == (4, 1)
    assert found.flatten().tolist() == pytest.approx(alone, abs=1e-5)
    assert len({round(value, 4) for value in alone}) == 4


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("make_tokenizer", [chatml_tokenizer, headers_tokenizer])
def test_batched_scores_are_those_of_one_row_at_a_time(
    tmp_path: Path, make_tokenizer: object, share_prompts: bool
) -> None:
    """Also where the end token doubles as padding: a classifier looks for padding to find a row's last token."""
    tokenizer = make_tokenizer()  # pyright: ignore[reportCallIssue]
    path = save_classifier(tmp_path / "model", tokenizer)
    scorer = TransformersScorer(reward(path, max_batch_tokens=120, share_prompts=share_prompts))
    assert scorer.share_prompts == share_prompts
    scores = scorer.score(answers(), lambda: None)
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
    known = code_files(path)
    scorer = TransformersScorer(reward(path, score_field="score", trust_remote_code=True, code_sha256=known))
    scores = scorer.score(answers(), lambda: None)
    chat = ChatTokenizer(chatml_tokenizer())
    for text, score in zip(TEXTS[:3], scores[:3], strict=True):
        ids = torch.tensor([chat.encode_conversation(MESSAGES, text)])
        with torch.inference_mode():
            assert score == pytest.approx(float(model(ids, torch.ones_like(ids)).score), abs=1e-5)
    with pytest.raises(ModelError, match="gives logits of shape None"):
        TransformersScorer(reward(path, score_field="logits", trust_remote_code=True, code_sha256=known)).score(
            answers()[:1], lambda: None
        )
