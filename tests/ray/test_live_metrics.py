"""A local Ray serves what a run's live view tells, under the names that the dashboard queries.

In a process of its own: the metrics port belongs to a Ray instance of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PROGRAM = """
import json, re, socket, time, urllib.request
import ray
from tests.unit.test_live_views import run_at_work
from wrpo_ray.events import ShardDone
from wrpo_ray.live.metrics import METRICS, WhileConnected

live, clock = run_at_work()
exporter = WhileConnected()
exporter.export(live.view())
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(
    address="local", num_cpus=1, include_dashboard=False, _metrics_export_port=port,
    _system_config={"metrics_report_interval_ms": 500},
)
exporter.export(live.view())
live("sample-model-0", ShardDone(1000, 50, 1.0, {"engine_crash": 2}))
exporter.export(live.view())
# Every value again, as every few seconds of a run: counters must not count twice.
exporter.export(live.view())

def served():
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        return {}
    found = re.findall(r"^(ray_wrpo_ray_\\w+)\\{(.*)\\} (\\S+)$", text, re.MULTILINE)
    return {name: (value, labels) for name, labels, value in found if 'step="' not in labels or "model-0" in labels
            or "sft" in labels}

until = time.monotonic() + 25
values = served()
while time.monotonic() < until and "ray_wrpo_ray_training_loss" not in values:
    time.sleep(0.5)
    values = served()
ray.shutdown()
exporter.export(live.view())
print(json.dumps(values))
"""


def test_a_local_ray_serves_the_figures_of_a_run():
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    values = {
        name: (float(value), labels) for name, (value, labels) in json.loads(done.stdout.splitlines()[-1]).items()
    }
    rows, labels = values["ray_wrpo_ray_rows_total"]
    assert rows == 6120.0
    assert 'run="demo"' in labels
    assert 'step="sample-model-0"' in labels
    assert values["ray_wrpo_ray_rows_set_aside_total"][0] == 22.0
    assert values["ray_wrpo_ray_gpu_seconds_total"][0] > 0.0
    assert values["ray_wrpo_ray_training_loss"][0] == 0.69
    assert values["ray_wrpo_ray_eta_seconds"][0] == -1.0
