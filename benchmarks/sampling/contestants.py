"""What is measured, each in a process of its own: python -m benchmarks.sampling.contestants NAME FOLDER.

The process appends one JSON line per event to FOLDER/NAME.jsonl: {"event": "ready"}, then {"event": "responses", "n":
how many more are there}, at last {"event": "end", ...} with what it found. Times are those of time.monotonic(), which
all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.sampling.noting import NotingGenerator, note
from benchmarks.sampling.workload import IDENTITY, RUN_SEED, Workload, load_workload, model_of, prompts_of
from wrpo_ray.config import ModelConfig
from wrpo_ray.engines.vllm_generator import request_seed, sampling_params
from wrpo_ray.schema import Response, stable_hash

MODEL, PROMPTS, WORKLOAD = "model", "prompts", "workload.json"


def ours(work: Workload, folder: Path, place: Path) -> None:
    """The sampling stage: Ray Data, actors, engine processes, one Parquet file and one commit per shard."""
    import ray

    from wrpo_ray.data.sampling import SamplingJob, sample
    from wrpo_ray.events import ShardDone, listening, within
    from wrpo_ray.storage.location import locate
    from wrpo_ray.storage.tables import read_file

    ray.init(address="local", num_cpus=4, log_to_driver=False, include_dashboard=False)
    make = functools.partial(NotingGenerator, str(place))
    prompts = locate(folder / PROMPTS)
    job = SamplingJob(model_of(work, folder / MODEL), prompts, ("preference",), RUN_SEED, IDENTITY, make_generator=make)
    step = locate(place.parent / f"{place.stem}-step")

    def heard(_step: str, event: object) -> None:
        if isinstance(event, ShardDone):
            note(place, "responses", n=event.num_rows * work.num_samples)

    with listening(heard), within("sample"):
        result = sample(job, step)
    rows = [row for entry in result.files if entry.num_rows is not None for row in read_file(step, entry, Response)]
    drawn = {(row.prompt_id, row.sample_index): row.token_ids for row in rows}
    _end(place, work, drawn, result.summary["num_prompt_tokens"], result.summary["num_cached_prompt_tokens"])
    ray.shutdown()


def raw(work: Workload, folder: Path, place: Path) -> None:
    """AsyncLLM alone: prompts are tokenised beforehand, and all requests are given to it at once."""
    asyncio.run(_raw(work, model_of(work, folder / MODEL), place))


async def _raw(work: Workload, model: ModelConfig, place: Path) -> None:
    from vllm import AsyncEngineArgs
    from vllm.inputs import tokens_input
    from vllm.v1.engine.async_llm import AsyncLLM

    from wrpo_ray.chat import ChatTokenizer
    from wrpo_ray.engines.vllm_engine import engine_arguments
    from wrpo_ray.models import tokenizer_of

    chat = ChatTokenizer(tokenizer_of(model))
    encoded = {prompt.prompt_id: chat.encode_prompt(prompt.messages) for prompt in prompts_of(work)}
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(model, model.engine, 0), seed=RUN_SEED))
    note(place, "ready")
    drawn: dict[tuple[str, int], list[int]] = {}
    tokens = [0, 0]

    async def one(item: str, index: int) -> None:
        params = sampling_params(model.sampling, request_seed(RUN_SEED, item, IDENTITY, index), chat.end_token_id)
        async for output in engine.generate(tokens_input(encoded[item]), params, f"{item}:{index}"):
            if output.finished:
                drawn[item, index] = list(output.outputs[0].token_ids)
                tokens[0] += len(encoded[item])
                tokens[1] += output.num_cached_tokens or 0
                note(place, "responses", n=1)

    await asyncio.gather(*(one(item, index) for item in encoded for index in range(work.num_samples)))
    _end(place, work, drawn, *tokens)
    engine.shutdown()


def ray_data_llm(work: Workload, folder: Path, place: Path) -> None:
    """ray.data.llm as it comes, one row per sample, since it keeps the first output of a request only."""
    _ray_data_llm(work, folder, place, by_n=False)


def ray_data_llm_n(work: Workload, folder: Path, place: Path) -> None:
    """ray.data.llm as it comes, one row per prompt, with n = K: what of the K it keeps."""
    _ray_data_llm(work, folder, place, by_n=True)


def _ray_data_llm(work: Workload, folder: Path, place: Path, by_n: bool) -> None:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from wrpo_ray.engines.vllm_engine import CPU_ENVIRONMENT, engine_arguments

    model = model_of(work, folder / MODEL)
    arguments = engine_arguments(model, model.engine, 0) | {"seed": RUN_SEED}
    source = str(arguments.pop("model"))
    ray.init(address="local", num_cpus=6, log_to_driver=False, include_dashboard=False)
    config = vLLMEngineProcessorConfig(
        model_source=source,
        engine_kwargs={name: value for name, value in arguments.items() if value is not None},
        concurrency=(1, 1),
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": CPU_ENVIRONMENT},
    )
    fixed = _fixed_params(model)

    def asked(row: dict[str, Any]) -> dict[str, Any]:
        own = {"n": work.num_samples} if by_n else {}
        seed = request_seed(RUN_SEED, row["item"], IDENTITY, int(row["index"]))
        return {**row, "messages": json.loads(row["messages"]), "sampling_params": {**fixed, **own, "seed": seed}}

    # Spelled out: what a processor gives holds all columns that it made on the way.
    kept = ("item", "index", "generated_tokens", "num_input_tokens", "num_generated_tokens")
    processor = build_processor(config, preprocess=asked, postprocess=lambda row: {name: row[name] for name in kept})
    indices = range(1) if by_n else range(work.num_samples)
    rows = [
        {"item": prompt.prompt_id, "index": index, "messages": json.dumps(prompt.messages)}
        for prompt in prompts_of(work)
        for index in indices
    ]
    drawn, num_prompt_tokens = {}, 0
    for number, row in enumerate(processor(ray.data.from_items(rows)).iter_rows()):
        if not number:
            note(place, "ready")
        drawn[row["item"], int(row["index"])] = [int(token) for token in row["generated_tokens"]]
        num_prompt_tokens += int(row["num_input_tokens"])
        note(place, "responses", n=1)
    # It does not say how many of the prompt's tokens came from the cache.
    _end(place, work, drawn, num_prompt_tokens, None)
    ray.shutdown()


def _fixed_params(model: ModelConfig) -> dict[str, Any]:
    from wrpo_ray.chat import ChatTokenizer
    from wrpo_ray.models import tokenizer_of

    sampling = model.sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
        "stop_token_ids": [ChatTokenizer(tokenizer_of(model)).end_token_id],
        "detokenize": True,
    }


def _end(
    place: Path, work: Workload, drawn: dict[tuple[str, int], list[int]], num_prompt_tokens: int, num_cached: int | None
) -> None:
    note(
        place,
        "end",
        num_lost=work.num_responses - len(drawn),
        num_tokens=sum(map(len, drawn.values())),
        hit_rate=None if num_cached is None else round(num_cached / num_prompt_tokens, 4),
        # By sample, so that two contestants can be compared.
        digests={f"{item}:{index}": stable_hash(*tokens) for (item, index), tokens in drawn.items()},
    )


CONTESTANTS: dict[str, Callable[[Workload, Path, Path], None]] = {
    "ours": ours,
    "raw": raw,
    "ray_data_llm": ray_data_llm,
    "ray_data_llm_n": ray_data_llm_n,
}


def main() -> None:
    name, folder, place = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    CONTESTANTS[name](load_workload(folder / WORKLOAD), folder, place)


if __name__ == "__main__":
    main()
