"""Separators by the method and the settings that a person chooses."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from mixprint.errors import ConfigError
from mixprint.separation.diffusion.separator import DiffusionSeparator, NumStems
from mixprint.separation.loading import DEFAULT, DIFFUSION, load_separator
from mixprint.separation.separator import Separator
from mixprint.stems import STEMS

log = logging.getLogger("mixprint.separation")

Method = Literal["scnet", "diffusion"]


@dataclass(frozen=True)
class SeparatorSource:
    """Origin of a separator (see `load_separator`), of which each process loads its own.

    Attributes:
        checkpoint: `default` for what is shipped of the method.
        config: see `load_separator`.
        device: see `load_separator`.
        precision: see `Separator.precision`.
        compile: see `Separator.compiled`.
        method: kind of separator; a checkpoint of another kind is refused.
        sampling: of `diffusion`: what is laid over the sampling that the checkpoint has, see
            `mixprint.separation.diffusion.settings.SamplingSettings.with_changes`.
        num_stems: of `diffusion`: 2 for vocals and instrumental, or 4; None: as the checkpoint.
    """

    checkpoint: str = DEFAULT
    config: str | None = None
    device: str = "auto"
    precision: str = "float32"
    compile: bool = False
    method: Method = "scnet"
    sampling: Mapping[str, Any] = field(default_factory=dict)
    num_stems: NumStems | None = None

    def __post_init__(self) -> None:
        """Refuse what would do nothing."""
        if self.method == "scnet" and self.sampling:
            raise ConfigError(
                f"expected {', '.join(self.sampling)} with the method diffusion only, found the "
                "method scnet, which draws no samples"
            )
        if self.method == "diffusion" and self.compile:
            raise ConfigError("compile: expected the method scnet, found diffusion")

    @classmethod
    def of_step(cls, values: Mapping[str, Any]) -> Self:
        """Read it from the section `separate` of the parameters, whose step needs four stems."""
        is_diffusion = values["method"] == "diffusion"
        return cls(
            checkpoint=values["checkpoint"],
            config=values["config"] or None,
            device=values["device"],
            precision=values["precision"],
            compile=values["compile"],
            method=values["method"],
            sampling=values["sampling"] if is_diffusion else {},
            num_stems=4 if is_diffusion else None,
        )

    def load(self) -> Separator:
        """Load it.

        Raises:
            CheckpointError: see `load_separator`.
            ConfigError: see `load_separator`; or the checkpoint is of another method, or does not
                fit the settings.
        """
        is_shipped = self.method == "diffusion" and self.checkpoint == DEFAULT
        checkpoint = DIFFUSION if is_shipped else self.checkpoint
        separator = load_separator(checkpoint, self.config, self.device)
        network = diffusion_network(separator)
        found = "scnet" if network is None else "diffusion"
        if found != self.method:
            raise ConfigError(
                f"{self.checkpoint}: expected a separator of the method {self.method}, found one "
                f"of the method {found}"
            )
        if network is not None:
            sampling = network.sampling.with_changes(self.sampling)
            network = network.configured(sampling=sampling, num_stems=self.num_stems)
            separator = Separator(network)
            if sampling.start == "mixture":
                log.warning(
                    "sampling.start: a sample begins with the mixture at %.1f dB above the noise, "
                    "and its vocals with it",
                    network.start_snr_db,
                )
        separator.precision = self.precision
        separator.compiled = self.compile
        return separator


def diffusion_network(separator: Separator) -> DiffusionSeparator | None:
    """Return the network of a diffusion separator; None of another one."""
    network = separator.network
    return network if isinstance(network, DiffusionSeparator) else None


def of_four_stems(separator: Separator) -> Separator:
    """Return a separator of vocals, bass, drums and other, as all that measures mixes needs.

    Args:
        separator: one that gives these stems, or a diffusion separator with a prior, which can
            divide its instrumental.

    Raises:
        ConfigError: it gives others.
    """
    if tuple(separator.stems) == STEMS:
        return separator
    network = diffusion_network(separator)
    if network is None or network.prior is None:
        raise ConfigError(
            f"expected a separator of {', '.join(STEMS)}, found one of {', '.join(separator.stems)}"
        )
    return Separator(network.configured(num_stems=4), precision=separator.precision)
