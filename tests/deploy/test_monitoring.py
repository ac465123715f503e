"""The dashboard and the alert rules are of Grafana's and Prometheus' form, and every metric they name is given."""

import json
import re
from collections.abc import Iterator

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from pipelines.serving.metrics import Metrics
from pipelines.telemetry.metrics_file import HELP, PREFIX

FOLDER = "deploy/monitoring"
VARIABLES = {"$root": "a", "$__rate_interval": "5m"}


def given() -> dict[str, set[str]]:
    """Metric -> its labels, of those that a file of a run has, and of those that a server answers with."""
    served = Metrics(lambda: ("2026-11-23", "model", 5.0))
    served.count("users", 200, 0.0)
    served.count_ids("user", 1, 1)
    found = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(served.text().decode())
        for sample in family.samples
    }
    own = {"run": {"root", "command"}, "release": {"root"}, "store": {"root", "store", "namespace"}, "alarm": {"root"}}
    of_one = {
        "run_gate_refused": {"gate"},
        "run_info": {"run", "release", "version"},
        "release_info": {"release", "model"},
        "store_info": {"release", "model"},
        "release_rows_dropped": {"reason"},
        "release_step_seconds": {"step"},
        "alarm": {"alarm"},
        **{f"release_gate_{what}": {"gate"} for what in ("measured", "threshold", "passed")},
    }
    return found | {PREFIX + name: own[name.partition("_")[0]] | of_one.get(name, set()) for name in HELP}


def dashboard() -> dict:
    with open(f"{FOLDER}/dashboard.json") as file:
        return json.load(file)


def rules() -> list[dict]:
    with open(f"{FOLDER}/alerts.yaml") as file:
        found = yaml.safe_load(file)
    assert set(found) == {"groups"} and all(set(group) <= {"name", "rules", "interval"} for group in found["groups"])
    return [rule for group in found["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (rule["expr"] for rule in rules())


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """(metric, labels that are asked for) of everything that an expression selects."""
    found: list[tuple[str, set[str]]] = []

    class Visitor:
        pass

    parsed = promql_parser.parse(expression)

    def look(node) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        for name in ("expr", "lhs", "rhs", "vector_selector", "args", "param"):
            child = getattr(node, name, None)
            for one in child if isinstance(child, list) else [child]:
                if one is not None and not isinstance(one, (str, int, float)):
                    look(one)

    look(parsed)
    return found


def test_the_dashboard_is_one_to_grafana():
    """Read as Grafana's own types, and written again, nothing of it is lost."""
    found = dashboard()
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(found)))
    assert again == found and found["title"] == "pinnerformer" and len(found["panels"]) > 20


def test_every_expression_is_one_and_every_metric_in_it_is_given():
    known, used = given(), set()
    for expression in expressions():
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        chosen = selectors(expression)
        assert chosen, expression
        for metric, labels in chosen:
            assert metric in known and labels <= known[metric] | {"instance", "job"}, f"{expression}: {metric}"
            used.add(metric)
    unseen = {name for name in known if not name.endswith(("_created", "_sum", "_count"))} - used
    assert unseen <= {
        PREFIX + "run_last_success_timestamp_seconds",
        PREFIX + "release_committed_timestamp_seconds",
        PREFIX + "serve_release",
    }, "shown nowhere: put it on the dashboard"


def test_a_metric_that_is_given_by_nobody_is_found():
    ((metric, labels),) = selectors('sum by (a) (rate(pinnerformer_nothing{b="c"}[5m]))')
    assert metric not in given() and labels == {"b"}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_is_of_the_form_that_prometheus_reads(rule):
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"} and rule["labels"]["severity"] in (
        "page",
        "warn",
    )
    assert re.fullmatch(r"Pinnerformer[A-Za-z]+", rule["alert"]) and set(rule["annotations"]) == {
        "summary",
        "description",
    }
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    labels = {label for _, labels in ((m, given()[m]) for m, _ in selectors(rule["expr"])) for label in labels}
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert named <= labels | {"instance", "job"}
