"""The Grafana dashboard shows what the code exports: every metric, and no other one."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

from wrpo_ray.live.metrics import METRICS, PHASES, RAY_PREFIX

FILE = Path(__file__).parents[2] / "cluster" / "grafana_wrpo_ray.json"
DASHBOARD = json.loads(FILE.read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
# Names that Ray 2.60 itself exports (ray: dashboard/modules/metrics/dashboards/default_dashboard_panels.py).
OF_RAY = {"ray_node_gpus_utilization", "ray_node_gram_used", "ray_node_cpu_utilization", "ray_node_mem_used"}


def queries() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel.get("targets", ())]


def test_panels_query_every_exported_metric_and_no_other():
    queried = {name for query in queries() for name in re.findall(r"\bray_\w+", query)}
    assert queried - OF_RAY == {RAY_PREFIX + name for name in METRICS}
    assert queried >= OF_RAY


def test_labels_of_a_query_are_those_of_its_metrics():
    for panel in PANELS:
        for target in panel.get("targets", ()):
            names: list[str] = re.findall(r"\bray_(wrpo_ray_\w+)", target["expr"])
            labels = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            for group in re.findall(r"\bby \(([\w, ]+)\)", target["expr"]):
                labels |= set(group.split(", "))
            for name in names:
                assert labels <= {"run", *METRICS[name].tags}, (panel["title"], name)
            # All of it is about the run that is chosen.
            assert target["expr"].count('{run=~"$run"}') == len(names)


def test_counters_are_named_and_used_as_counters():
    for name, spec in METRICS.items():
        assert (spec.kind == "counter") == name.endswith("_total")
        for query in queries():
            if name in query and spec.kind == "counter":
                assert "rate(" in query or "sum(" in query


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    for one, other in itertools.combinations([panel["gridPos"] for panel in PANELS], 2):
        assert not (_overlap(one, other, "x", "w") and _overlap(one, other, "y", "h")), (one, other)


def _overlap(one: dict[str, int], other: dict[str, int], start: str, size: str) -> bool:
    return one[start] < other[start] + other[size] and other[start] < one[start] + one[size]


def test_data_source_and_run_are_chosen_by_the_viewer():
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert "ray_wrpo_ray_elapsed_seconds" in variables["run"]["query"]["query"]
    sources: list[Any] = [target["datasource"] for panel in PANELS for target in panel.get("targets", ())]
    assert {source["uid"] for source in sources} == {"${datasource}"}


def test_phases_have_the_names_that_the_code_gives_them():
    panel = next(panel for panel in PANELS if panel["title"] == "Phase by step")
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    assert {shown["text"]: int(value) for value, shown in mapping["options"].items()} == PHASES
