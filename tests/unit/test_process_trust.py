"""Settings that take a check away are refused, in the driver and where an engine starts."""

import os
import subprocess
import sys

import pytest

from wrpo_ray.config import EngineConfig, ModelFiles, RayConfig
from wrpo_ray.engines.vllm_engine import start_engine
from wrpo_ray.errors import ConfigError
from wrpo_ray.process_trust import UNSAFE_VARIABLES, require_safe_process


@pytest.mark.parametrize("name", UNSAFE_VARIABLES)
def test_variables(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for harmless in ("", "0", "False"):
        require_safe_process({name: harmless}, optimized=0)
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=name) as caught:
        require_safe_process()
    assert caught.value.code == "WRPO-C122"
    with pytest.raises(ConfigError, match=name):
        start_engine(ModelFiles(path="/nowhere"), EngineConfig(), num_gpus=0)
    from wrpo_ray.cluster import connected

    with pytest.raises(ConfigError, match=name), connected(RayConfig(address="local")):
        pytest.fail("a cluster was started")


def test_python_without_assertions() -> None:
    program = "from wrpo_ray.process_trust import require_safe_process; require_safe_process()"
    environment = {**os.environ, "PYTHONOPTIMIZE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert "Python drops assertions" in done.stderr
    require_safe_process({}, optimized=0)
