"""The FlinkDeployment against the schema that the Flink operator itself brings to Kubernetes."""

import copy
from typing import Any

import jsonschema
import pytest
import yaml

from engines.flink.artifacts import OPERATOR_VARIABLE, operator_schema
from stores.errors import InputError
from tests.deploy.test_kubernetes import documents

VERSION = "v1beta1"


def strict(schema: Any) -> Any:
    """An API schema as JSON schema, a field that it does not name refused, as Kubernetes refuses it when asked to."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(part) for name, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string") is True:
        made["type"] = ["integer", "string"]
    open_to_others = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & schema.keys()
    if schema.get("type") == "object" and "properties" in schema and not open_to_others:
        made["additionalProperties"] = False
    return made


@pytest.fixture(scope="module")
def schema() -> dict:
    definition = yaml.load(operator_schema(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    assert definition["spec"]["names"]["kind"] == "FlinkDeployment"
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == VERSION]
    return strict(version["schema"]["openAPIV3Schema"]["properties"]["spec"])


def test_the_operator_takes_the_deployment(schema):
    deployment = documents()["FlinkDeployment", "pinnerformer-flink"]
    assert deployment["apiVersion"] == f"flink.apache.org/{VERSION}"
    jsonschema.validate(deployment["spec"], schema)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("taskManager", "replica"), 3),
        (("jobManager", "resource", "cpu"), "one"),
        (("flinkVersion",), "v1_99"),
        (("taskManager", "podTemplate", "spec", "containers", 0, "comand"), ["pinnerformer"]),
    ],
)
def test_it_would_not_take_a_misspelt_field_or_another_type(schema, path, value):
    spec = copy.deepcopy(documents()["FlinkDeployment", "pinnerformer-flink"]["spec"])
    part = spec
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spec, schema)


def test_a_schema_of_ones_own_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv(OPERATOR_VARIABLE, "/nowhere/crd.yml")
    with pytest.raises(InputError, match=f"/nowhere/crd.yml: no such file.*{OPERATOR_VARIABLE}"):
        operator_schema()
