"""Every step of a run that takes accelerators, with what it takes: the formulas applied to a config."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from wrpo_ray.config import (
    EngineConfig,
    EvaluationConfig,
    FuseConfig,
    ModelConfig,
    OpenAISourceConfig,
    ResourcesConfig,
    SamplingConfig,
    SourceConfig,
    TrainConfig,
    TransformersRewardConfig,
    VerifierRewardConfig,
    VllmRewardConfig,
)
from wrpo_ray.config_benchmarks import LmEvalConfig
from wrpo_ray.config_evaluation import JudgeConfig
from wrpo_ray.config_evaluation_rules import answering_sources, evaluated_pairs, evaluated_sources
from wrpo_ray.errors import ConfigError, Problem
from wrpo_ray.planning import engine_memory, passes, training_memory
from wrpo_ray.planning.accelerators import CPU, Accelerator, find_accelerator
from wrpo_ray.planning.endpoint import endpoint_stage
from wrpo_ray.planning.fit import Fit
from wrpo_ray.planning.further import Draw, further_draws
from wrpo_ray.planning.generation import Engine, Requests, generation, tail_s
from wrpo_ray.planning.lengths import Lengths
from wrpo_ray.planning.lm_eval import lm_eval_stage
from wrpo_ray.planning.lookup import FoundShape
from wrpo_ray.planning.schedule import Job
from wrpo_ray.planning.shapes import ModelShape
from wrpo_ray.planning.stage import Kind, Stage, bound_of, engine_job

# vLLM's start without reading weights: 15 s dynamo, 70 s compiling, 60 s CUDA graphs of a 70B model on 8 GPUs
# (https://github.com/vllm-project/vllm/issues/19824); a plain start is an assumption.
COMPILED_START_S, PLAIN_START_S = 145.0, 20.0
_TARGET_SFT, _FUSED = "target-sft", "fused"
# Of our own wording around a judge's material.
_QUESTION_TOKENS = 250


@dataclass
class StageBuilder:
    """Builds the stages of one config; problems are collected, so that all of them are told at once."""

    config: FuseConfig
    shapes: dict[str, FoundShape]
    lengths: Lengths
    problems: list[Problem] = field(default_factory=list)
    trained: tuple[str, ...] = ("sft",)
    """The stage that Target-SFT comes from, if one makes it."""

    def build(self) -> list[Stage]:
        """Return the stages in the order of the run; raises ConfigError for what cannot be planned."""
        config, lengths = self.config, self.lengths
        stages: list[Stage] = []
        for source in config.sources:
            stages += self._scored(f"sources.{source.name}", source, lengths.prompts)
        scored = tuple(stage.step for stage in stages if stage.kind == "scoring")
        rows = round(lengths.prompts * config.prompts.sft_fraction)
        preference = lengths.prompts - rows
        self.trained = () if config.ablation.skip_sft else ("sft",)
        if self.trained:
            stages.append(self._sft(rows, scored))
        target = config.target.model_copy(update={"name": _TARGET_SFT})
        stages += self._scored("target", target, preference, self.trained)
        stages.append(self._reference(preference, (f"score-{_TARGET_SFT}", *scored)))
        stages.append(self._wrpo(preference, ("reference",)))
        if config.evaluation is not None:
            stages += self._evaluation(config.evaluation)
        if self.problems:
            unique = list({(problem.place, problem.rule): problem for problem in self.problems}.values())
            raise ConfigError.of("cannot plan this config", unique)
        return stages

    def _scored(self, place: str, model: SourceConfig, prompts: float, after: tuple[str, ...] = ()) -> list[Stage]:
        drawn = self._drawn(f"sample-{model.name}", place, model, prompts, after)
        return [drawn, self._scoring(f"score-{model.name}", model.sampling, prompts, 1, (drawn.step,))]

    def _drawn(self, step: str, place: str, model: SourceConfig, prompts: float, after: tuple[str, ...] = ()) -> Stage:
        if isinstance(model, OpenAISourceConfig):
            speed = self.config.planning.endpoint_tokens_per_s
            stage = endpoint_stage(step, model, prompts, self.lengths, speed)
            return replace(stage, job=replace(stage.job, after=after))
        return self._sampling(step, place, model, prompts, after)

    def _evaluation(self, evaluation: EvaluationConfig) -> Iterator[Stage]:
        sampling, prompts = evaluation.sampling, self.lengths.evaluation_prompts
        models = ((self.config.target.name, ()), (_TARGET_SFT, self.trained), (_FUSED, ("wrpo",)))
        drawn = []
        for name, after in models:
            model = self.config.target.model_copy(update={"name": name, "sampling": sampling})
            stage = self._sampling(f"evaluation-sample-{name}", "target", model, prompts, after)
            drawn.append(stage.step)
            yield stage
        yield self._scoring("evaluation-score", sampling, prompts, len(drawn), tuple(drawn))
        for source in evaluated_sources(self.config):
            model = source.model_copy(update={"sampling": sampling})
            stage = self._drawn(f"evaluation-sample-{source.name}", f"sources.{source.name}", model, prompts)
            drawn.append(stage.step)
            yield stage
            yield self._scoring(f"evaluation-score-{source.name}", sampling, prompts, 1, (stage.step,))
        if evaluation.judge is not None:
            yield self._judge(evaluation.judge, sampling, tuple(drawn))
        for draw in further_draws(evaluation) if evaluation.benchmarks or evaluation.safety else ():
            yield from self._beside(draw, models)
        if evaluation.lm_eval is not None:
            yield from (self._lm_eval(evaluation.lm_eval, name, after) for name, after in models)

    def _beside(self, draw: Draw, models: Sequence[tuple[str, tuple[str, ...]]]) -> Iterator[Stage]:
        """What models, each with the steps that it comes from, and sources answer beside the held-out prompts."""
        target = [("target", self.config.target.model_copy(update={"name": name}), after) for name, after in models]
        others = answering_sources(self.config) if draw.of_sources else ()
        for place, model, after in (*target, *((f"sources.{source.name}", source, ()) for source in others)):
            before = (f"evaluation-{draw.after}-{model.name}",) if draw.after else after
            asked = model.model_copy(update={"sampling": draw.sampling})
            yield self._drawn(f"evaluation-{draw.stage}-{model.name}", place, asked, draw.num_prompts, before)

    def _lm_eval(self, section: LmEvalConfig, name: str, after: tuple[str, ...]) -> Stage:
        model, shape = self.config.target, self.shapes["target"].shape
        accelerator = self._of("target", model.resources)
        weight_bytes = self._weight_bytes("target", model.engine)
        engine = _engine(shape, model, weight_bytes, accelerator)
        start_s = self._engine_start_s(
            model.engine if section.backend == "vllm" else None, shape.parameters * weight_bytes
        )
        return lm_eval_stage(
            f"evaluation-lm-eval-{name}", section, self.config.planning, engine, accelerator.name, model.resources,
            start_s, after,
        )  # fmt: skip

    def _judge(self, judge: JudgeConfig, sampling: SamplingConfig, drawn: tuple[str, ...]) -> Stage:
        """Two questions for each pair and prompt, each of which holds the prompt and both answers."""
        answer = self._response_tokens(sampling)
        asked = replace(self.lengths, prompt_tokens=_QUESTION_TOKENS + self.lengths.prompt_tokens + 2 * answer)
        questions = 2 * len(evaluated_pairs(self.config)) * self.lengths.evaluation_prompts
        stage = endpoint_stage("evaluation-judge", judge, questions, asked, self.config.planning.endpoint_tokens_per_s)
        return replace(stage, job=replace(stage.job, after=drawn))

    def _response_tokens(self, sampling: SamplingConfig) -> float:
        return min(self.lengths.response_tokens, sampling.max_tokens)

    def _accelerator(self, place: str, uses_gpus: bool, wanted: str | None) -> Accelerator:
        if not uses_gpus:
            name, place = CPU, "planning.accelerators"
        else:
            name, place = (wanted, place) if wanted else (self.config.planning.accelerator, "planning.accelerator")
        found = find_accelerator(name, self.config.planning.accelerators, place)
        return found if isinstance(found, Accelerator) else self._stand_in(found)

    def _stand_in(self, problem: Problem) -> Accelerator:
        """Note a problem and go on with figures that nobody will see."""
        self.problems.append(problem)
        return Accelerator(problem.value, None, 1.0, 1.0, 1.0, 1.0)

    def _of(self, place: str, resources: ResourcesConfig) -> Accelerator:
        where = f"{place}.resources.accelerator_type"
        return self._accelerator(where, resources.num_gpus > 0, resources.accelerator_type)

    def _weight_bytes(self, place: str, engine: EngineConfig) -> float:
        found = engine_memory.weight_bytes(engine, place, self.shapes[place].quantization)
        if isinstance(found, Problem):
            self.problems.append(found)
            return 2.0
        return found

    def _sampling(self, step: str, place: str, model: ModelConfig, prompts: float, after: tuple[str, ...]) -> Stage:
        shape, accelerator = self.shapes[place].shape, self._of(place, model.resources)
        weight_bytes = self._weight_bytes(place, model.engine)
        engine = _engine(shape, model, weight_bytes, accelerator)
        requests = Requests(
            prompts, model.sampling.num_samples, self.lengths.prompt_tokens, self._response_tokens(model.sampling)
        )
        made = generation(engine, requests)
        start_s = self._engine_start_s(model.engine, shape.parameters * weight_bytes)
        job = engine_job(
            step, accelerator.name, model.resources, made.gpu_seconds,
            start_s + tail_s(engine, requests, model.sampling.max_tokens), after,
        )  # fmt: skip
        return Stage(
            kind="sampling",
            job=job,
            responses=prompts * requests.samples,
            input_tokens=prompts * requests.prompt_tokens,
            output_tokens=requests.output_tokens,
            flops=made.flops,
            bound=bound_of(job, made.bound),
            fit=engine_memory.engine_fit(
                place, shape, model.engine, weight_bytes, accelerator, model.sampling.max_tokens
            ),
            batch=made.batch,
            capacity=made.capacity,
        )

    def _engine_start_s(self, engine: EngineConfig | None, num_bytes: float) -> float:
        planning = self.config.planning
        usual = PLAIN_START_S if engine is None or engine.enforce_eager else COMPILED_START_S
        start_s = usual if planning.engine_start_s is None else planning.engine_start_s
        return start_s + num_bytes / (planning.load_gb_per_s * 1e9)

    def _scoring(
        self, step: str, sampling: SamplingConfig, prompts: float, models: int, after: tuple[str, ...]
    ) -> Stage:
        """`models`: how many models' responses to the same prompts are scored, one after the other."""
        reward = self.config.reward
        response = self._response_tokens(sampling)
        responses = prompts * models * sampling.num_samples
        if isinstance(reward, VerifierRewardConfig):
            job = Job(step, CPU, 0.5, 0.0, start_s=PLAIN_START_S, after=after)
            return Stage("scoring", job, responses, 0.0, 0.0, 0.0, "start-up")
        shape, accelerator = self.shapes["reward"].shape, self._of("reward", reward.resources)
        shared = isinstance(reward, VllmRewardConfig) or reward.share_prompts
        tokens = passes.scoring_tokens(
            prompts * models, sampling.num_samples, self.lengths.prompt_tokens, response, shared
        )
        flops = passes.forward_flops(shape.active_parameters, tokens)
        speed = accelerator.flops(_precision(reward)) * passes.SCORING_EFFICIENCY
        engine = reward.engine if isinstance(reward, VllmRewardConfig) else None
        weight_bytes = self._weight_bytes("reward", engine) if engine else _width(reward)
        start_s = self._engine_start_s(engine, shape.parameters * weight_bytes)
        job = engine_job(step, accelerator.name, reward.resources, flops / speed, start_s, after)
        fit = self._reward_fit(shape, accelerator, weight_bytes)
        return Stage("scoring", job, responses, tokens, 0.0, flops, bound_of(job, "compute"), fit)

    def _reward_fit(self, shape: ModelShape, accelerator: Accelerator, weight_bytes: float) -> Fit | None:
        reward = self.config.reward
        if isinstance(reward, VllmRewardConfig):
            return engine_memory.engine_fit("reward", shape, reward.engine, weight_bytes, accelerator)
        if isinstance(reward, TransformersRewardConfig):
            return engine_memory.reward_fit("reward", shape, reward, accelerator)
        return None

    def _sft(self, rows: float, after: tuple[str, ...]) -> Stage:
        train, response = self.config.sft, self._target_response()
        tokens = rows * min(self.lengths.prompt_tokens + response, train.max_length)
        return self._training("sft", train, rows, tokens, passes.SFT_EFFICIENCY, after)

    def _wrpo(self, rows: float, after: tuple[str, ...]) -> Stage:
        train = self.config.wrpo
        return self._training("wrpo", train, rows, self._quadruples(rows), passes.PREFERENCE_EFFICIENCY, after)

    def _target_response(self) -> float:
        return self._response_tokens(self.config.target.sampling)

    def _quadruples(self, rows: float) -> float:
        train = self.config.wrpo
        prompt = min(self.lengths.prompt_tokens, train.max_prompt_length)
        response = min(self._target_response(), train.max_length - prompt)
        return rows * passes.quadruple_tokens(prompt, response, train.share_prompts)

    def _training(
        self, step: str, train: TrainConfig, rows: float, tokens: float, efficiency: float, after: tuple[str, ...]
    ) -> Stage:
        shape, accelerator = self.shapes["target"].shape, self._trained_on(step, train)
        flops = passes.training_flops(shape.active_parameters, tokens, train)
        fit = training_memory.training_fit(step, shape, train, accelerator)
        return self._worker_stage("training", step, train, accelerator, rows, tokens, flops, efficiency, fit, after)

    def _reference(self, rows: float, after: tuple[str, ...]) -> Stage:
        """The reference's log-probs: of all three responses, or of y_ws alone."""
        train, shape = self.config.wrpo, self.shapes["target"].shape
        accelerator = self._trained_on("wrpo", train)
        tokens = self._quadruples(rows)
        if train.reference_from_sampler:
            tokens = rows * (self.lengths.prompt_tokens + self._target_response())
        flops = passes.forward_flops(shape.active_parameters, tokens)
        fit = training_memory.reference_fit("wrpo", shape, train, accelerator)
        efficiency = passes.PREFERENCE_EFFICIENCY
        return self._worker_stage(
            "reference", "reference", train, accelerator, rows, tokens, flops, efficiency, fit, after
        )

    def _trained_on(self, section: str, train: TrainConfig) -> Accelerator:
        return self._accelerator(f"{section}.accelerator_type", train.num_gpus_per_worker > 0, train.accelerator_type)

    def _worker_stage(
        self, kind: Kind, step: str, train: TrainConfig, accelerator: Accelerator, rows: float, tokens: float,
        flops: float, efficiency: float, fit: Fit, after: tuple[str, ...],
    ) -> Stage:  # fmt: skip
        planning, width = self.config.planning, 2.0 if train.precision == "bf16" else 4.0
        speed = accelerator.flops("bf16" if train.precision == "bf16" else "fp32") * efficiency
        loading_s = self.shapes["target"].shape.parameters * width / (planning.load_gb_per_s * 1e9)
        job = Job(
            step, accelerator.name, float(train.num_gpus_per_worker or train.num_cpus_per_worker), flops / speed,
            train.num_workers, train.num_workers, planning.training_start_s + loading_s, after,
        )  # fmt: skip
        return Stage(kind, job, rows, tokens, 0.0, flops, bound_of(job, "compute"), fit)


