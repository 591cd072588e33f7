"""Plain values out of files: parsed within limits, then checked for types, ranges and lengths.

Whatever a file says is read through here before anything is allocated or looped over because of
it. `parse_json` and `parse_yaml` bound size, depth and integers; `checked` turns the values into
frozen dataclasses whose hints say what is allowed:

    @dataclass(frozen=True, kw_only=True)
    class Window:
        rate_hz: Annotated[int, Range(8_000, 192_000)]
        starts_s: Annotated[tuple[float, ...], Length(1, 100)]
        kind: Literal["hann", "rectangular"] = "hann"

    window = read_record(path, Window)
"""

import json
import math
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mixprint.errors import ConfigError, DataError, MixprintError

# The largest files of this kind are tables of ten thousand transfers, of some megabytes.
MAX_FILE_BYTES = 32 << 20
# Some kB are usual, and PyYAML reads about 100 kB/s.
MAX_YAML_BYTES = 1 << 18
MAX_DEPTH = 64
MAX_INTEGER = 1 << 64
# Aliases of aliases make a small file stand for one that no memory holds.
MAX_ALIASES = 16
NUM_SHOWN = 80
JSON_SUFFIX = ".json"

# What PyYAML's constructors raise on odd scalars, such as `!!int ""` and `!!bool maybe`.
_BAD_YAML = (
    yaml.YAMLError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

_Record = TypeVar("_Record")

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = NUM_SHOWN
_SHORT.maxlevel = 3


@dataclass(frozen=True)
class Range:
    """Range of a number, both ends included; beside a type in `Annotated`."""

    lowest: float
    highest: float = math.inf

    def fault(self, value: Any) -> str | None:
        """Say what was expected in place of a number out of the range."""
        if self.lowest <= value <= self.highest:
            return None
        if self.highest == math.inf:
            return f"{self.lowest:g} or more"
        return f"{self.lowest:g} to {self.highest:g}"


Part = Annotated[float, Range(0.0, 1.0)]
"""Number from 0 to 1, both included."""


@dataclass(frozen=True)
class Above:
    """Range of a number whose lower end is excluded; beside a type in `Annotated`."""

    limit: float

    def fault(self, value: Any) -> str | None:
        """Say what was expected in place of a number that is not above the limit."""
        return None if value > self.limit else f"a value above {self.limit:g}"


@dataclass(frozen=True)
class Length:
    """Number of items of a list, a mapping or a text; beside a type in `Annotated`."""

    least: int
    most: int

    def fault(self, value: Any) -> str | None:
        """Say what was expected in place of a value of another length."""
        if self.least <= len(value) <= self.most:
            return None
        many = f"{self.least}" if self.least == self.most else f"{self.least} to {self.most}"
        return f"a length of {many}"


Number = int | float
Count = Annotated[int, Range(0, 1 << 62)]


class WithOthers:
    """Base of records whose files may hold other keys too; these are left out."""


# Beyond it a number is an infinity to a network.
Float32 = Annotated[float, Range(-3e38, 3e38)]
SAMPLE_RATES_HZ = Range(4_000, 384_000)
Sha256 = Annotated[str, Length(64, 64)]


def shortened(value: Any) -> str:
    """Show a value of any size in a message."""
    text = _SHORT.repr(value)
    return text if len(text) <= NUM_SHOWN else f"{text[:NUM_SHOWN]}..."


def read_text(
    path: Path | str, error: type[MixprintError] = DataError, max_bytes: int = MAX_FILE_BYTES
) -> str:
    """Read a text file in UTF-8, up to a size.

    Args:
        path: the file.
        error: what is raised.
        max_bytes: its size at most.

    Raises:
        MixprintError: of that kind; it is missing, unreadable, larger or no UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise error(f"{path}: expected at most {max_bytes} bytes, found more")
        return content.decode("utf-8-sig")
    except (OSError, ValueError) as fault:
        raise error(f"{path}: expected a readable file, found: {fault}") from fault


def parse_json(text: str | bytes, where: Path | str, error: type[MixprintError] = DataError) -> Any:
    """Parse JSON; NaN, infinities, huge integers, deep nesting and doubled keys are refused.

    Args:
        text: the JSON.
        where: where it comes from, for messages.
        error: what is raised.

    Raises:
        MixprintError: of that kind; it is no such JSON.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        _check_limits(value)
    except (ValueError, RecursionError) as fault:
        raise error(f"{where}: expected a readable JSON file, found: {fault}") from fault
    return value


def parse_yaml(
    text: str,
    where: Path | str,
    error: type[MixprintError] = ConfigError,
    *,
    has_tuples: bool = False,
    what: str = "YAML",
) -> Any:
    """Parse YAML; no tag runs anything, and few aliases and no deep nesting are allowed.

    Args:
        text: the YAML.
        where: where it comes from, for messages.
        error: what is raised.
        has_tuples: whether the tag `!!python/tuple` is read, as published configurations use it.
        what: was expected, for messages.

    Raises:
        MixprintError: of that kind; it is no such YAML.
    """
    if len(text) > MAX_YAML_BYTES:
        raise error(f"{where}: expected at most {MAX_YAML_BYTES} characters of YAML, found more")
    try:
        # Both derive from the safe loader.
        value = yaml.load(text, _TupleLoader if has_tuples else _PlainLoader)
        _check_limits(value)
    except _BAD_YAML as fault:
        raise error(f"{where}: expected {what}, found: {_told(fault)}") from fault
    return value


def read_plain_file(
    path: Path | str, error: type[MixprintError] = DataError, *, has_tuples: bool = False
) -> Any:
    """Read a JSON file, or YAML where its name does not say JSON; see `parse_json`, `parse_yaml`.

    YAML 1.1 reads 1e-05 as text, and that is how JSON writes the number.

    Raises:
        MixprintError: of that kind; it cannot be read.
    """
    if Path(path).suffix == JSON_SUFFIX:
        return parse_json(read_text(path, error), path, error)
    text = read_text(path, error, MAX_YAML_BYTES)
    return parse_yaml(text, path, error, has_tuples=has_tuples, what="a readable YAML file")


def read_record(path: Path, cls: type[_Record], error: type[MixprintError] = DataError) -> _Record:
    """Read a file into a frozen dataclass.

    Args:
        path: JSON, or YAML where its name does not say JSON.
        cls: the dataclass.
        error: what is raised.

    Raises:
        MixprintError: of that kind; the file is unreadable, or a value does not fit.
    """
    return as_record(read_plain_file(path, error), path, cls, error)


def read_mapping(
    path: Path, error: type[MixprintError] = DataError, *, has_tuples: bool = False
) -> dict[str, Any]:
    """Read a file that holds a mapping with names as keys; see `read_plain_file`.

    Raises:
        MixprintError: of that kind; it cannot be read, or holds another value.
    """
    try:
        return checked_mapping("", read_plain_file(path, error, has_tuples=has_tuples))
    except ConfigError as fault:
        raise error(f"{path}: {fault}") from fault


def as_record(
    value: Any, where: Path | str, cls: type[_Record], error: type[MixprintError] = DataError
) -> _Record:
    """Turn what a file held into a frozen dataclass; see `read_record`.

    Raises:
        MixprintError: of that kind; a value does not fit.
    """
    try:
        record: _Record = checked("", value, cls)
    except ConfigError as fault:
        raise error(f"{where}: {fault}") from fault
    return record


def checked(where: str, value: Any, hint: Any) -> Any:
    """Turn what YAML or JSON gave into the type that is asked for.

    Args:
        where: path of the value, for messages.
        value: as it was read.
        hint: `int`, `float` (finite), `str`, `bool`, `Any`, `Literal[...]`, `T | None`,
            `int | float`, `tuple[T, ...]`, `Mapping[str, T]`, a dataclass with such fields, or any
            of them in `Annotated` with `Range`, `Above` or `Length`.

    Raises:
        ConfigError: it does not fit; names the path.
    """
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        built = checked(where, value, arguments[0])
        for limit in arguments[1:]:
            if (expected := limit.fault(built)) is not None:
                raise _misfit(where, expected, value)
        return built
    if origin in (Union, types.UnionType):
        if type(value) in arguments and value is not None:
            return checked(where, value, type(value))
        inner, *_ = (argument for argument in arguments if argument is not type(None))
        return None if value is None and type(None) in arguments else checked(where, value, inner)
    if origin is Literal:
        if not any(type(value) is type(known) and value == known for known in arguments):
            raise _misfit(where, f"one of {list(arguments)}", value)
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _misfit(where, "a list", value)
        element = arguments[0]
        return tuple(checked(f"{where}[{i}]", item, element) for i, item in enumerate(value))
    if origin is Mapping:
        named = checked_mapping(where, value)
        return {k: checked(_inside(where, k), item, arguments[1]) for k, item in named.items()}
    if is_dataclass(hint):
        return _built(where, value, hint)
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint:
        raise _misfit(where, hint.__name__, value)
    if hint is float and not math.isfinite(value):
        raise _misfit(where, "a finite number", value)
    return value


def checked_fields(where: str, values: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """Turn a mapping into the arguments of a dataclass; see `checked`.

    Fields with a default may be missing.

    Raises:
        ConfigError: a key is unknown or missing, or a value does not fit.
    """
    names = [field.name for field in fields(cls)]
    needed = {f.name for f in fields(cls) if f.default is f.default_factory is MISSING}
    prefix = f"{where}: " if where else ""
    unknown = sorted(map(shortened, values.keys() - set(names)))
    if unknown and not issubclass(cls, WithOthers):
        raise ConfigError(f"{prefix}unknown keys [{', '.join(unknown)}]; known are {sorted(names)}")
    if missing := sorted(needed - values.keys()):
        raise ConfigError(f"{prefix}missing keys {missing}")
    hints = get_type_hints(cls, include_extras=True)
    return {
        name: checked(_inside(where, name), values[name], hints[name])
        for name in names
        if name in values
    }


def checked_mapping(where: str, value: Any) -> dict[str, Any]:
    """Return a mapping with names as keys.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _misfit(where, "a mapping with names as keys", value)
    return dict(value)


def _built(where: str, value: Any, cls: Any) -> Any:
    """Build a dataclass, whose own checks say what of it does not fit together."""
    arguments = checked_fields(where, checked_mapping(where, value), cls)
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error


def _misfit(where: str, expected: str, value: Any) -> ConfigError:
    prefix = f"{where}: " if where else ""
    return ConfigError(f"{prefix}expected {expected}, found {shortened(value)}")


def _inside(where: str, name: str) -> str:
    name = name if len(name) <= NUM_SHOWN else f"{name[:NUM_SHOWN]}..."
    return f"{where}.{name}" if where else name


def _check_limits(value: Any) -> None:
    """Refuse deep nesting and huge integers, without recursion.

    Raises:
        ValueError: there is one.
    """
    level: Sequence[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                inner.extend(item.keys())
                inner.extend(item.values())
            elif isinstance(item, list | tuple | set):
                inner.extend(item)
            elif type(item) is int and not -MAX_INTEGER <= item <= MAX_INTEGER:
                raise ValueError("an integer of more than 64 bits")
        if not inner:
            return
        level = inner
    raise ValueError(f"more than {MAX_DEPTH} levels of nesting")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object; of two values of one key, none can be trusted."""
    built = dict(pairs)
    if len(built) != len(pairs):
        [(twice, _), *_] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shortened(twice)} twice")
    return built


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text}, which is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"a number beyond any float: {text[:NUM_SHOWN]}")
    return number


def _told(fault: Exception) -> str:
    """Describe what PyYAML raised; its constructors' own errors do not say what is wrong."""
    if isinstance(fault, yaml.YAMLError | ValueError):
        return str(fault)
    return f"a value that does not fit its type ({type(fault).__name__})"


class _PlainLoader(yaml.SafeLoader):
    """Reads plain YAML with few aliases and bounded depth."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._num_aliases = 0
        self._depth = 0
        self._finished: set[int] = set()

    def compose_node(self, parent: yaml.nodes.Node | None, index: Any) -> yaml.nodes.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            self._num_aliases += 1
            if self._num_aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases")
            named = self.anchors.get(self.peek_event().anchor)
            if named is not None and id(named) not in self._finished:
                raise yaml.YAMLError("an alias to what it is part of")
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_DEPTH} levels of nesting")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._finished.add(id(node))
        return node


class _TupleLoader(_PlainLoader):
    """Reads, beyond plain YAML, the one tag that published configurations use."""


def _construct_tuple(loader: yaml.SafeLoader, node: yaml.nodes.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node))


_TupleLoader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)
