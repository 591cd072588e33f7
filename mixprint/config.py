"""Parameters: `params.yaml` is read once and each section becomes a frozen dataclass."""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from mixprint.errors import ConfigError
from mixprint.schema import (
    checked_fields,
    checked_mapping,
    parse_json,
    parse_yaml,
    read_plain_file,
)

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
        return cls(**checked_fields(cls.section, checked_mapping(cls.section, values), cls))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the section from the JSON text that a pipeline passes to a step."""
        return cls.from_values(parse_json(text, cls.section, ConfigError))

    @classmethod
    def of_params(cls, params: Mapping[str, Any], path: Path) -> Self:
        """Take the section out of all of them, as `load_params` has read them.

        Raises:
            ConfigError: there is none, or see `from_values`.
        """
        if cls.section not in params:
            raise ConfigError(f"{path}: expected a section {cls.section!r}, found {sorted(params)}")
        return cls.from_values(params[cls.section])

    @classmethod
    def load(cls, path: Path, profile: str = BASE_PROFILE, overrides: Iterable[str] = ()) -> Self:
        """Read the section from `params.yaml` (see `load_params`)."""
        return cls.of_params(load_params(path, profile, overrides), path)

    def to_values(self) -> dict[str, Any]:
        """Return the section back as plain values, for fingerprints and tracking."""
        return asdict(self)


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name nested values by their paths: `{"a": {"b": 1}}` gives `("a.b", 1)`."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def load_params(
    path: Path,
    profile: str = BASE_PROFILE,
    overrides: Iterable[str] = (),
    *,
    layers: Iterable[Path] = (),
    section: str = "",
) -> dict[str, dict[str, Any]]:
    """Read `params.yaml`, lay a profile over it, then other files, then single values.

    Args:
        path: the YAML file: one mapping per step, and `profiles` with overlays; or JSON, if its
            name says so.
        profile: `tiny` for the file as it is, else the name of an overlay.
        overrides: `section.key=value` texts, the key of any depth; the value is read as YAML.
        layers: files that hold a part of the sections, each laid over those before it.
        section: of the task whose parameters are read: what layers and overrides name outside of
            any section belongs to it.

    Returns:
        section name -> values, without the overlays.

    Raises:
        ConfigError: a file, the profile or an override does not fit.
    """
    loaded = _sections(str(path), read_plain_file(path, ConfigError))
    overlays = checked_mapping(f"{path}: {PROFILES_KEY}", loaded.pop(PROFILES_KEY, {}))
    if profile != BASE_PROFILE:
        if profile not in overlays:
            known = [BASE_PROFILE, *overlays]
            raise ConfigError(f"{path}: unknown profile {profile!r}; known are {known}")
        _overlay(loaded, overlays[profile], f"{path}: profile {profile}")
    for layer in layers:
        values = checked_mapping(str(layer), read_plain_file(layer, ConfigError))
        _overlay(loaded, _sectioned(values, loaded, section), str(layer))
    for text in overrides:
        key, equals, value = text.partition("=")
        names = key.split(".")
        if not equals or (len(names) == 1 and not section):
            raise ConfigError(f"override {text!r}: expected section.key=value")
        where = f"override {text!r}"
        nested = parse_yaml(value, where)
        for name in reversed(names):
            nested = {name: nested}
        _overlay(loaded, _sectioned(nested, loaded, section), where)
    return loaded


def _sections(where: str, values: Any) -> dict[str, dict[str, Any]]:
    """Return a mapping of sections, each a mapping of names."""
    named = checked_mapping(where, values)
    return {name: checked_mapping(f"{where}: {name}", section) for name, section in named.items()}


def _sectioned(values: Mapping[str, Any], known: Container[str], section: str) -> dict[str, Any]:
    """Put what names no known section into the given one."""
    own = {name: value for name, value in values.items() if name not in known}
    if section not in known or not own:
        return dict(values)
    others = {name: value for name, value in values.items() if name in known}
    return {**others, section: own | checked_mapping(section, others.get(section, {}))}


def _overlay(params: dict[str, Any], overlay: Any, where: str) -> None:
    """Replace values in place; an overlay may not invent sections or keys."""
    for section, values in _sections(where, overlay).items():
        if section not in params:
            raise ConfigError(f"{where}: unknown section {section!r}")
        if unknown := sorted(values.keys() - params[section].keys()):
            known = ", ".join(params[section])
            raise ConfigError(
                f"{where}: unknown keys {unknown} in section {section!r}; known are {known}"
            )
        params[section] = _laid_over(params[section], values)


def _laid_over(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with others in their place; of mappings only what the others name."""
    merged = dict(values)
    for name, other in others.items():
        known = merged.get(name)
        if isinstance(known, Mapping) and isinstance(other, Mapping):
            other = _laid_over(known, other)
        merged[name] = other
    return merged
