"""TRL's DPOTrainer on the (y_wt, y_l) pairs of the quadruples, its steps given out one by one.

Runs in an environment of its own (requirements/trl.txt). TRL drives its own loop; a callback waits before every step.
"""

from __future__ import annotations

import tempfile
from typing import Any, Protocol, cast

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from benchmarks.training.cases import BETA, LEARNING_RATE, Case, frozen_copy
from benchmarks.training.workloads import EOS_ID, PAD_ID

PAIR = slice(-2, None)
_MOST_STEPS = 100_000


def word_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer that turns 'w7 w8 </s>' into [7, 8, EOS_ID]."""
    words = {_word(number): number for number in range(vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=_word(PAD_ID)))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=_word(EOS_ID), pad_token=_word(PAD_ID), clean_up_tokenization_spaces=False
    )


def _word(token: int) -> str:
    # Special tokens are found inside other words too, so they must be no part of one.
    return {EOS_ID: "</s>", PAD_ID: "<pad>"}.get(token, f"w{token}")


def text(tokens: list[int], leading: str = "") -> str:
    """Return the words of token ids."""
    return leading + " ".join(map(_word, tokens))


def dataset(case: Case) -> Dataset:
    """Return the pairs of all batches, in order."""
    rows = [row for batch in case.batches for row in batch]
    pairs = [(row.prompt, *row.responses[PAIR]) for row in rows]
    return Dataset.from_list(
        [{"prompt": text(prompt), "chosen": text(chosen, " "), "rejected": text(rejected, " ")}
         for prompt, chosen, rejected in pairs]
    )  # fmt: skip


class StepObserver(Protocol):
    """What wants to know about steps; `before` returns False when no further one is to be taken."""

    def before(self) -> bool: ...

    def lap(self) -> None: ...

    def after(self) -> None: ...


class StepByStep(TrainerCallback):
    """Reports every step to `observer`; training ends when there is none to take."""

    def __init__(self, observer: StepObserver) -> None:
        self.observer = observer

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.observer.before():
            raise KeyboardInterrupt

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.observer.lap()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.observer.after()


def train(case: Case, model: LlamaForCausalLM, cached_reference: bool, observer: StepObserver) -> None:
    """Run TRL's own training loop on the case's batches, over and over, until there is no step to take.

    Raises RuntimeError when TRL's token ids are not the case's.
    """
    cuda = case.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            folder, beta=BETA, learning_rate=LEARNING_RATE, max_length=None, max_steps=_MOST_STEPS,
            per_device_train_batch_size=len(case.batches[0]), train_sampling_strategy="sequential",
            precompute_ref_log_probs=cached_reference, gradient_checkpointing=False, use_cpu=not cuda, bf16=cuda,
            report_to="none", logging_strategy="no", save_strategy="no", disable_tqdm=True, max_grad_norm=0.0,
            dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = DPOTrainer(
            model, None if cached_reference else frozen_copy(model), args=config, train_dataset=dataset(case),
            processing_class=word_tokenizer(case.shape.vocab_size), callbacks=[StepByStep(observer)],
        )  # fmt: skip
        _check_tokens(trainer, case)
        try:
            trainer.train()
        except KeyboardInterrupt:
            return


def _check_tokens(trainer: DPOTrainer, case: Case) -> None:
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    theirs = [tuple(list(row[name]) for name in names) for row in cast(Any, trainer.train_dataset)]
    ours = [(row.prompt, *row.responses[PAIR]) for batch in case.batches for row in batch]
    if theirs != ours:
        raise RuntimeError("TRL tokenises the rows in another way than the benchmark; the comparison would not be fair")
