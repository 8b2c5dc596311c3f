"""Machine types of the clouds by accelerator: what `cluster.nodes` leaves out.

AWS: https://aws.amazon.com/ec2/instance-types (P6, P5, P5en, P4, G6e, G6, G5, M6i); Google Cloud:
https://cloud.google.com/compute/docs/accelerator-optimized-machines. Written down from memory; memory in GiB.
"""

from __future__ import annotations

from dataclasses import dataclass

from wrpo_ray.planning.accelerators import CPU


@dataclass(frozen=True)
class Machine:
    """One machine type: its name at the cloud, GPUs, CPUs and memory in GiB."""

    instance_type: str
    gpus: int
    cpus: int
    memory_gb: int


MACHINES: dict[tuple[str, str], Machine] = {
    ("aws", CPU): Machine("m6i.4xlarge", 0, 16, 64),
    ("aws", "B200"): Machine("p6-b200.48xlarge", 8, 192, 2048),
    ("aws", "H200"): Machine("p5en.48xlarge", 8, 192, 2048),
    ("aws", "H100"): Machine("p5.48xlarge", 8, 192, 2048),
    ("aws", "A100-80G"): Machine("p4de.24xlarge", 8, 96, 1152),
    ("aws", "A100-40G"): Machine("p4d.24xlarge", 8, 96, 1152),
    ("aws", "L40S"): Machine("g6e.48xlarge", 8, 192, 1536),
    ("aws", "L4"): Machine("g6.48xlarge", 8, 192, 768),
    ("aws", "A10G"): Machine("g5.48xlarge", 8, 192, 768),
    ("gcp", CPU): Machine("n2-standard-16", 0, 16, 64),
    ("gcp", "B200"): Machine("a4-highgpu-8g", 8, 224, 3968),
    ("gcp", "H200"): Machine("a3-ultragpu-8g", 8, 224, 2952),
    ("gcp", "H100"): Machine("a3-highgpu-8g", 8, 208, 1872),
    ("gcp", "A100-80G"): Machine("a2-ultragpu-8g", 8, 96, 1360),
    ("gcp", "A100-40G"): Machine("a2-highgpu-8g", 8, 96, 680),
    ("gcp", "L4"): Machine("g2-standard-96", 8, 96, 384),
}
# Elsewhere there is no usual GPU machine; one without GPUs may be of any size.
SMALL = Machine("", 0, 8, 32)


def usual_machine(cloud: str, accelerator: str) -> Machine | None:
    """Return the machine that is usual for an accelerator type (or CPU) at a cloud, None where none is known."""
    known = MACHINES.get((cloud, accelerator))
    return SMALL if known is None and accelerator == CPU else known
