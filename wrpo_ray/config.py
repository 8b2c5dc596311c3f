"""What a run is made of: frozen types, every field with its bounds.

Authored as YAML, checked here without torch or ray, so that a bad config answers at once. `config_file.py` reads
files and overrides; this file only says what a valid config is. A docstring under a field is its help text.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]


class Frozen(BaseModel):
    """Base of every section: immutable, unknown keys refused, inf and nan refused, secrets not echoed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


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
    sft_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 1 / 3
    """Share of prompts for SFT, by a hash of prompt_id; the rest is for preference optimisation (paper: 1/3)."""


class EngineConfig(Frozen):
    """vLLM engine arguments of one model, under vLLM's names."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    max_model_len: PositiveInt = 4096
    """Tokens of prompt and response together."""
    max_num_seqs: PositiveInt = 256
    """Sequences decoded side by side; set on purpose, vLLM's own default depends on how it is started."""
    max_num_batched_tokens: PositiveInt = 8192
    """Tokens of one engine step."""
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    enforce_eager: bool = False
    quantization: str | None = None
    extra_args: dict[str, JsonValue] = {}
    """Further vLLM engine arguments by name, passed on as they are."""


class SamplingConfig(Frozen):
    """How responses are drawn, under vLLM's names."""

    num_samples: PositiveInt = 5
    """K: responses per prompt."""
    temperature: NonNegativeFloat = 0.8
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 0
    """0 keeps all tokens."""
    repetition_penalty: PositiveFloat = 1.0
    max_tokens: PositiveInt = 2048
    stop: tuple[str, ...] = ()


class ResourcesConfig(Frozen):
    """What one replica of a model takes from the Ray cluster."""

    num_replicas: PositiveInt = 1
    num_cpus: PositiveFloat = 1.0
    num_gpus: NonNegativeFloat = 0.0
    """GPUs of one replica: tensor_parallel_size * pipeline_parallel_size, or a fraction of one, or 0 on CPU."""
    accelerator_type: str | None = None
    prompts_per_shard: PositiveInt = 256
    """Prompts that a replica takes at a time and commits as one file."""
    env_vars: dict[str, str] = {}
    """Environment of the replica's process. Never put a secret here: it is stored with the run."""


class ModelFiles(Frozen):
    """Which files a model is."""

    path: str
    """Local folder in Hugging Face format, or `organisation/name` on the Hugging Face hub."""
    revision: str | None = None
    """Commit hash on the hub; required with trust_remote_code."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
    chat_template: str | None = None
    """Path of a Jinja chat template that replaces the tokenizer's own."""


class ModelConfig(ModelFiles):
    """One language model: a source, or the target."""

    name: Slug
    """How the model is called in files, tables and metrics."""
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    resources: ResourcesConfig = ResourcesConfig()


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
    resources: ResourcesConfig = ResourcesConfig()


class VerifierRewardConfig(Frozen):
    """A rule that compares a response with the prompt's reference answer."""

    type: Literal["verifier"]
    mode: Literal["exact", "numeric"] = "exact"
    """exact: equal after case, punctuation and space are folded; numeric: the last number, within 1e-6."""
    correct_reward: float = 1.0
    contained_reward: float = 0.0
    """Reward of a response that holds the answer as whole words among others (mode exact)."""
    wrong_reward: float = 0.0


RewardConfig = Annotated[
    VllmRewardConfig | TransformersRewardConfig | VerifierRewardConfig, Field(discriminator="type")
]


class ZeroPlusPlusConfig(Frozen):
    """ZeRO++: less traffic between nodes under ZeRO 3; all off by default."""

    hpz_partition_size: PositiveInt = 1
    """Neighbouring workers (those of one node) that hold one more copy of the parameters among them; 1: no such copy.

    The backward pass gathers parameters from it, within the node; exact."""
    quantized_weights: bool = False
    """Gather parameters in 8 bits; needs GPUs and changes the result."""
    quantized_gradients: bool = False
    """Exchange gradients in 4 bits within and between nodes; needs GPUs and changes the result."""


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

    Architectures that are not known to be exact take padded batches, and the step's summary says so."""
    shared_attention: Literal["auto", "decomposed", "varlen", "flex"] = "auto"
    """Attention with share_prompts: varlen (flash) for 16 bits on a GPU, else decomposed; flex is FlexAttention."""
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
    zero_plus_plus: ZeroPlusPlusConfig = ZeroPlusPlusConfig()
    compile: bool = False
    """Compile the model with torch.compile (inductor): slower first steps, and a C++ compiler where no GPU is."""
    activation_checkpointing: bool = False
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention of padded batches, under transformers' names."""
    checkpoint_every_steps: Annotated[int, Field(ge=0)] = 50
    """Optimizer steps that a crash may cost; 0 saves the final model only."""
    keep_checkpoints: PositiveInt = 2
    """The newest so many checkpoints stay while training runs; all go once its result is stored."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker failures after which training gives up instead of restarting from its last checkpoint."""
    log_every_steps: PositiveInt = 1
    num_workers: PositiveInt = 1
    num_cpus_per_worker: PositiveFloat = 1.0
    num_gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    deepspeed: dict[str, JsonValue] = {}
    """Further DeepSpeed settings, merged over the ones derived from this section."""


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
    """reference_from_sampler: difference in nats per token, over the compared responses, above which the run stops."""


