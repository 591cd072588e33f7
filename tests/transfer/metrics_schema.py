"""The part of JSON Schema that metrics.schema.json uses; the package jsonschema is not needed."""

from typing import Any

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
KNOWN = {
    "$schema", "title", "description", "type", "enum", "const", "required", "properties", "items",
    "additionalProperties", "minimum", "maximum", "exclusiveMinimum", "minItems",
}  # fmt: skip


def problems(value: Any, schema: dict[str, Any], where: str = "metrics") -> list[str]:
    """List what does not fit; empty if all does."""
    assert schema.keys() <= KNOWN, f"{where}: the test does not know {schema.keys() - KNOWN}"
    found = []
    if "type" in schema:
        names = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        fits = [isinstance(value, TYPES[name]) for name in names]
        # In Python a bool is an int; in JSON it is not.
        if not any(fits) or (isinstance(value, bool) and "boolean" not in names):
            return [f"{where}: expected {names}, found {value!r}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is none of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: {value!r} is not {schema['const']!r}")
    if isinstance(value, int | float):
        if value < schema.get("minimum", value) or value > schema.get("maximum", value):
            found.append(f"{where}: {value} is out of range")
        if "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"]:
            found.append(f"{where}: {value} is out of range")
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            found.append(f"{where}: {len(value)} items are too few")
        for index, item in enumerate(value):
            found += problems(item, schema.get("items", {}), f"{where}[{index}]")
    if isinstance(value, dict):
        found += [f"{where}: no {name}" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, schema.get("additionalProperties", {}))
            if inner is False:
                found.append(f"{where}: unknown {name}")
            else:
                found += problems(item, inner, f"{where}.{name}")
    return found
