"""A page that describes the API, from its OpenAPI description, without scripts or other hosts."""

from __future__ import annotations

import json
from html import escape
from typing import Any

STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}"
    "pre{background:#f4f4f4;padding:.7em;overflow:auto;max-height:24em}"
    "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
)


def api_page(openapi: dict[str, Any]) -> str:
    """Return the page as HTML."""
    schemas = openapi["components"]["schemas"]
    title = _text(openapi["info"]["title"])
    parts = [f"<h1>{title}</h1><p>{_text(openapi['info'].get('description', ''))}</p>"]
    parts.append("<p>The same for programs: <a href='openapi.json'>openapi.json</a>.</p>")
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            parts += _operation(method.upper(), path, operation, schemas)
    parts.append("<h2>Schemas</h2>")
    parts += [
        f"<h3 id='{_text(name)}'>{_text(name)}</h3>{_json(schema)}"
        for name, schema in schemas.items()
    ]
    head = f"<meta charset='utf-8'><title>{title}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>"


def _operation(
    method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]
) -> list[str]:
    parts = [f"<h2>{method} {_text(path)}</h2><p>{_text(operation.get('description', ''))}</p>"]
    for parameter in operation.get("parameters", []):
        parts.append(
            f"<p>{_text(parameter['in'])} <b>{_text(parameter['name'])}</b>: "
            f"{_kind(parameter['schema'])}</p>"
        )
    body = (
        operation.get("requestBody", {})
        .get("content", {})
        .get("application/json", {})
        .get("schema", {})
    )
    if body:
        parts.append(f"<p>Body: {_kind(body)}, for example</p>")
        parts += [
            _json(example) for example in schemas[body["$ref"].split("/")[-1]].get("examples", [])
        ]
    parts.append("<table><tr><th>status</th><th></th><th>answer</th></tr>")
    for status, answer in sorted(operation["responses"].items()):
        kinds = ", ".join(
            _kind(content.get("schema", {})) for content in answer.get("content", {}).values()
        )
        parts.append(
            f"<tr><td>{_text(status)}</td><td>{_text(answer['description'])}</td><td>{kinds}</td></tr>"
        )
    return [*parts, "</table>"]


def _kind(schema: dict[str, Any]) -> str:
    """Return what a value is, with a link to its schema if that has a name."""
    if "$ref" in schema:
        name = _text(schema["$ref"].split("/")[-1])
        return f"<a href='#{name}'>{name}</a>"
    return _text(schema.get("type", "text"))


def _json(value: Any) -> str:
    return f"<pre>{_text(json.dumps(value, indent=1 if len(str(value)) > 300 else None))}</pre>"


def _text(value: str) -> str:
    return escape(value, quote=True)
