"""`wrpo-ray cluster render kuberay|anyscale CONFIG`: what brings a run up on a cluster, from its own config."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from wrpo_ray.cluster_render import anyscale, kuberay
from wrpo_ray.cluster_render.checks import check, check_groups, outside_ports, required_cluster
from wrpo_ray.cluster_render.files import write_files, yaml_text
from wrpo_ray.cluster_render.groups import find_groups
from wrpo_ray.cluster_render.job import make_job
from wrpo_ray.cluster_render.overlay import overrides_of
from wrpo_ray.cluster_render.weights import cache_size_gb
from wrpo_ray.config import FuseConfig
from wrpo_ray.config_file import load_config

TARGETS = ("kuberay", "anyscale")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command takes."""
    actions = parser.add_subparsers(required=True, metavar="action", parser_class=argparse.ArgumentParser)
    summary = "print manifests, or write them to a folder"
    render = actions.add_parser("render", help=summary, description=summary)
    render.add_argument("target", choices=TARGETS, help="what the manifests are for")
    render.add_argument("config", metavar="CONFIG", help="YAML file of the run, with a section `cluster`")
    render.add_argument("overrides", nargs="*", metavar="a.b.c=value", help="replaces a value of the config")
    render.add_argument("--with", metavar="FILE", dest="overlay", help="YAML laid over the config: its cluster, paths")
    render.add_argument("--out", metavar="DIR", help="write the files there, in place of older ones")


def main(options: argparse.Namespace) -> int:
    """Render; raises ConfigError for a config that the cluster could not run."""
    overlaid = overrides_of(options.overlay) if options.overlay else []
    config = load_config(options.config, [*overlaid, *options.overrides])
    texts = rendered(config, options.target, _header(options))
    if options.out:
        write_files(Path(options.out), texts)
        print(f"wrote {', '.join(texts)} to {options.out}")
    else:
        print("---\n".join(texts.values()), end="")
    return 0


def rendered(config: FuseConfig, target: str, header: str) -> dict[str, str]:
    """Return the texts by file name; raises ConfigError that lists what the cluster could not run."""
    cluster = required_cluster(config)
    check(config, cluster, target)
    groups = find_groups(config, cluster)
    check_groups(cluster, groups, target)
    job = make_job(config, cluster, groups, outside_ports(config))
    if target == "anyscale":
        files = anyscale.files(job)
    else:
        files = kuberay.manifests(job, cache_size_gb(config, cluster.kuberay.cache))
    return {name: yaml_text(objects, header) for name, objects in files.items()}


def _header(options: argparse.Namespace) -> str:
    parts = ["wrpo-ray", "cluster", "render", options.target, options.config, *options.overrides]
    parts += ["--with", options.overlay] if options.overlay else []
    return f"Written by `{shlex.join(parts)}`; change the config instead."
