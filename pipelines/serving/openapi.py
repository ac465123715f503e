"""The OpenAPI document of the server, and a page of it that loads nothing from elsewhere."""

import html
from typing import Any

import orjson

import pinnerformer
from pipelines.serving.answers import ENCODINGS, FLOATS
from pipelines.serving.asked import DEFAULT_K, Limits
from pipelines.serving.problems import PROBLEM_JSON
from pipelines.serving.responses import RELEASE_HEADER
from pipelines.serving.where import MAX_TEXT

Json = dict[str, Any]
# JSON has one kind of number; a root's ids are all of one kind.
ID = {"description": "As the logs have it: a whole number (int64), or a string.", "type": ["integer", "string"]}
RELEASE = {"type": "string", "description": "The release that all of the answer is of.", "examples": ["2026-11-24"]}
DAY = {"type": "string", "format": "date", "description": "The day the user's vector was made."}
WHERE = (
    "Conditions on columns of the catalogue, all of which are to hold: `topic=shoes|boots,in_stock=true,price<=20`. "
    'Operators: = != < <= > >=. In double quotes: values with , | or ". `null`: what is missing. Of a column of lists, '
    "= asks what is in them."
)


def document(limits: Limits, with_token: bool) -> Json:
    """The whole of it.

    Args:
        with_token: Whether a bearer token is asked for.
    """
    found: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "pinnerformer serve",
            "version": pinnerformer.__version__,
            "description": "User embeddings, pins of users, neighbours of pins: of the release that the store serves.",
        },
        "paths": _paths(limits, with_token),
        "components": {"schemas": _schemas(limits)},
    }
    if with_token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}]
    return found


def _paths(limits: Limits, with_token: bool) -> Json:
    def of(summary: str, name: str, schema: Json, *errors: int, **more: Any) -> Json:
        refused = (401,) if with_token and not more.get("security") == [] else ()
        return _operation(summary, name, schema, (*errors, *refused), **more)

    k = _query(
        "k", {"type": "integer", "minimum": 1, "maximum": limits.k, "default": min(DEFAULT_K, limits.k)}, "Pins."
    )
    engaged = {"type": "boolean", "default": False}
    exclude = _query("exclude_engaged", engaged, "Without the pins of the user's own history.")
    where = _query("where", {"type": "string", "maxLength": MAX_TEXT}, WHERE)
    limit = _query(
        "limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 30}, "How many, newest first."
    )
    text = {"type": "object", "properties": {"status": {"type": "string"}, "release": RELEASE}, "required": ["status"]}
    lookup = _body(_ref("LookupRequest"))
    batch = _body(_ref("UsersPinsRequest"))
    posted = (400, 413, 422, 503)
    return {
        "/v1/embeddings:lookup": {
            "post": of("Vectors of users", "lookup", _ref("Lookup"), *posted, requestBody=lookup)
        },
        "/v1/users/{user_id}/pins": {
            "get": of(
                "The pins nearest to a user",
                "pinsOfUser",
                _ref("UserPins"),
                *(404, 422, 503),
                parameters=[_path("user_id"), k, exclude, where],
            )
        },
        "/v1/users:pins": {
            "post": of("The pins nearest to many users", "pinsOfUsers", _ref("UsersPins"), *posted, requestBody=batch)
        },
        "/v1/pins/{pin_id}/neighbours": {
            "get": of(
                "The pins nearest to a pin",
                "neighbours",
                _ref("Neighbours"),
                *(404, 422, 503),
                parameters=[_path("pin_id"), k, where],
            )
        },
        "/v1/releases": {
            "get": of("Releases, newest first", "releases", _ref("Releases"), 422, 503, parameters=[limit])
        },
        "/healthz": {"get": of("Whether the process answers", "healthz", text, security=[])},
        "/readyz": {"get": of("Whether a release is served", "readyz", text, 503, security=[])},
        "/metrics": {"get": of("Metrics for Prometheus", "metrics", {"type": "string"}, kind="text/plain")},
    }


def _operation(
    summary: str, name: str, schema: Json, errors: tuple[int, ...], kind: str = "application/json", **more: Any
) -> Json:
    header = {RELEASE_HEADER: {"description": "The release that the answer is of.", "schema": {"type": "string"}}}
    problem = {"description": "What is wrong, and what to do", "content": {PROBLEM_JSON: {"schema": _ref("Problem")}}}
    good: Json = {"description": summary, "content": {kind: {"schema": schema}}}
    if kind != "text/plain" and name != "healthz":
        good["headers"] = header
    responses = {"200": good, **{str(status): problem for status in sorted(errors)}}
    return {"summary": summary, "operationId": name, **more, "responses": responses}


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _path(name: str) -> Json:
    text = "As the logs have it, percent-encoded."
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": text}


