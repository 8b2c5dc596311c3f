"""The cluster that a run is brought to; `wrpo-ray cluster render` alone reads it, and no result depends on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wrpo_ray.config_base import Frozen, NonNegativeInt, PositiveInt

KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
AbsolutePath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$")]
Image = Annotated[
    str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._:/-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})$")
]
# What Kubernetes and KubeRay hold in 32 bits.
Int32 = Annotated[int, Field(ge=0, le=2**31 - 1)]
PositiveInt32 = Annotated[int, Field(ge=1, le=2**31 - 1)]
Port = Annotated[int, Field(ge=1, le=65535)]


class TolerationConfig(Frozen):
    """A taint that pods accept, under Kubernetes' names."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class PlacementConfig(Frozen):
    """What one node offers, and which nodes are taken for it."""

    instance_type: str | None = None
    """Machine type of the cloud; none takes the usual one of `cluster.cloud` for this accelerator."""
    cpus: PositiveInt | None = None
    """CPUs of one pod; none takes nine tenths of the machine's, the rest is the system's. Anyscale gives all."""
    memory_gb: PositiveInt | None = None
    """GiB of one pod; none takes nine tenths of the machine's."""
    node_selector: dict[str, str] = {}
    """Further labels that a Kubernetes node must have."""
    tolerations: tuple[TolerationConfig, ...] = ()
    """Further taints that pods accept."""


class NodesConfig(PlacementConfig):
    """The nodes with one accelerator type, or (CPU) those without any."""

    gpus: PositiveInt | None = None
    """GPUs of one node; none takes the machine's."""
    min_nodes: Int32 = 0
    """Nodes that stay even when nothing uses them."""
    max_nodes: PositiveInt32 | None = None
    """None: enough for `planning.cluster`, or else for the step that asks for most of this type."""
    spot: bool = False
    """Take machines that may be withdrawn at any time; the run goes on with what is left and resumes."""
    on_demand_nodes: NonNegativeInt = 0
    """With spot: so many of max_nodes form a second group that is never withdrawn, used when spot is short."""
    extended_resources: dict[str, PositiveInt] = {}
    """Further resources of a Kubernetes pod, such as {vpc.amazonaws.com/efa: 32} for the network between GPUs."""


class VolumeConfig(Frozen):
    """A volume that all pods mount."""

    claim: KubernetesName
    """A PersistentVolumeClaim of the namespace that many nodes can mount at once."""
    path: AbsolutePath
    read_only: bool = False


class CacheConfig(Frozen):
    """Where a node keeps copies of models."""

    size_gb: PositiveInt | None = None
    """GiB; none takes 1.2 times the weights of all models, as far as the plan knows them."""
    storage_class: str | None = None
    """A volume of this class for each pod; none takes the node's own disk."""
    claim: KubernetesName | None = None
    """A PersistentVolumeClaim that all nodes share, in place of a copy on each node."""


class EgressConfig(Frozen):
    """Addresses that pods may reach."""

    cidr: str
    ports: Annotated[tuple[Port, ...], Field(min_length=1)]


class NetworkConfig(Frozen):
    """What the pods may reach and be reached by; everything else is denied, the cloud's metadata address included."""

    storage_cidrs: tuple[str, ...] = ("0.0.0.0/0",)
    """Addresses of the object store, the Hugging Face hub and endpoints; without link-local ones in any case."""
    storage_ports: tuple[Port, ...] = (443,)
    """Their ports; those of endpoints and of the tracking server are added."""
    api_server_cidrs: tuple[str, ...] = ("0.0.0.0/0",)
    """Addresses of the Kubernetes API server, which the autoscaler on the head asks for pods."""
    api_server_ports: tuple[Port, ...] = (443, 6443)
    extra_egress: tuple[EgressConfig, ...] = ()
    """Further addresses, such as a cloud's own server of credentials."""
    dns_namespace: str = "kube-system"
    dns_labels: dict[str, str] = {"k8s-app": "kube-dns"}
    """Labels of the cluster's DNS pods."""
    operator_namespace: str | None = None
    """Namespace of the KubeRay operator, which watches the job; none: it may be in any."""
    monitoring_namespace: str | None = None
    """Namespace of the Prometheus that may read the metrics' port; none: nobody may."""


