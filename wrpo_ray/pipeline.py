"""The list of steps of a run, in reading order; run.py works through it.

prompts ─► sample, score (each source) ─► select_sft ─► sft
        ─► sample, score (target-sft) ─► fuse ─► reference ─► wrpo ─► evaluate ─► export
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wrpo_ray.ablation_steps import choice_identity, untrained_target
from wrpo_ray.allocated_steps import Builder, Draws, allocated_scores
from wrpo_ray.broken_sources import without
from wrpo_ray.claims import PARTS, engine_claim, scoring_claim, training_claim
from wrpo_ray.config import (
    EXECUTION_FIELDS,
    REFERENCE_FIELDS,
    EvaluationConfig,
    FuseConfig,
    ModelConfig,
    ModelFiles,
    RewardConfig,
    SourceConfig,
    TrainConfig,
    VllmRewardConfig,
)
from wrpo_ray.data.fusion import fuse, select_sft
from wrpo_ray.data.requested import sample_requested
from wrpo_ray.data.sampling import SamplingJob, sample
from wrpo_ray.data.scoring import score
from wrpo_ray.engines.generators import load_generator
from wrpo_ray.engines.protocol import Generator, Scorer
from wrpo_ray.engines.scorers import load_scorer
from wrpo_ray.errors import ConfigError
from wrpo_ray.evaluate.step_builder import EvaluationBuilder
from wrpo_ray.evaluation_steps import evaluation_steps
from wrpo_ray.export import export_datasets, export_model
from wrpo_ray.model_card import model_card
from wrpo_ray.models import model_identity, resolved
from wrpo_ray.preflight import Checked
from wrpo_ray.prompts import PromptSet, load_prompts
from wrpo_ray.quarantine import policy
from wrpo_ray.reuse import require_runs, run_to_reuse
from wrpo_ray.schema import Split
from wrpo_ray.selection import CONTROL_TOKENS, RESPONSE_CODES, SourceChoice
from wrpo_ray.steps import EVALUATION, Step, StepResult, complete, digest, is_meant
from wrpo_ray.storage.location import Location
from wrpo_ray.storage.manifest import layout_of, read_manifest, verify_files
from wrpo_ray.versions import ENGINE, TRAINING, installed

log = logging.getLogger(__name__)

TARGET_SFT, FUSED = "target-sft", "fused"
BOTH_SPLITS: tuple[Split, ...] = ("sft", "preference")
# Working state of steps that are made in pieces.
_SCRATCH = ("scratch",)
# How an engine is run; what changes numbers (dtype, quantization, parallel sizes) stays in the identity.
_ENGINE_EXECUTION_FIELDS = {"max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization"}
# Of a reward model; its files are identified by content.
_REWARD_EXECUTION_FIELDS = {
    "resources", "path", "revision", "chat_template", "engine", "max_batch_tokens", "share_prompts", "code_sha256",
}  # fmt: skip


def _run_sft(config: FuseConfig, model_path: str, examples: Location, folder: Location) -> StepResult:
    # Planning a run needs no torch.
    from wrpo_ray.train.launch import run_sft

    return run_sft(config, model_path, examples, folder)


@dataclass(frozen=True)
class Engines:
    """What does the heavy work of a run; tests of faults put deterministic doubles here.

    make_generator: see data.sampling.SamplingJob.
    """

    make_generator: Callable[..., Generator] = load_generator
    make_scorer: Callable[[RewardConfig], Scorer] = load_scorer
    run_sft: Callable[[FuseConfig, str, Location, Location], StepResult] = _run_sft


def _read(config: FuseConfig) -> Checked:
    required = config.reward.type == "verifier"
    heldout = load_prompts(config.evaluation.prompts, required) if config.evaluation else None
    return Checked(load_prompts(config.prompts, required), heldout)


class Pipeline:
    """Builds the steps of one run; nothing runs before `run`."""

    def __init__(
        self,
        config: FuseConfig,
        engines: Engines | None = None,
        broken_sources: Mapping[str, str] | None = None,
        checked: Checked | None = None,
    ) -> None:
        """Plan the run.

        broken_sources: why the run goes on without them, by name; `config` has them no more. checked: the prompts, when
        they have been read already. Raises DataError when they cannot be used, ConfigError when a run to be reused is
        not there.
        """
        require_runs(config.run)
        self.config = config = resolved(config)
        self.broken_sources = dict(broken_sources or {})
        self.checked = checked or _read(config)
        self.engines = engines or Engines()
        self.layout = layout_of(config.run.root, config.run.name)
        self.source_names = [source.name for source in config.sources]
        self.steps: list[Step] = []
        self._build()

    def _build(self) -> None:
        config = self.config
        prompts = self._prompts("prompts", self.checked.prompts)
        scores = self._source_scores(prompts)
        skip_sft = config.ablation.skip_sft
        sft = self._add(untrained_target(config.target)) if skip_sft else self._sft(self._select_sft(prompts, scores))
        from_sampler = config.wrpo.reference_from_sampler
        target = self._trained(TARGET_SFT, sft)
        target_scores = self._scored(target, prompts, ("preference",), trained_by=sft, with_logps=from_sampler)
        quadruples = self._fuse(prompts, scores, target_scores)
        drawn = self.step(f"sample-{TARGET_SFT}") if from_sampler else None
        reference = self._reference(quadruples, sft, drawn)
        wrpo = self._wrpo(quadruples, reference, sft, drawn)
        if config.evaluation is not None and self.checked.evaluation_prompts is not None:
            self._evaluate(config.evaluation, self.checked.evaluation_prompts, sft, wrpo)
        self._export(quadruples, wrpo)

    def _add(self, step: Step) -> Step:
        """Append a step, after its inputs; where it lies is decided here, once for this start of the run."""
        self.steps.append(step)
        runs = self.config.run.reuse
        if runs and (run := run_to_reuse(step, self.layout, runs)) is not None:
            self.layout = self.layout.reusing(step.name, step.fingerprint, run)
        return step

    def _folder(self, step: Step) -> Location:
        return step.folder(self.layout)

    def _prompts(self, name: str, loaded: PromptSet) -> Step:
        return self._add(Step(name, {"content": loaded.prompts.content}, (), loaded.write))

    def _source_scores(self, prompts: Step) -> tuple[Step, ...]:
        config = self.config
        if config.sampling.allocation is None:
            return tuple(self._scored(source, prompts, BOTH_SPLITS) for source in config.sources)
        ids, kept = self.checked.prompts.prompts.ids(), self._selection_identity()
        builder = Builder(config, ids, self._add, self._folder, self._drawn_and_scored, kept)
        return allocated_scores(builder, config.sampling.allocation, prompts)

    def _drawn_and_scored(self, prefix: str, source: SourceConfig, prompts: Step, draws: Draws) -> tuple[Step, Step]:
        name = f"{prefix}sample-{source.name}"
        drawn = self._sample(name, source, prompts, BOTH_SPLITS, None, source.name, draws=draws)
        return drawn, self._score(f"{prefix}score-{source.name}", prompts, (drawn,))

    def _scored(
        self, model: SourceConfig, prompts: Step, splits: tuple[Split, ...], trained_by: Step | None = None,
        with_logps: bool = False,
    ) -> Step:  # fmt: skip
        """Add the steps that draw a model's responses and score them, and return the latter."""
        source = None if trained_by else model.name
        drawn = self._sample(f"sample-{model.name}", model, prompts, splits, trained_by, source, with_logps)
        return self._score(f"score-{model.name}", prompts, (drawn,))

    def _sample(
        self, name: str, model: SourceConfig, prompts: Step, splits: tuple[Split, ...], trained_by: Step | None,
        source: str | None = None, with_logps: bool = False, draws: Draws | None = None,
    ) -> Step:  # fmt: skip
        """Add the step that draws a model's responses (`draws`: some); `trained_by` made the model, if a step did."""
        identity = {
            "model": {"step": trained_by.fingerprint} if trained_by else model_identity(model),
            "sampling": model.sampling.model_dump(mode="json"),
            "splits": list(splits),
            "seed": self.config.run.seed,
        }
        if isinstance(model, ModelConfig):
            engine = model.engine.model_dump(mode="json", exclude=_ENGINE_EXECUTION_FIELDS)
            identity |= {"engine": engine, "versions": installed(ENGINE)}
        # Responses without log-probs cannot serve where they are asked for; the seeds, and so the texts, are the same.
        identity |= ({"logps": True} if with_logps else {}) | dict(draws.identity if draws else {})
        seed_identity = digest([identity["model"], identity["sampling"] | {"num_samples": None}])

        def run(folder: Location) -> StepResult:
            config = self.config
            if trained_by:
                verify_files(self._folder(trained_by), "model")
            job = SamplingJob(
                model, self._folder(prompts), splits, config.run.seed, seed_identity, config.faults, config.rows,
                self.engines.make_generator, with_logps,
            )  # fmt: skip
            return sample_requested(job, draws.requests(), folder) if draws else sample(job, folder)

        inputs = (prompts, *((trained_by,) if trained_by else ()), *(draws.inputs if draws else ()))
        return self._add(Step(name, identity, inputs, run, source=source, claim=engine_claim(model.resources)))

    def _score(self, name: str, prompts: Step, drawn: Sequence[Step]) -> Step:
        reward = self.config.reward
        identity: dict[str, Any] = {"reward": reward.model_dump(mode="json", exclude=_REWARD_EXECUTION_FIELDS)}
        if isinstance(reward, VllmRewardConfig):
            identity["engine"] = reward.engine.model_dump(mode="json", exclude=_ENGINE_EXECUTION_FIELDS)
        if isinstance(reward, ModelFiles):
            identity |= {"model": model_identity(reward), "versions": installed((*ENGINE, "transformers"))}

        def run(folder: Location) -> StepResult:
            responses = [self._folder(step) for step in drawn]
            config = self.config
            return score(
                reward, self._folder(prompts), responses, folder, config.faults, config.rows, self.engines.make_scorer
            )

        return self._add(Step(name, identity, (prompts, *drawn), run, claim=scoring_claim(reward)))

    def _select_sft(self, prompts: Step, scores: tuple[Step, ...]) -> Step:
        def run(folder: Location) -> StepResult:
            of_sources = [self._folder(step) for step in scores]
            config, given = self.config, self._folder(prompts)
            return select_sft(given, of_sources, self.source_names, config.rows, folder, config.faults, choice)

        choice = SourceChoice(self.config.ablation.sft_source_rank)
        identity = self._selection_identity() | choice_identity(choice)
        return self._add(Step("select_sft", identity, (prompts, *scores), run, _SCRATCH, claim=PARTS))

    def _selection_identity(self) -> dict[str, Any]:
        # Dropped or quarantined, a row is left out; which of both decides about the budget alone.
        kept = sorted(code for code in RESPONSE_CODES if policy(code, self.config.rows) == "keep")
        # Of younger codes only what leaves rows out: runs that began before have the fingerprints that they had.
        left_out = [code for code in (CONTROL_TOKENS,) if policy(code, self.config.rows) != "keep"]
        return {"source_order": self.source_names, "kept": kept, **({"left_out": left_out} if left_out else {})}

    def _training_identity(self, train: TrainConfig) -> dict[str, Any]:
        # Where the reference comes from shows in the steps that training starts from.
        fields = train.model_dump(mode="json", exclude=EXECUTION_FIELDS | REFERENCE_FIELDS)
        libraries = (*TRAINING, "peft") if train.lora else TRAINING
        return {"train": fields, "seed": self.config.run.seed, "versions": installed(libraries)}

    def _sft(self, examples: Step) -> Step:
        identity = self._training_identity(self.config.sft) | {"target": model_identity(self.config.target)}

        def run(folder: Location) -> StepResult:
            return self.engines.run_sft(self.config, self.config.target.path, self._folder(examples), folder)

        return self._add(Step("sft", identity, (examples,), run, _SCRATCH, claim=training_claim(self.config.sft)))

    def _trained(self, name: str, step: Step) -> ModelConfig:
        """Return the target's section for a model that a training step of this run wrote."""
        path = str(self._folder(step) / "model")
        return self.config.target.model_copy(
            update={"name": name, "path": path, "revision": None, "chat_template": None}
        )

    def _fuse(self, prompts: Step, scores: tuple[Step, ...], target_scores: Step) -> Step:
        def run(folder: Location) -> StepResult:
            of_sources, of_target = [self._folder(step) for step in scores], self._folder(target_scores)
            config, given = self.config, self._folder(prompts)
            return fuse(given, of_sources, of_target, self.source_names, config.rows, folder, config.faults, choice)

        choice = SourceChoice(self.config.ablation.source_rank, self.config.ablation.source_rejected)
        identity, inputs = self._selection_identity() | choice_identity(choice), (prompts, *scores, target_scores)
        return self._add(Step("fuse", identity, inputs, run, _SCRATCH, claim=PARTS))

    def _reference(self, quadruples: Step, sft: Step, drawn: Step | None) -> Step:
        """Add the step of the reference's log-probs; `drawn` gave those of y_wt and y_l, if it is to."""
        wrpo = self.config.wrpo
        identity = {
            "max_length": wrpo.max_length,
            "max_prompt_length": wrpo.max_prompt_length,
            "precision": wrpo.precision,
            "attention": wrpo.attention,
            "versions": installed(TRAINING),
            **({"deepspeed": wrpo.deepspeed} if wrpo.deepspeed else {}),
        }

        def run(folder: Location) -> StepResult:
            from wrpo_ray.train.launch import run_reference

            verify_files(self._folder(sft), "model")
            model = str(self._folder(sft) / "model")
            responses = self._folder(drawn) if drawn else None
            return run_reference(self.config, model, self._folder(quadruples), folder, responses)

        inputs = (quadruples, sft, drawn) if drawn else (quadruples, sft)
        return self._add(Step("reference", identity, inputs, run, _SCRATCH, claim=training_claim(wrpo)))

    def _wrpo(self, quadruples: Step, reference: Step, sft: Step, drawn: Step | None) -> Step:
        def run(folder: Location) -> StepResult:
            from wrpo_ray.train.launch import run_wrpo

            verify_files(self._folder(sft), "model")
            model = str(self._folder(sft) / "model")
            responses = self._folder(drawn) if drawn else None
            return run_wrpo(self.config, model, self._folder(quadruples), self._folder(reference), folder, responses)

        identity = self._training_identity(self.config.wrpo)
        inputs = (quadruples, reference, sft, drawn) if drawn else (quadruples, reference, sft)
        return self._add(Step("wrpo", identity, inputs, run, _SCRATCH, claim=training_claim(self.config.wrpo)))

    def _evaluate(self, evaluation: EvaluationConfig, heldout: PromptSet, sft: Step, wrpo: Step) -> None:
        def drawn(name: str, model: SourceConfig, prompts: Step, trained_by: Step | None) -> Step:
            return self._sample(name, model, prompts, BOTH_SPLITS, trained_by)

        trained = [(self._trained(name, step), step) for name, step in ((TARGET_SFT, sft), (FUSED, wrpo))]
        models, make = ((self.config.target, None), *trained), self.engines.make_generator
        builder = EvaluationBuilder(self.config, models, self._add, self._folder, drawn, self._score, make)
        evaluation_steps(builder, evaluation, self._prompts("evaluation-prompts", heldout))

    def _export(self, quadruples: Step, wrpo: Step) -> None:
        config = self.config
        # The card tells of all steps before it, so they are inputs, though only two give files.
        inputs = tuple(self.steps)
        broken = self.broken_sources
        identity = {"license": config.export.license, "run": config.run.name, "broken_sources": sorted(broken)}

        def run(folder: Location) -> StepResult:
            summaries = {step.name: self._summary(step) for step in inputs}
            verify_files(self._folder(wrpo), "model")
            card = model_card(config, summaries, list(broken))
            model_files = export_model(config, self._folder(wrpo) / "model", card, folder)
            files, counts = export_datasets(config, self._folder(quadruples), folder)
            places = {"model": str(folder / "model"), "datasets": str(folder / "datasets")}
            summary = {**counts, **places, "broken_sources": broken}
            return StepResult((*model_files, *files), summary)

        self._add(Step("export", identity, inputs, run))

    def _summary(self, step: Step) -> Mapping[str, Any]:
        manifest = read_manifest(self._folder(step))
        return manifest.summary if manifest else {}

    def step(self, name: str) -> Step:
        """Return the step called `name`; raises ConfigError that lists the names when there is none."""
        for step in self.steps:
            if step.name == name:
                return step
        names = [step.name for step in self.steps]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{close[0]}`? " if close else ""
        raise ConfigError(f"no step is called `{name}`; {hint}the steps are: {', '.join(names)}")

    def plan(self) -> str:
        """Return a table of all steps: what is there already and what would run."""
        lines = [f"run {self.layout.folder}"]
        for number, step in enumerate(self.steps, start=1):
            state = "complete" if complete(step, self.layout) else "to run"
            if (run := step.reused_from(self.layout)) is not None:
                state += f" (in run {run})"
            lines.append(f"{number:3}. {step.name:<32} {step.fingerprint}  {state}")
        return "\n".join(lines)

    def without(self, sources: Mapping[str, str]) -> Pipeline:
        """Return the pipeline of the same run without the broken sources, given with the reason of each."""
        if not sources:
            return self
        return type(self)(without(self.config, set(sources)), self.engines, sources, self.checked)

    def selected(self, only: str | None) -> list[Step]:
        """Return all steps, or those that `only` names; raises ConfigError when their inputs are not complete."""
        if only is None:
            return self.steps
        steps = self.steps_called(only)
        all_of = "jobs/fuse.py with this config" if only == EVALUATION else "without --only"
        for step in steps:
            missing = [each.name for each in step.inputs if each not in steps and not complete(each, self.layout)]
            if missing:
                raise ConfigError(
                    f"step `{step.name}` needs {', '.join(missing)} first",
                    code="WRPO-C031",
                    help=f"run those, or run {all_of}",
                )
        return steps

    def steps_called(self, name: str) -> list[Step]:
        """Return the step called `name`, or all of the evaluation's for "evaluation"; raises ConfigError for none."""
        if name != EVALUATION:
            return [self.step(name)]
        if self.config.evaluation is None:
            help = "add evaluation.prompts: held-out prompts, none of which the run was trained on"
            raise ConfigError("the config has no section `evaluation`", code="WRPO-C047", help=help)
        return [step for step in self.steps if is_meant(step.name, name)]
