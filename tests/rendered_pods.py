"""Rendered pods, brought up without Kubernetes: each has a root of its own, read-only but for what it mounts.

Each has the manifest's environment, user and folders, and no network but loopback. The image is a stand-in: this
machine's packages, and the repository at the image's folder.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster_schemas import pods
from wrpo_ray.cluster_render.command import rendered
from wrpo_ray.cluster_render.overlay import overrides_of
from wrpo_ray.config_file import load_config

ROOT = Path(__file__).parents[1]
PACKAGES = Path(sys.executable).parent
SITE = (
    *overrides_of(str(ROOT / "cluster/sites/eks_smoke.yaml")),
    "cluster.kuberay.queue=null",
    "cluster.kuberay.volumes=[{claim: shared, path: /shared}]",
    "cluster.kuberay.cache={size_gb: 1}",
    "cluster.kuberay.scratch_gb=2",
    "run.root=/shared/runs",
)
IMAGE = "/opt/wrpo_ray"
CAN_MOUNT = os.geteuid() == 0 and shutil.which("unshare") and shutil.which("setpriv")
needs_mounts = pytest.mark.skipif(not CAN_MOUNT, reason="needs root, unshare and setpriv")
# Everything inside has network and process ids of its own: what is left at the end goes with the first process.
TOGETHER = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-euc"]


def pod_script(pod: dict[str, Any], command: str, folders: dict[str, Path], token: str) -> str:
    """Return the commands that run `command` in the one container of a pod; folders: of claims and config maps."""
    spec = pod["spec"]
    container, user = spec["containers"][0], spec["securityContext"]["runAsUser"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    kinds = {volume["name"]: volume for volume in spec["volumes"]}
    # Without a folder of its own a container starts in the image's.
    workdir = container.get("workingDir", IMAGE)
    mounts = [
        _mount(mount, kinds[mount["name"]], folders.get(mount["name"]), user) for mount in container["volumeMounts"]
    ]
    places = [IMAGE, *(mount["mountPath"] for mount in container["volumeMounts"])]
    environment = {each["name"]: each["value"] for each in container["env"]}
    environment |= {"PATH": f"{PACKAGES}:/usr/bin:/bin:/usr/sbin", "PYTHONPATH": IMAGE}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "OMP_NUM_THREADS": "1"}
    variables = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
    inner = f"cd {workdir}; {command}"
    return f"""
        mount --make-rprivate /
        pod=$(mktemp -d -p "$(realpath "$(dirname "$0")")"); mount -t tmpfs tmpfs $pod
        mkdir $pod/upper $pod/work $pod/root
        mount -t overlay overlay -o lowerdir=/,upperdir=$pod/upper,workdir=$pod/work $pod/root
        mkdir -p {" ".join(f"$pod/root{place}" for place in places)}
        chmod 755 $pod/root/root; mount -o remount,ro $pod/root
        for each in proc sys dev; do mount --rbind /$each $pod/root/$each; done
        mount --bind {ROOT} $pod/root{IMAGE}; mount -o remount,bind,ro $pod/root{IMAGE}
        {chr(10).join(mounts)}
        # The packages, where the pod's own /tmp has hidden them.
        [ -x $pod/root{PACKAGES}/python ] || {{
            mkdir -p $pod/root{sys.prefix}; mount --bind {sys.prefix} $pod/root{sys.prefix}
        }}
        exec chroot $pod/root setpriv --reuid {user} --regid {user} --clear-groups --no-new-privs --inh-caps=-all \\
            --bounding-set=-all env -i {variables} bash -c {shlex.quote(inner)}
    """


def _mount(mount: dict[str, Any], volume: dict[str, Any], folder: Path | None, user: int) -> str:
    place = f"$pod/root{mount['mountPath']}"
    if "emptyDir" in volume:
        size = volume["emptyDir"]["sizeLimit"].removesuffix("i")
        return f"mount -t tmpfs -o size={size},mode=1777,uid={user},gid={user} tmpfs {place}"
    read_only = f"; mount -o remount,bind,ro {place}" if mount.get("readOnly") else ""
    return f"mount --bind {folder} {place}{read_only}"


def smoke_job(folder: Path) -> dict[str, Any]:
    """Return the RayJob of the smoke run; in `folder` it makes `config`, as the pods see it, and `shared`."""
    texts = rendered(load_config("jobs/configs/smoke.yaml", SITE), "kuberay", "x")
    config, *_, ray_job = [found for text in texts.values() for found in yaml.safe_load_all(text)]
    for name in ("config", "shared"):
        (folder / name).mkdir()
    (folder / "shared").chmod(0o777)
    for name, text in config["data"].items():
        (folder / "config" / name).write_text(text)
    return ray_job


def write_scripts(ray_job: dict[str, Any], lines: dict[str, str], folder: Path) -> None:
    """Write one script for each pod that has something to do, named after its role."""
    folders = {"run-config": folder / "config", "shared": folder / "shared"}
    for pod in pods(ray_job):
        role = pod["metadata"]["labels"]["wrpo-ray/role"]
        if role in lines:
            (folder / f"{role}.sh").write_text(pod_script(pod, lines[role], folders, "0123456789abcdef" * 2))


def run_together(outer: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a script in namespaces of its own; what it leaves behind ends with it."""
    command = ["nice", "-n", "19", *TOGETHER, outer]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
