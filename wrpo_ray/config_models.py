"""Language models of a run, sources and target: which they are, how they are run, how they are sampled from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from wrpo_ray.config_base import Frozen, NonNegativeFloat, PositiveFloat, PositiveInt, Slug
from wrpo_ray.config_endpoint import EndpointConfig, source_type


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
    """Further vLLM engine arguments by name, passed on as they are; what runs code, loads other models or opens
    connections is refused (docs/models.md)."""


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
    num_nodes: PositiveInt = 1
    """Nodes that one replica's GPUs lie on, equally many on each; more than 1 for an engine larger than a node."""
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
    """Commit hash on the hub, or a branch or tag; a commit hash is required with trust_remote_code."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read that code."""
    code_sha256: dict[str, str] = {}
    """SHA-256 of each Python file of the model, by its path in the model's folder; required with trust_remote_code."""
    chat_template: str | None = None
    """Path of a Jinja chat template that replaces the tokenizer's own."""


class ModelConfig(ModelFiles):
    """One language model: a source, or the target."""

    name: Slug
    """How the model is called in files, tables and metrics."""
    type: Literal["vllm"] = "vllm"
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    resources: ResourcesConfig = ResourcesConfig()


class OpenAISourceConfig(EndpointConfig):
    """A source behind an OpenAI-compatible endpoint; one process asks it, so that its limits hold for the source."""

    sampling: SamplingConfig = SamplingConfig()
    """top_k and repetition_penalty are no fields of OpenAI's: they are sent where they are set."""

    @property
    def resources(self) -> ResourcesConfig:
        """What the process that sends the requests takes."""
        return ResourcesConfig(num_cpus=self.num_cpus, prompts_per_shard=self.prompts_per_shard)


SourceConfig = ModelConfig | OpenAISourceConfig
AnySource = Annotated[
    Annotated[ModelConfig, Tag("vllm")] | Annotated[OpenAISourceConfig, Tag("openai")], Discriminator(source_type)
]
