"""Models and requests: all contestants get the same ones, by the same engine arguments."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_ray.config import EngineConfig, ModelConfig, ResourcesConfig, SamplingConfig
from wrpo_ray.schema import Prompt, prompt_id
from wrpo_ray.steps import StepResult
from wrpo_ray.storage.location import Location, locate
from wrpo_ray.storage.manifest import Manifest, create_manifest
from wrpo_ray.storage.tables import write_rows

RUN_SEED, IDENTITY = 7, "benchmark"
_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# 135M parameters, as its public config.json says; weights at random, since no model hub can be reached from here.
SMOLLM_135M: dict[str, Any] = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Workload:
    """What is drawn: `num_prompts` prompts of about `prompt_words` words, `num_samples` responses to each."""

    name: str
    shape: str
    num_prompts: int
    prompt_words: int
    num_samples: int
    max_tokens: int
    max_num_seqs: int
    prompts_per_shard: int

    @property
    def num_responses(self) -> int:
        return self.num_prompts * self.num_samples


def model_of(work: Workload, folder: Path) -> ModelConfig:
    """Return the model of a workload, whose files are in `folder`. Responses end by chance, at a stop string."""
    return ModelConfig(
        name="measured",
        path=str(folder),
        engine=EngineConfig(
            dtype="float32",
            max_model_len=1024,
            max_num_seqs=work.max_num_seqs,
            max_num_batched_tokens=4096,
            enforce_eager=True,
            # 128 on a CPU unless said otherwise: prompts shorter than that would never hit the prefix cache.
            extra_args={"block_size": 32},
        ),
        sampling=SamplingConfig(num_samples=work.num_samples, max_tokens=work.max_tokens, stop=("q",)),
        resources=ResourcesConfig(num_cpus=1.0, prompts_per_shard=work.prompts_per_shard),
    )


def save_model(shape: str, folder: Path) -> None:
    """Write a Llama of the named shape with random weights, and a tokenizer that fills its vocabulary."""
    sizes = TINY if shape == "tiny" else SMOLLM_135M
    tokenizer = _tokenizer(sizes["vocab_size"])
    torch.manual_seed(0)
    config = LlamaConfig(**sizes)
    config.eos_token_id = tokenizer.get_vocab()["<|im_end|>"]
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def prompts_of(work: Workload) -> list[Prompt]:
    """Return the prompts, each different from its first word on."""
    chosen = random.Random(0)
    rows = []
    for number in range(work.num_prompts):
        words = [_word(chosen) for _ in range(int(work.prompt_words * chosen.uniform(0.5, 1.5)))]
        messages = [{"role": "user", "content": " ".join([f"{number}", *words])}]
        rows.append(Prompt(prompt_id(messages), messages, "preference", None))
    return sorted(rows, key=lambda row: row.prompt_id)


def store_prompts(work: Workload, folder: Path) -> Location:
    """Write the prompts as a finished step and return its place."""
    place = locate(folder)
    result = StepResult((write_rows(place, "data/prompts.parquet", prompts_of(work), Prompt),), {})
    create_manifest(place, Manifest("prompts", "f", {}, {}, result.files, {}, {}, 0.0))
    return place


def save_workload(work: Workload, place: Path) -> None:
    """Let a child process know what to work on."""
    place.write_text(json.dumps(asdict(work)))


def load_workload(place: Path) -> Workload:
    return Workload(**json.loads(place.read_text()))


def _word(chosen: random.Random) -> str:
    return "".join(chosen.choice("abcdefghijklmnoprstuvwxyz") for _ in range(chosen.randint(2, 8)))


def _tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    chosen = random.Random(1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator((_word(chosen) for _ in range(2 * vocab_size)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    fast.chat_template = _CHATML
    return fast
