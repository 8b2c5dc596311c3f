"""Renders the committed examples again: python cluster/render_examples.py [--out DIR]."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Target, config, and what is laid over it; the folder has the target's name and the config's.
EXAMPLES = (
    ("kuberay", "jobs/configs/llama3_8b.yaml", "cluster/sites/gke_h100.yaml"),
    ("kuberay", "jobs/configs/smoke.yaml", "cluster/sites/eks_smoke.yaml"),
    ("anyscale", "jobs/configs/llama3_8b.yaml", "cluster/sites/anyscale_p5.yaml"),
    ("anyscale", "jobs/configs/smoke.yaml", "cluster/sites/anyscale_smoke.yaml"),
)


def main() -> int:
    """Write every example below --out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="cluster", help="folder that holds kuberay/ and anyscale/")
    out = Path(parser.parse_args().out).absolute()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    from wrpo_ray.cli import main as wrpo_ray

    codes = [
        wrpo_ray(["cluster", "render", target, config, "--with", site, "--out", str(out / target / Path(config).stem)])
        for target, config, site in EXAMPLES
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
