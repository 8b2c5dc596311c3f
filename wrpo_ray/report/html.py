"""Templates, style and scripts put together into one file that needs nothing else and runs nothing else.

A Content-Security-Policy names every script and style by its hash, so that nothing that a model wrote can ever run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wrpo_ray.report.parts import Chart, number

_SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "templates/report.js")
# What Observable Plot 0.6.17 puts into each picture (src/plot.js), to be allowed by its hash.
PLOT_STYLE = """:where(.plot-d6a7b5) {
  --plot-background: white;
  display: block;
  height: auto;
  height: intrinsic;
  max-width: 100%;
}
:where(.plot-d6a7b5 text),
:where(.plot-d6a7b5 tspan) {
  white-space: pre;
}"""


def rendered(template: str, title: str, charts: Iterable[Chart], values: Mapping[str, Any]) -> str:
    """Return a page; `values` are what the template names. All text is escaped by the template engine."""
    style, scripts = _resource("templates/style.css"), [_resource(name) for name in _SCRIPTS]
    environment = Environment(
        loader=PackageLoader("wrpo_ray.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(
        **values, title=title, number=number, policy=policy([style, PLOT_STYLE], scripts), style=Markup(style),
        scripts=[Markup(script) for script in scripts], charts=Markup(embedded(charts)),
    )  # fmt: skip


def policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """Return the policy under which these styles and scripts run, and nothing else, and nothing is fetched or sent."""
    return (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; base-uri 'none';"
        " form-action 'none'"
    )


def _hashes(contents: Iterable[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(each.encode("utf-8")).digest()).decode("ascii") for each in contents)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def embedded(charts: Iterable[Chart]) -> str:
    """Return what is drawn as JSON that may stand in a script element: no `<`, `>` or `&`, no line separators."""
    drawn = {
        chart.name: {"kind": chart.kind, "title": chart.title, "words": chart.words, "data": _finite(chart.data)}
        for chart in charts
    }
    text = json.dumps(drawn, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    """Return `value` for JSON: shorter numbers, and null for those that are not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


@functools.cache
def _resource(name: str) -> str:
    return (resources.files("wrpo_ray.report") / name).read_text(encoding="utf-8")