def _body(schema: Json) -> Json:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(**properties: Json) -> Json:
    """An object that has all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _list(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _schemas(limits: Limits) -> Json:
    ids = _list(ID, maxItems=limits.ids)
    k = {"type": "integer", "minimum": 1, "maximum": limits.k, "default": min(DEFAULT_K, limits.k)}
    pins = _list(_ref("Pin"), description="Best first; fewer than k where there are no more.")
    user = _object(user_id=ID, embedding_day=DAY, pins=pins)
    vector = {"anyOf": [_list({"type": "number"}), {"type": "string", "format": "byte"}]}
    whole, text = {"type": "integer"}, {"type": "string"}
    embedding = _object(user_id=ID, embedding_day=DAY, embedding=vector)
    one = _object(
        release=text, date=text, previous=_or_null(text), model=text, users=whole, pins=whole, dropped=_list(text)
    )
    encoding = {
        "enum": list(ENCODINGS),
        "default": FLOATS,
        "description": "floats: lists of numbers; base64: the float16 of a vector, little-endian: much faster.",
    }
    return {
        "LookupRequest": {**_object(ids=ids, encoding=encoding), "required": ["ids"], "additionalProperties": False},
        "UsersPinsRequest": {
            **_object(ids=ids, k=k, exclude_engaged={"type": "boolean", "default": False}, where=text),
            "required": ["ids"],
            "additionalProperties": False,
            "description": f"At most {limits.answers:,} pins at once: users times k.",
        },
        "Lookup": _object(
            release=RELEASE,
            model=text,
            dim={**whole, "description": "Of a vector; 0 where nobody was found."},
            encoding={"enum": list(ENCODINGS)},
            embeddings=_list(_or_null(embedding), description="In the order asked; null of a user without a vector."),
        ),
        "Pin": _object(pin_id=ID, score={"type": "number", "description": "Inner product of unit vectors."}),
        "UserPins": {**user, "properties": {"release": RELEASE, **user["properties"]}},
        "UsersPins": _object(
            release=RELEASE, users=_list(_or_null(user), description="In the order asked; null without a vector.")
        ),
        "Neighbours": _object(release=RELEASE, pin_id=ID, pins=pins),
        "Releases": _object(served=text, newest=_or_null(text), releases=_list(one)),
        "Problem": _object(type=text, title=text, status=whole, detail=text),
    }


STYLE = """
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:14px/1.4 ui-monospace,monospace}pre{overflow:auto;border:1px solid #8886;border-radius:6px;padding:.6rem}
h2{margin-top:2.2rem}dt{margin-top:.6rem}details{margin:.4rem 0}
"""


def docs_page(found: Json) -> str:
    """The document as a page, for people: HTML without scripts, which loads nothing."""
    parts = [f"<p>{_escaped(found['info']['description'])} <a href='/openapi.json'>openapi.json</a></p>"]
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation_section(method, path, operation))
    schemas = "".join(
        f"<details id='{name}'><summary><code>{name}</code></summary><pre>{_pretty(schema)}</pre></details>"
        for name, schema in found["components"]["schemas"].items()
    )
    title = _escaped(found["info"]["title"])
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<meta name='viewport' content='width=device-width, initial-scale=1'><style>{STYLE}</style>"
        f"<body><h1>{title}</h1>{''.join(parts)}<h2>Schemas</h2>{schemas}</body></html>"
    )


def _operation_section(method: str, path: str, operation: Json) -> str:
    rows = [
        f"<dt><code>{_escaped(one['name'])}</code> ({one['in']}, <code>{_escaped(orjson.dumps(one['schema']).decode())}"
        f"</code>)</dt><dd>{_escaped(one['description'])}</dd>"
        for one in operation.get("parameters", ())
    ]
    body = operation.get("requestBody")
    if body:
        rows.append(f"<dt>body</dt><dd>{_schema_link(body['content']['application/json']['schema'])}</dd>")
    for status, response in operation["responses"].items():
        (kind, content), *_ = response["content"].items()
        link = _schema_link(content["schema"])
        rows.append(f"<dt>{status}</dt><dd>{_escaped(response['description'])}: {link} <code>{kind}</code></dd>")
    return (
        f"<h2>{_escaped(operation['summary'])}</h2><p><code>{method.upper()} {_escaped(path)}</code></p>"
        f"<dl>{''.join(rows)}</dl>"
    )


def _schema_link(schema: Json) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f"<a href='#{name}'>{name}</a>" if name else f"<code>{_escaped(str(schema.get('type')))}</code>"


def _pretty(value: Any) -> str:
    return _escaped(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())


def _escaped(text: str) -> str:
    return html.escape(text)
