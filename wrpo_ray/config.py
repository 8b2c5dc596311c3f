"""What a run is made of: frozen types, every field with its bounds.

Authored as YAML, checked here without torch or ray, so that a bad config answers at once. `config_file.py` reads
files and overrides; this file only says what a valid config is. A docstring under a field is its help text.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from wrpo_ray.config_ablation import AblationConfig
from wrpo_ray.config_allocation import RunSamplingConfig
from wrpo_ray.config_base import Fraction, Frozen, NonNegativeFloat, PositiveFloat, PositiveInt, Slug
from wrpo_ray.config_benchmarks import BenchmarksConfig, LmEvalConfig, SafetyConfig
from wrpo_ray.config_cluster import ClusterConfig
from wrpo_ray.config_evaluation import JudgeConfig
from wrpo_ray.config_faults import FaultsConfig, RowsConfig
from wrpo_ray.config_fetch import ModelStoreConfig
from wrpo_ray.config_models import AnySource, EngineConfig, ModelConfig, ModelFiles, ResourcesConfig, SamplingConfig
from wrpo_ray.config_models import OpenAISourceConfig as OpenAISourceConfig
from wrpo_ray.config_models import SourceConfig as SourceConfig
from wrpo_ray.config_planning import PlanningConfig, PricesConfig
from wrpo_ray.config_ray import RayConfig


class RunConfig(Frozen):
    """Where a run lives and what seeds it."""

    name: Slug
    """Folder name of the run below `root`."""
    root: str = "runs"
    """Folder of all runs: a path that every node sees, or s3://bucket/prefix, or gs://bucket/prefix."""
    lease_timeout_s: NonNegativeFloat = 60.0
    """A driver without a sign of life for this long has lost the run to the next one; 0 runs without a lease."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seeds sampling, order of training rows and initial states, each through a hash with its own name."""
    progress_interval_s: PositiveFloat = 30.0
    """Seconds between two lines about the whole run in a job's log; a terminal shows it all the time."""
    reuse: tuple[Slug, ...] = ()
    """Names of other runs below `root`: their finished steps of the same fingerprint are read there, not made again."""


class PromptsConfig(Frozen):
    """Prompts and how they are split."""

    path: str
    """A .parquet or .jsonl file, a folder of them, or a Hugging Face dataset folder (`save_to_disk`)."""
    column: str = "prompt"
    """Column with the prompt: strings, or lists of {role, content} (system and multi-turn included)."""
    answer_column: str | None = None
    """Column with the reference answer, for the rule-based verifier; rows without one hold null."""
    control_tokens: Literal["neutralise", "drop", "refuse"] = "neutralise"
    """What becomes of prompts whose text holds what looks like a control token of a chat model, such as `<|im_end|>`.

    neutralise: models read it as plain text; an endpoint is sent it as it is. drop: such prompts are left out and
    counted. refuse: the run does not start, and names them."""
    sft_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 1 / 3
    """Share of prompts for SFT, by a hash of prompt_id; the rest is for preference optimisation (paper: 1/3)."""


class VllmRewardConfig(ModelFiles):
    """A sequence classifier with one label, served by vLLM; scores are raw logits, never squashed."""

    type: Literal["vllm"]
    engine: EngineConfig = EngineConfig()
    resources: ResourcesConfig = ResourcesConfig()


class TransformersRewardConfig(ModelFiles):
    """A reward model that vLLM does not have (ArmoRM's gated head, say), run by transformers."""

    type: Literal["transformers"]
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    score_field: Literal["logits", "score"] = "logits"
    """Field of the model's output that holds the reward: `logits` of one label, or `score` (ArmoRM)."""
    max_model_len: PositiveInt = 4096
    max_batch_tokens: PositiveInt = 16384
    """Tokens of one forward pass, padding included."""
    share_prompts: bool = True
    """Put a prompt through the network once for all responses to it; exact.

    Architectures that are not known to be exact take padded batches, and the log says so."""
    resources: ResourcesConfig = ResourcesConfig()


# Sums over many responses stay far from what a float can hold.
Reward = Annotated[float, Field(ge=-1e9, le=1e9)]


class VerifierRewardConfig(Frozen):
    """A rule that compares a response with the prompt's reference answer."""

    type: Literal["verifier"]
    mode: Literal["exact", "numeric", "f1"] = "exact"
    """exact: equal after case, punctuation and space are folded; numeric: the last number, within 1e-6; f1: between
    wrong_reward and correct_reward by the share of words in common, as SQuAD's F1."""
    correct_reward: Reward = 1.0
    contained_reward: Reward = 0.0
    """Reward of a response that holds the answer as whole words among others (mode exact)."""
    wrong_reward: Reward = 0.0


