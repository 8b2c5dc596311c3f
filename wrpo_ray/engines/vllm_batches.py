"""Several batches at once in one vLLM engine: its requests are fed in order, a batch ends with its last one.

The engine holds about twice as many requests as it decodes side by side, never all of a batch: adding a thousand at
once would let it wait. Requests of one prompt stay next to each other: vLLM's prefix cache serves all but the first.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from wrpo_ray.engines.protocol import BatchDone, BatchRefused, Progress
from wrpo_ray.engines.vllm_engine import engine_is_dead, stop_engine

if TYPE_CHECKING:
    from vllm import LLM, PoolingParams, SamplingParams

log = logging.getLogger(__name__)
Row = TypeVar("Row")
Prepared = TypeVar("Prepared")


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as the engine gets it."""

    token_ids: list[int]
    params: SamplingParams | PoolingParams


@dataclass
class _Batch(Generic[Prepared]):
    prepared: Prepared
    outputs: list[Any]
    num_left: int
    error: str | None = None


class VllmBatches(ABC, Generic[Row, Prepared]):
    """Satisfies engines.protocol.StreamingEngine; what a batch asks and what its answers mean is the subclass's."""

    def __init__(self, engine: LLM, max_num_seqs: int) -> None:
        self.engine, self._most = engine, 2 * max_num_seqs
        self._core: Any = engine.llm_engine
        self._batches: dict[int, _Batch[Prepared]] = {}
        self._to_add: deque[tuple[int, int, Request]] = deque()

    @abstractmethod
    def prepared(self, rows: Sequence[Row]) -> tuple[Prepared, list[Request]]:
        """Return the requests of a batch, in order, and what `outcomes` needs besides their outputs."""

    @abstractmethod
    def outcomes(self, prepared: Prepared, outputs: Sequence[Any]) -> tuple[list[Any], dict[str, int]]:
        """Return the outcomes of a batch and its counts; `outputs` are vLLM's, one per request, in order."""

    def add(self, number: int, prepared: tuple[Prepared, list[Request]]) -> None:
        """See engines.protocol.StreamingEngine."""
        rest, requests = prepared
        self._batches[number] = _Batch(rest, [None] * len(requests), len(requests))
        self._to_add.extend((number, position, request) for position, request in enumerate(requests))

    def is_busy(self) -> bool:
        """See engines.protocol.StreamingEngine."""
        return bool(self._batches)

    def step(self) -> list[BatchDone | BatchRefused]:
        """See engines.protocol.StreamingEngine."""
        self._feed()
        if self._core.has_unfinished_requests():
            for output in self._core.step():
                if output.finished:
                    self._keep(output)
        return [
            self._refused(number) if batch.error else self._done(number)
            for number, batch in list(self._batches.items())
            if batch.error or not batch.num_left
        ]

    def is_usable(self) -> bool:
        """See engines.protocol.Engine."""
        return not engine_is_dead(self.engine) and not self._core.has_unfinished_requests()

    def close(self) -> None:
        """See engines.protocol.Engine."""
        stop_engine(self.engine)

    def run_one(self, rows: Sequence[Row], progress: Progress) -> list[Any]:
        """Return the outcomes of one batch, with nothing else in the engine; raises ValueError when vLLM refuses it."""
        self.add(0, self.prepared(rows))
        while not (ended := self.step()):
            progress()
        if isinstance(ended[0], BatchRefused):
            raise ValueError(ended[0].error)
        return ended[0].outcomes

    def _feed(self) -> None:
        from vllm.inputs import tokens_input

        room = self._most - self._core.get_num_unfinished_requests()
        while self._to_add and room > 0:
            number, position, request = self._to_add.popleft()
            room -= 1
            try:
                self._core.add_request(f"{number}:{position}", tokens_input(request.token_ids), request.params)
            except Exception as error:
                if engine_is_dead(self.engine):
                    raise
                # Whatever vLLM has against a request, the other batches have nothing to do with it.
                log.exception("vLLM refused a request")
                self._batches[number].error = f"{type(error).__name__}: {error}"
                self._drop_requests(number, position)

    def _drop_requests(self, number: int, num_added: int) -> None:
        self._core.abort_request([f"{number}:{position}" for position in range(num_added)])
        self._to_add = deque(entry for entry in self._to_add if entry[0] != number)

    def _keep(self, output: Any) -> None:
        number, position = map(int, output.request_id.split(":"))
        batch = self._batches[number]
        batch.outputs[position] = output
        batch.num_left -= 1

    def _done(self, number: int) -> BatchDone:
        batch = self._batches.pop(number)
        return BatchDone(number, *self.outcomes(batch.prepared, batch.outputs))

    def _refused(self, number: int) -> BatchRefused:
        return BatchRefused(number, str(self._batches.pop(number).error))