def _engine(shape: ModelShape, model: ModelConfig, weight_bytes: float, accelerator: Accelerator) -> Engine:
    engine = model.engine
    kind = "fp8" if weight_bytes == 1.0 else "fp32" if weight_bytes == 4.0 else "bf16"
    return Engine(
        gpus=model.resources.num_gpus or model.resources.num_cpus,
        flops=accelerator.flops(kind),
        bandwidth=accelerator.bandwidth,
        memory=engine_memory.usable_memory(engine, model.resources, accelerator),
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        weight_bytes=weight_bytes,
        kv_bytes=engine_memory.kv_bytes(shape, engine),
        max_num_seqs=engine.max_num_seqs,
        kv_copies=engine_memory.kv_copies(shape, engine),
    )


def _precision(reward: VllmRewardConfig | TransformersRewardConfig) -> str:
    dtype = reward.engine.dtype if isinstance(reward, VllmRewardConfig) else reward.dtype
    return "fp32" if dtype == "float32" else "bf16"


def _width(reward: VllmRewardConfig | TransformersRewardConfig) -> float:
    return 4.0 if _precision(reward) == "fp32" else 2.0


def build_stages(config: FuseConfig, shapes: dict[str, FoundShape], lengths: Lengths) -> list[Stage]:
    """Return the stages of a run; raises ConfigError for an accelerator or a quantization that is not known."""
    return StageBuilder(config, shapes, lengths).build()