RewardConfig = Annotated[
    VllmRewardConfig | TransformersRewardConfig | VerifierRewardConfig, Field(discriminator="type")
]


class LoraConfig(Frozen):
    """Low-rank adapters (peft): the model is frozen, two small matrices beside each linear layer are trained."""

    rank: PositiveInt = 16
    """Columns of the one matrix and rows of the other."""
    alpha: PositiveInt = 32
    """An adapter's output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of an adapter's inputs that is dropped in training."""
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """Ends of names of linear layers, such as [q_proj, v_proj]; all-linear takes all but the language model head."""


class TrainConfig(Frozen):
    """What SFT and WRPO training share."""

    learning_rate: PositiveFloat
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share of all optimizer steps over which the learning rate rises from 0."""
    num_epochs: PositiveInt = 1
    global_batch_size: PositiveInt = 128
    """Rows of one optimizer step, over all workers and accumulation steps."""
    micro_batch_tokens: PositiveInt = 8192
    """Tokens of one forward pass on one worker: as many rows as fit, and never less than one."""
    share_prompts: bool = True
    """Put a prompt through the network once for all of its responses, without padding; exact.

    Llama, Qwen2, Qwen3, Gemma 3 (text checkpoints), Mistral and GPT-NeoX are known to be exact; all others take padded
    batches, and the step's summary says so."""
    shared_attention: Literal["auto", "decomposed", "varlen", "flex"] = "auto"
    """Attention with share_prompts: varlen (flash) for 16 bits on a GPU, else decomposed; flex is FlexAttention."""
    head_kernel: Literal["chunked", "cut_cross_entropy"] = "chunked"
    """Log-probs with share_prompts: our own chunks in torch, or the fused kernel of cut-cross-entropy (GPU, bf16).

    The latter adds gradients up in bf16 where ours takes float32."""
    max_length: PositiveInt = 2048
    """Tokens of prompt and response; a longer response is cut (and counted), each on its own."""
    max_prompt_length: PositiveInt = 1800
    """Tokens of the prompt; rows with a longer one are left out and counted."""
    weight_decay: NonNegativeFloat = 0.0
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    adam_epsilon: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0
    precision: Literal["bf16", "fp32"] = "bf16"
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """Sharded over the workers: 1 the optimizer's state, 2 gradients too, 3 parameters too; the result is the same."""
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    """What lies in the nodes' memory instead of the GPUs' (optimizer: fp32 weights and both moments); exact."""
    zero_hpz_partition_size: PositiveInt = 1
    """ZeRO++: so many neighbours (the workers of a node) hold one more copy of all parameters; exact; 1: no copy.

    The backward pass gathers parameters from it, within the node."""
    zero_quantized_weights: bool = False
    """ZeRO++: gather parameters in 8 bits; changes the result."""
    zero_quantized_gradients: bool = False
    """ZeRO++: exchange gradients in 4 bits; changes the result."""
    compile: bool = False
    """Compile the model with torch.compile (inductor): slower first steps, and a C++ compiler where no GPU is."""
    activation_checkpointing: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention of padded batches, under transformers' names."""
    lora: LoraConfig | None = None
    """Train adapters instead of all parameters; the trained model is merged, the adapter lies beside it."""
    checkpoint_every_steps: Annotated[int, Field(ge=0)] = 50
    """Optimizer steps that a crash may cost; 0 saves the final model only."""
    checkpoint_in_background: bool = True
    """Store a checkpoint while the next steps run; a crash may then cost those steps as well.

    Takes memory of the nodes for one copy of what is stored: 14 bytes per trained parameter, over all workers, in bf16.
    A notice of preemption still waits until all is stored."""
    keep_checkpoints: PositiveInt = 2
    """The newest so many checkpoints stay while training runs; all go once its result is stored."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker failures after which training gives up instead of restarting from its last checkpoint."""
    log_every_steps: PositiveInt = 1
    num_workers: PositiveInt = 1
    num_cpus_per_worker: PositiveFloat = 1.0
    num_gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    accelerator_type: str | None = None
    """Type of the workers' GPUs as Ray names it (`H100`); without one they lie on GPUs of any type in the cluster."""
    deepspeed: dict[str, JsonValue] = {}
    """Further DeepSpeed settings, merged over the ones derived from this section."""


# How a training run is spread over machines, saved and logged changes its result by rounding at most.
EXECUTION_FIELDS = {
    "num_workers", "num_cpus_per_worker", "num_gpus_per_worker", "accelerator_type", "micro_batch_tokens", "zero_stage",
    "max_failures",
    "activation_checkpointing", "checkpoint_every_steps", "checkpoint_in_background", "keep_checkpoints",
    "log_every_steps", "share_prompts", "shared_attention", "offload", "zero_hpz_partition_size",
    "compile",
}  # fmt: skip
# What the reference's log-probs are taken from, and how closely that is looked at.
REFERENCE_FIELDS = {"reference_from_sampler", "reference_check_tolerance"}


