"""Parameters: `params.yaml` is read once and each section becomes a frozen dataclass."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

import yaml

from mixprint.errors import ConfigError

PROFILES_KEY = "profiles"
BASE_PROFILE = "tiny"


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """The parameters of one step: subclass it with one typed field per key of the section.

    There are no defaults in the subclasses: every number lives in `params.yaml`.
    """

    section: ClassVar[str]

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Check a section's values and freeze them.

        Args:
            values: the section as read from YAML or JSON.

        Raises:
            ConfigError: a key is unknown or missing, or a value has the wrong type.
        """
        return cls(**checked_fields(cls.section, values, cls))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the section from the JSON text that a pipeline passes to a step."""
        return cls.from_values(json.loads(text))

    @classmethod
    def load(cls, path: Path, profile: str = BASE_PROFILE, overrides: Iterable[str] = ()) -> Self:
        """Read the section from `params.yaml` (see `load_params`)."""
        params = load_params(path, profile, overrides)
        if cls.section not in params:
            raise ConfigError(f"{path}: expected a section {cls.section!r}, found {sorted(params)}")
        return cls.from_values(params[cls.section])

    def to_values(self) -> dict[str, Any]:
        """Give the section back as plain values, for fingerprints and tracking."""
        return asdict(self)


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name nested values by their paths: `{"a": {"b": 1}}` gives `("a.b", 1)`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def load_params(
    path: Path, profile: str = BASE_PROFILE, overrides: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """Read `params.yaml`, lay a profile over it, then single values.

    Args:
        path: the YAML file: one mapping per step, and `profiles` with overlays; or JSON, if its
            name says so.
        profile: `tiny` for the file as it is, else the name of an overlay.
        overrides: `section.key=value` texts; the value is read as YAML.

    Returns:
        section name -> values, without the overlays.

    Raises:
        ConfigError: the file, the profile or an override does not fit.
    """
    try:
        text = path.read_text()
        # YAML reads 1e-05 as text, and that is how JSON writes the number.
        loaded = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: expected a readable YAML file, found: {error}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(loaded).__name__}")
    overlays = loaded.pop(PROFILES_KEY, {})
    if profile != BASE_PROFILE:
        if profile not in overlays:
            known = [BASE_PROFILE, *overlays]
            raise ConfigError(f"{path}: unknown profile {profile!r}; known are {known}")
        _overlay(loaded, overlays[profile], f"{path}: profile {profile}")
    for text in overrides:
        key, equals, value = text.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot):
            raise ConfigError(f"override {text!r}: expected section.key=value")
        _overlay(loaded, {section: {name: yaml.safe_load(value)}}, f"override {text!r}")
    return loaded


def _overlay(params: dict[str, Any], overlay: Mapping[str, Any], where: str) -> None:
    """Replace values in place; an overlay may not invent sections or keys."""
    for section, values in overlay.items():
        if section not in params:
            raise ConfigError(f"{where}: unknown section {section!r}")
        if unknown := sorted(values.keys() - params[section].keys()):
            raise ConfigError(f"{where}: unknown keys {unknown} in section {section!r}")
        params[section].update(values)


def checked(where: str, value: Any, hint: Any) -> Any:
    """Turn what YAML or JSON gave into the type that is asked for.

    Args:
        where: path of the value, for messages.
        value: as it was read.
        hint: `int`, `float`, `str`, `bool`, `tuple[T, ...]`, `Mapping[str, T]`, or a dataclass with
            such fields.

    Raises:
        ConfigError: it does not fit; names the path.
    """
    if is_dataclass(hint):
        built = checked_fields(where, checked_mapping(where, value), hint)
        try:
            return hint(**built)  # type: ignore[operator]
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}" if where else str(error)) from error
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        element = get_args(hint)[0]
        return tuple(checked(f"{where}[{i}]", item, element) for i, item in enumerate(value))
    if get_origin(hint) is Mapping:
        element = get_args(hint)[1]
        named = checked_mapping(where, value)
        return {name: checked(f"{where}.{name}", item, element) for name, item in named.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def checked_fields(where: str, values: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """Turn a mapping into the arguments of a dataclass; see `checked`.

    Raises:
        ConfigError: a key is unknown or missing, or a value does not fit.
    """
    names = [field.name for field in fields(cls)]
    prefix = f"{where}: " if where else ""
    if unknown := sorted(values.keys() - set(names)):
        raise ConfigError(f"{prefix}unknown keys {unknown}; known are {sorted(names)}")
    if missing := sorted(set(names) - values.keys()):
        raise ConfigError(f"{prefix}missing keys {missing}")
    hints = get_type_hints(cls)
    dot = f"{where}." if where else ""
    return {name: checked(f"{dot}{name}", values[name], hints[name]) for name in names}


def checked_mapping(where: str, value: Any) -> dict[str, Any]:
    """Give a mapping with names as keys.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{where}: expected a mapping with names as keys, found {value!r}")
    return dict(value)
