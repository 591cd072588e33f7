"""Parameters: `params.yaml` is read once and each section becomes a frozen dataclass."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
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
        hints = get_type_hints(cls)
        names = [f.name for f in fields(cls)]
        if unknown := sorted(values.keys() - set(names)):
            raise ConfigError(f"{cls.section}: unknown keys {unknown}; known are {sorted(names)}")
        if missing := sorted(set(names) - values.keys()):
            raise ConfigError(f"{cls.section}: missing keys {missing}")
        checked = {n: _checked(f"{cls.section}.{n}", values[n], hints[n]) for n in names}
        return cls(**checked)

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


def _checked(where: str, value: Any, hint: Any) -> Any:
    """Return the value as the field's type: `int`, `float`, `str`, `bool` or `tuple[T, ...]`."""
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}")
        element = get_args(hint)[0]
        return tuple(_checked(f"{where}[{i}]", item, element) for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}")
    return value