class SFTConfig(TrainConfig):
    """Supervised fine-tuning of the target on the best source responses."""


class AlphaConfig(Frozen):
    """The weight of the source response over the run: alpha(t) for optimizer steps t = 0 .. T-1."""

    schedule: Literal["linear", "constant", "cosine", "exponential", "step"] = "linear"
    end: Fraction = 0.1
    """Value that alpha moves to (paper: 0.1 for WRPO, 0.5 for WRPO_SimPO); `constant` holds it from the start."""
    rate: PositiveFloat = 5.0
    """exponential: end * (exp(rate * t / T) - 1) / (exp(rate) - 1)."""
    num_stages: Annotated[int, Field(ge=2)] = 4
    """step: number of equal stretches; the first one has alpha 0."""


class WRPOConfig(TrainConfig):
    """Preference optimisation on quadruples."""

    objective: Literal["wrpo", "wrpo_simpo", "wrpo_ipo", "dpo", "ipo", "simpo"] = "wrpo"
    beta: PositiveFloat = 0.01
    gamma: NonNegativeFloat = 0.0
    """Margin of the SimPO forms."""
    tau: PositiveFloat = 0.01
    """Regularisation of the IPO forms."""
    length_normalized: bool = False
    """Divide each log-prob by its number of response tokens (the SimPO forms always do)."""
    alpha: AlphaConfig = AlphaConfig()
    reference_from_sampler: bool = False
    """Take the reference's log-probs of y_wt and y_l from the engine that drew them, and train on its very tokens.

    Target-SFT draws them and is the reference, so y_ws alone is left to compute, and 32 whole rows to compare."""
    reference_check_tolerance: PositiveFloat = 0.02
    """reference_from_sampler: difference in nats per token, over the compared responses, above which it stops."""


class EvaluationConfig(Frozen):
    """Target, Target-SFT, fused model and, on demand, sources compared on held-out prompts."""

    prompts: PromptsConfig
    sampling: SamplingConfig = SamplingConfig()
    """Of all models that are compared, sources too."""
    num_bootstrap: PositiveInt = 2000
    """Resamples of the prompts behind the 95 % confidence intervals."""
    sources: Literal["all"] | tuple[Slug, ...] = ()
    """Names of sources that answer the held-out prompts too, or all."""
    pairs: tuple[tuple[str, str], ...] | None = None
    """Pairs of [model, baseline] to compare; none: fused and target-sft, fused and target, target-sft and target, and
    fused and each source that is evaluated."""
    verifier: VerifierRewardConfig | None = None
    """Rule that also compares, by prompts.answer_column; none with that column takes `mode: exact`."""
    judge: JudgeConfig | None = None
    """A language model that is asked which of two answers is better; none asks nobody."""
    benchmarks: BenchmarksConfig | None = None
    safety: SafetyConfig | None = None
    lm_eval: LmEvalConfig | None = None


class TrackingConfig(Frozen):
    """Where training metrics go besides metrics.jsonl."""

    tensorboard: bool = False
    wandb_project: str | None = None
    mlflow_tracking_uri: str | None = None


class ExportConfig(Frozen):
    """The fused model as a Hugging Face folder."""

    path: str | None = None
    """Folder to copy it to; none leaves it in the run."""
    license: str | None = None
    """Licence named in the model card; the sources' and the target's terms decide which one is right."""


class FuseConfig(Frozen):
    """One run, whole."""

    run: RunConfig
    prompts: PromptsConfig
    sources: Annotated[tuple[AnySource, ...], Field(min_length=1)]
    target: ModelConfig
    reward: RewardConfig
    sft: SFTConfig
    wrpo: WRPOConfig
    min_sources: PositiveInt | None = None
    """The run goes on without a source that cannot be used while so many are left; none needs all of them."""
    evaluation: EvaluationConfig | None = None
    rows: RowsConfig = RowsConfig()
    faults: FaultsConfig = FaultsConfig()
    tracking: TrackingConfig = TrackingConfig()
    ray: RayConfig = RayConfig()
    export: ExportConfig = ExportConfig()
    prices: PricesConfig = PricesConfig()
    planning: PlanningConfig = PlanningConfig()
    sampling: RunSamplingConfig = RunSamplingConfig()
    ablation: AblationConfig = AblationConfig()
    models: ModelStoreConfig = ModelStoreConfig()
    cluster: ClusterConfig | None = None
    """Read by `wrpo-ray cluster render` alone."""
