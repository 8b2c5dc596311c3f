"""The committed examples are what the renderer makes of their configs today."""

import subprocess
import sys
from pathlib import Path

import pytest

from wrpo_ray.config_cluster import ClusterConfig

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, str]:
    """Return the text of every rendered file by its path."""
    found = [path for name in ("kuberay", "anyscale") for path in (folder / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in found}


def test_they_are_rendered_again_as_they_are(tmp_path: Path) -> None:
    command = [sys.executable, "cluster/render_examples.py", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    committed = contents(ROOT / "cluster")
    assert len(committed) == 12
    assert contents(tmp_path) == committed, "run: python cluster/render_examples.py"


def test_only_the_sites_name_accounts() -> None:
    """Examples hold names of examples alone."""
    for text in contents(ROOT / "cluster").values():
        for word in ("my-bucket", "123456789012", "my-project"):
            text = text.replace(word, "")
        assert "/work/" not in text
        assert "/root/" not in text
        assert "/home/" not in text


@pytest.mark.parametrize("name", ["gpu", "cpu"])
def test_pods_run_in_the_images_folder_as_its_user(name: str) -> None:
    path = ROOT / "cluster" / "docker" / f"{name}.Dockerfile"
    if not path.is_file():
        pytest.skip(f"{path.name} is not there")
    said = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    last = {words[0]: words[1] for words in said if words and words[0] in ("WORKDIR", "USER")}
    cluster = ClusterConfig()
    user = cluster.kuberay.run_as_user
    assert last == {"WORKDIR": cluster.workdir, "USER": f"{user}:{user}"}
