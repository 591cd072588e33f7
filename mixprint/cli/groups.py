"""Options that belong together, taken by a command as one dataclass."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Any


def ungrouped(function: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter that is a dataclass by the dataclass's fields, for Typer to see.

    The options stand in the help where the dataclass stands in the signature.

    Args:
        function: its dataclasses hold options as `Annotated[<type>, typer.Option(...)]`.

    Returns:
        a function that takes the options one by one, by keyword.
    """
    groups: dict[str, Any] = {}
    options: list[Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            options += map(_option, fields(parameter.annotation))
        else:
            options.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    @wraps(function)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        function(**values)

    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    return run


def _option(field: Field[Any]) -> Parameter:
    """Return a field as a parameter with the same default."""
    default = Parameter.empty if field.default is MISSING else field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=field.type)