class GcsConfig(Frozen):
    """Where the head keeps its state, so that the cluster outlives it."""

    backend: Literal["redis", "rocksdb"]
    """rocksdb: a volume of the head, alpha in KubeRay 1.7 (feature gate GCSFaultToleranceEmbeddedStorage)."""
    redis_address: str | None = None
    """host:port of a Redis."""
    redis_password_secret: KubernetesName | None = None
    """Secret whose key `password` is the Redis password."""
    storage_class: str | None = None
    """rocksdb: class of the volume; none takes the cluster's default."""
    size_gb: PositiveInt = 10


class KueueConfig(Frozen):
    """The queue that admits the job as a whole."""

    name: KubernetesName
    """LocalQueue of the namespace."""
    priority_class: str | None = None
    elastic: bool = False
    """Let the autoscaler work in the queue (Kueue's gate ElasticJobsViaWorkloadSlices); off: all nodes at once."""


class KubeRayConfig(Frozen):
    """What only the manifests for KubeRay need."""

    namespace: KubernetesName = "default"
    service_account: KubernetesName | None = None
    """ServiceAccount of all Ray pods, with a cloud identity that may use the object store; none: one without."""
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    run_as_user: PositiveInt32 = 1000
    """User id of the image; root is not allowed."""
    volumes: tuple[VolumeConfig, ...] = ()
    cache: CacheConfig = CacheConfig()
    scratch_gb: PositiveInt = 200
    """GiB of a pod's /tmp: Ray's session, spilled objects, checkpoints on their way."""
    network: NetworkConfig | None = NetworkConfig()
    """null makes no network policies: everything that reaches the pods' network reaches the pods."""
    gcs: GcsConfig | None = None
    """None: when the head is lost, the job begins again on a new cluster, and resumes."""
    queue: KueueConfig | None = None
    spot_selector: dict[str, str] = {}
    """Labels of spot nodes; none takes those of cluster.cloud (GKE's spot, EKS's capacityType)."""
    spot_tolerations: tuple[TolerationConfig, ...] = ()
    delete_after_success_s: Int32 = 60
    """The Ray cluster goes so long after the job has ended well."""
    delete_after_failure_s: Int32 = 3600
    """The Ray cluster of the last attempt stays so long, to be looked at."""


class AnyscaleConfig(Frozen):
    """What only the files for Anyscale need."""

    cloud: str | None = None
    project: str | None = None


class ClusterConfig(Frozen):
    """Where `wrpo-ray cluster render` brings the run."""

    image: Image | None = None
    """Container image with wrpo_ray, by digest or by a tag other than latest; required to render."""
    workdir: AbsolutePath = "/opt/wrpo_ray"
    """Folder of the image with jobs/fuse.py; relative paths of the config are below it."""
    shared_paths: tuple[AbsolutePath, ...] = ()
    """Folders that every node sees under the same path: parts of the image. Those of kuberay.volumes are known."""
    cloud: Literal["aws", "gcp", "other"] = "other"
    """Whose machine types are meant."""
    head: PlacementConfig = PlacementConfig()
    """The node of the driver; it takes no work of Ray."""
    nodes: dict[str, NodesConfig] = {}
    """Nodes by accelerator type, such as {H100: {spot: true}}, and CPU for those without one."""
    env: dict[str, str] = {}
    """Environment of all nodes. Never put a secret here: name the Secret that holds it in `secrets`."""
    secrets: tuple[KubernetesName, ...] = ()
    """Kubernetes Secrets whose keys become environment variables of all Ray pods (HF_TOKEN, say)."""
    max_retries: Int32 = 3
    """Attempts after the first, each on a new cluster; each resumes from run.root."""
    time_limit_hours: Annotated[float, Field(gt=0.0, le=87_600.0)] | None = None
    """An attempt that takes longer ends the job; none: no limit."""
    idle_minutes: Annotated[float, Field(gt=0.0, le=525_600.0)] = 5.0
    """A node goes when nothing has used it for so long; loading the next model is use."""
    kuberay: KubeRayConfig = KubeRayConfig()
    anyscale: AnyscaleConfig = AnyscaleConfig()
