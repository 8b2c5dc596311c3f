"""Responses from a vLLM engine.

Each sample is a request of its own, with a seed that follows from what it is (run seed, prompt, model, sample index),
so a response does not depend on shard, worker or restart, and raising K keeps the samples that are there already.
The prompt's prefix is computed once: vLLM's prefix cache serves the other K-1 requests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wrpo_ray.chat import ChatTokenizer
from wrpo_ray.config import ModelConfig, SamplingConfig
from wrpo_ray.engines.protocol import Progress, SetAside
from wrpo_ray.engines.requests import sample_indices, sampling_of
from wrpo_ray.engines.vllm_batches import Request, VllmBatches
from wrpo_ray.engines.vllm_engine import start_engine
from wrpo_ray.errors import DataError, ModelError
from wrpo_ray.models import on_node, tokenizer_of
from wrpo_ray.schema import Prompt, Response, ResponseWithLogps, stable_hash

if TYPE_CHECKING:
    from vllm import SamplingParams

# The model's own log-probs: before temperature, penalties, top_p and top_k. vLLM's default today.
LOGPROBS_MODE = "raw_logprobs"


def request_seed(run_seed: int, prompt_id: str, identity: str, sample_index: int) -> int:
    """Return the 31-bit seed of one request; `identity` is the fingerprint of the model and its sampling."""
    return stable_hash("request", run_seed, prompt_id, identity, sample_index) >> 33


@dataclass(frozen=True, slots=True)
class _Prepared:
    prompts: Sequence[Prompt]
    set_aside: dict[int, SetAside]
    """By position in `prompts`."""


class VllmGenerator(VllmBatches[Prompt, _Prepared]):
    """A model in vLLM; satisfies engines.protocol.Generator and StreamingEngine.

    with_logps: give responses as ResponseWithLogps. It changes no response: the sampler is asked for one more number.
    """

    def __init__(self, model: ModelConfig, run_seed: int, identity: str, with_logps: bool = False) -> None:
        model = on_node(model)
        self.model, self.run_seed, self.identity = model, run_seed, identity
        self.with_logps = with_logps
        self.chat = ChatTokenizer(tokenizer_of(model))
        self.max_prompt_tokens = model.engine.max_model_len - model.sampling.max_tokens
        engine = start_engine(
            model, model.engine, model.resources.num_gpus, runner="generate", seed=run_seed, logprobs_mode=LOGPROBS_MODE
        )
        super().__init__(engine, model.engine.max_num_seqs)

    def generate(self, prompts: Sequence[Prompt], progress: Progress) -> list[list[Response] | SetAside]:
        """See engines.protocol.Generator."""
        return self.run_one(prompts, progress)

    def prepared(self, rows: Sequence[Prompt]) -> tuple[_Prepared, list[Request]]:
        """See VllmBatches."""
        requests, set_aside = [], {}
        for position, prompt in enumerate(rows):
            ids = self._encode(prompt)
            if isinstance(ids, SetAside):
                set_aside[position] = ids
                continue
            requests += [Request(ids, self._sampling_params(prompt, index)) for index in self._samples(prompt)]
        return _Prepared(rows, set_aside), requests

    def outcomes(
        self, prepared: _Prepared, outputs: Sequence[Any]
    ) -> tuple[list[list[Response] | SetAside], dict[str, int]]:
        """See VllmBatches."""
        following = iter(outputs)
        outcomes: list[list[Response] | SetAside] = []
        for position, prompt in enumerate(prepared.prompts):
            outcomes.append(
                prepared.set_aside.get(position)
                or [self._response(prompt, index, next(following).outputs[0]) for index in self._samples(prompt)]
            )
        return outcomes, {
            "num_prompt_tokens": sum(len(output.prompt_token_ids) for output in outputs),
            "num_cached_prompt_tokens": sum(output.num_cached_tokens or 0 for output in outputs),
        }

    def _samples(self, prompt: Prompt) -> Sequence[int]:
        return sample_indices(prompt, self.model.sampling.num_samples)

    def _encode(self, prompt: Prompt) -> list[int] | SetAside:
        """Return the prompt's ids, or why it gets no response."""
        try:
            ids = self.chat.encode_prompt(prompt.messages)
        except DataError as error:
            return SetAside("prompt_template_refused", str(error))
        if len(ids) > self.max_prompt_tokens:
            return SetAside("prompt_too_long", f"{len(ids)} tokens, {self.max_prompt_tokens} leave room for an answer")
        return ids

    def _sampling_params(self, prompt: Prompt, sample_index: int) -> SamplingParams:
        seed = request_seed(self.run_seed, prompt.prompt_id, self.identity, sample_index)
        return sampling_params(sampling_of(prompt, self.model.sampling), seed, self.chat.end_token_id, self.with_logps)

    def _response(self, prompt: Prompt, sample_index: int, completion: object) -> Response:
        from vllm.outputs import CompletionOutput

        assert isinstance(completion, CompletionOutput)
        token_ids = list(completion.token_ids)
        response = Response(
            prompt_id=prompt.prompt_id,
            source=self.model.name,
            sample_index=sample_index,
            text=completion.text,
            token_ids=token_ids,
            finish_reason=str(completion.finish_reason),
            num_tokens=len(token_ids),
        )
        if not self.with_logps:
            return response
        if completion.cumulative_logprob is None or len(completion.logprobs or ()) != len(token_ids):
            raise ModelError(
                f"{self.model.name}: vLLM gave {len(completion.logprobs or ())} log-probs for {len(token_ids)} tokens",
                code="WRPO-E005",
            )
        return ResponseWithLogps(**dataclasses.asdict(response), logps=completion.cumulative_logprob)


def sampling_params(sampling: SamplingConfig, seed: int, end_token_id: int, with_logps: bool = False) -> SamplingParams:
    """Return vLLM's parameters of one request; generation stops at the template's end token and at the model's own."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=sampling.max_tokens,
        stop=list(sampling.stop),
        stop_token_ids=[end_token_id],
        seed=seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
        # 0 asks for the drawn token's own log-prob and no other one's.
        logprobs=0 if with_logps else None,
    )
