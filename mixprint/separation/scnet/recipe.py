"""The recipe of a separator's training: what is trained, on what, and how."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mixprint.errors import ConfigError
from mixprint.schema import checked_mapping, parse_yaml, read_plain_file
from mixprint.separation.material.pool import PoolConfig
from mixprint.separation.material.remix import RemixConfig
from mixprint.separation.scnet.model import SCNetConfig

PRECISIONS = ("float32", "bfloat16")
OPTIMISERS = ("muon", "adamw")
DEFAULT_VARIANT = "masked"
# Frames of half a window, not a quarter: half the work, and the shipped model is small.
DEFAULT_MODEL = SCNetConfig(dims=(4, 16, 32, 64), hop_size=2048, num_dplayer=6)
Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How an SCNet is trained. The defaults are the recipe of the separator that mixprint ships.

    Attributes:
        segment_s: length of an example.
        batch_size: examples per step, over all processes together.
        optimiser: `muon` for matrices and kernels with AdamW for all else, or `adamw`.
        learning_rate: of AdamW, at its highest.
        muon_factor: Muon's learning rate is that of AdamW times this.
        final_fraction: part of it that is left at the end of the cosine.
        warmup_steps: steps to the highest.
        weight_decay: of either.
        betas: of AdamW.
        max_grad_norm: gradients are scaled down to this.
        ema_decay: of the averaged weights, which are those that are validated and exported.
        waveform_weight: weight of the L1 distance of waveforms, beside the spectral loss.
        precision: `float32`, or `bfloat16` for autocast.
        max_steps: length of the training; 0: `max_minutes` alone decides.
        max_minutes: length in minutes of work, over all resumed runs; 0: `max_steps` decides.
            Only with `max_steps` alone does a training give the same weights again.
        log_steps: steps between two lines of the log.
        save_steps: steps between two saved states.
        valid_steps: steps between two validations.
        num_valid: compositions that are held out; of MUSDB18-HQ its own validation split.
        max_valid_songs: of their songs, so many are validated on.
        valid_s: the middle of each, so long; 0: all of it.
        max_bad_fraction: songs that cannot be used are left out up to this part.
        seed: of weights and examples.
        num_workers: processes that make examples ahead of time; 0: the training itself makes
            them. It changes no example.
    """

    segment_s: float = 4.0
    batch_size: int = 3
    optimiser: str = "muon"
    learning_rate: float = 5.0e-4
    muon_factor: float = 4.0
    final_fraction: float = 0.02
    warmup_steps: int = 100
    weight_decay: float = 1.0e-3
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    waveform_weight: float = 0.0
    precision: str = "bfloat16"
    max_steps: int = 0
    max_minutes: float = 170.0
    log_steps: int = 50
    save_steps: int = 250
    valid_steps: int = 500
    num_valid: int = 6
    max_valid_songs: int = 8
    valid_s: float = 0.0
    max_bad_fraction: float = 0.1
    seed: int = 1
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"training.precision: expected {PRECISIONS}, found {self.precision}")
        if self.optimiser not in OPTIMISERS:
            raise ConfigError(f"training.optimiser: expected {OPTIMISERS}, found {self.optimiser}")
        if self.max_steps <= 0 and self.max_minutes <= 0:
            raise ConfigError("training: expected max_steps or max_minutes above 0, found neither")
        for name in (
            "segment_s",
            "batch_size",
            "learning_rate",
            "muon_factor",
            "max_grad_norm",
            "log_steps",
            "save_steps",
            "valid_steps",
        ):
            if not getattr(self, name) > 0:  # NaN, too
                raise ConfigError(
                    f"training.{name}: expected a value above 0, found {getattr(self, name)}"
                )
        for name in ("num_valid", "max_valid_songs", "valid_s", "num_workers"):
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"training.{name}: expected 0 or more, found {getattr(self, name)}"
                )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay: expected 0 to 1, found {self.ema_decay}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training: what is trained, on what, and how.

    Attributes:
        variant: of the SCNet; None: that of the checkpoint that the training starts from, and
            without one that of the shipped separator.
        model: its architecture; None: likewise.
        remix: how examples are made.
        songs: which songs there are, when they are made on the fly.
        training: everything else.
    """

    variant: str | None = None
    model: SCNetConfig | None = None
    remix: RemixConfig = field(default_factory=RemixConfig)
    songs: PoolConfig = field(default_factory=PoolConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Recipe":
        """Read a recipe; what is not named keeps its default.

        Raises:
            ConfigError: a section or a key is unknown, or a value does not fit.
        """
        if unknown := sorted(values.keys() - {f.name for f in fields(cls)}):
            raise ConfigError(f"recipe: unknown sections {unknown}")
        for name, section in values.items():
            if name != "variant" and not isinstance(section, Mapping | None):
                raise ConfigError(f"recipe.{name}: expected a mapping, found {section!r}")
        default = cls()
        model = values.get("model")
        return cls(
            variant=values.get("variant"),
            model=SCNetConfig.from_values({**DEFAULT_MODEL.to_values(), **model})
            if model
            else None,
            remix=_section("remix", default.remix, values.get("remix") or {}),
            songs=_section("songs", default.songs, values.get("songs") or {}),
            training=_section("training", default.training, values.get("training") or {}),
        )

    @classmethod
    def load(cls, paths: Iterable[Path], overrides: Iterable[str] = ()) -> "Recipe":
        """Read a recipe from YAML or JSON files, each laid over those before it.

        Args:
            paths: the files.
            overrides: `section.key=value` texts, laid over the files; the value is read as YAML.

        Raises:
            ConfigError: a file or a text cannot be read, or see `from_values`.
        """
        values: dict[str, Any] = {}
        for path in paths:
            loaded = read_plain_file(path, ConfigError)
            for name, section in checked_mapping(str(path), loaded).items():
                _lay_over(values, name, section)
        for text in overrides:
            key, equals, value = text.partition("=")
            name, dot, inner = key.partition(".")
            if not equals:
                raise ConfigError(f"override {text!r}: expected section.key=value")
            parsed = parse_yaml(value, f"override {text!r}")
            _lay_over(values, name, {inner: parsed} if dot else parsed)
        return cls.from_values(values)

    def to_values(self) -> dict[str, Any]:
        """Return the recipe back as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values

    def completed(self, variant: str, model: SCNetConfig) -> "Recipe":
        """Fill in what the recipe leaves to the checkpoint that the training starts from."""
        return dataclasses.replace(self, variant=self.variant or variant, model=self.model or model)


def _lay_over(values: dict[str, Any], name: str, section: Any) -> None:
    if isinstance(section, Mapping) and isinstance(values.get(name), Mapping):
        section = {**values[name], **section}
    values[name] = section


def _section(name: str, default: Section, values: Mapping[str, Any]) -> Section:
    """Lay values over a section's defaults, and check their types by them."""
    known: dict[str, Any] = dict(vars(default))
    if unknown := sorted(values.keys() - known.keys()):
        raise ConfigError(f"{name}: unknown keys {unknown}; known are {sorted(known)}")
    for key, value in values.items():
        expected = type(known[key])
        if expected is tuple and isinstance(value, list | tuple):
            known[key] = tuple(float(element) for element in value)
        elif expected is float and type(value) is int:
            known[key] = float(value)
        elif type(value) is expected:
            known[key] = value
        else:
            raise ConfigError(f"{name}.{key}: expected {expected.__name__}, found {value!r}")
    return type(default)(**known)