class EvaluationConfig(Frozen):
    """Expected reward of target, Target-SFT and fused model on held-out prompts."""

    prompts: PromptsConfig
    sampling: SamplingConfig = SamplingConfig()
    num_bootstrap: PositiveInt = 2000
    """Resamples of the prompts behind the 95 % confidence intervals."""


class FaultsConfig(Frozen):
    """How often and how long is tried before something counts as broken."""

    engine_start_attempts: PositiveInt = 3
    """Starts of an engine in a row that may fail before its model counts as unusable."""
    engine_start_timeout_s: PositiveFloat = 1800.0
    """Loading and compiling of a model may take this long."""
    stall_timeout_s: PositiveFloat = 180.0
    """An engine that works but finishes no step for this long is taken for hung and replaced."""
    no_progress_timeout_s: PositiveFloat = 86_400.0
    """Ray Data stops a step in which no shard ends for this long; nodes that are slow to come count too.

    It must be well above the time of one shard (resources.prompts_per_shard): hangs are found by stall_timeout_s."""
    max_replica_restarts: PositiveInt = 100
    """Restarts of one replica's actor (lost nodes, kills); without a bound a broken node would be tried for ever."""


class RowsConfig(Frozen):
    """What becomes of a row that cannot be used as it is, by its code.

    keep: used like any other. drop: left out, counted and listed. quarantine: the same, and counts against the budget.
    Rows that crash or hang an engine are always set aside; target responses of equal reward never make a pair.
    """

    prompt_too_long: Literal["drop", "quarantine"] = "drop"
    """A prompt that leaves no room for max_tokens in a model's context."""
    prompt_template_refused: Literal["drop", "quarantine"] = "drop"
    """A prompt that a model's chat template raises an error for."""
    answer_too_long: Literal["drop", "quarantine"] = "drop"
    """A prompt with its response that the reward model cannot hold."""
    reward_not_finite: Literal["drop", "quarantine"] = "quarantine"
    response_empty: Literal["keep", "drop", "quarantine"] = "drop"
    """A response without text, or of white space alone."""
    response_special_tokens_only: Literal["keep", "drop", "quarantine"] = "drop"
    response_cut: Literal["keep", "drop", "quarantine"] = "keep"
    """A response that was cut at max_tokens."""
    responses_identical: Literal["keep", "drop", "quarantine"] = "keep"
    """All responses of all sources to one prompt are the same text."""
    max_fraction: Fraction = 0.05
    """The budget: share of a step's rows that may be set aside before the run stops with exit code 4."""
    max_rows: Annotated[int, Field(ge=0)] | None = None
    """The same as a number of rows; the smaller of the two holds."""
    max_reward_not_finite_fraction: Fraction = 0.5
    """Share of a step's rewards that may be not finite before the reward model counts as broken (exit code 8)."""


class TrackingConfig(Frozen):
    """Where training metrics go besides metrics.jsonl."""

    tensorboard: bool = False
    wandb_project: str | None = None
    mlflow_tracking_uri: str | None = None


class RayConfig(Frozen):
    """Which Ray cluster runs the job."""

    address: str | None = None
    """`local` starts one; none uses RAY_ADDRESS (set inside `ray job submit`) and starts a local one without it."""
    num_cpus: PositiveInt | None = None
    """Logical CPUs of a local cluster; none counts the machine's cores."""
    log_to_driver: bool = False
    """Repeat what the workers print; Ray's session folder keeps it in any case."""


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
    sources: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
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
