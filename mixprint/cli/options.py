"""Options that several families of commands share."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Annotated, Any

import typer

DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<index>")]
SeparatorOption = Annotated[
    str, typer.Option("--scnet_model", help="Separator checkpoint; `default` is the shipped one.")
]
SeparatorConfigOption = Annotated[
    str | None, typer.Option("--scnet_config", help="YAML of a foreign separator checkpoint.")
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace what another call has written there; nothing else ever is."
    ),
]
EncoderOption = Annotated[
    str,
    typer.Option(
        "--mixing_checkpoint",
        help="An encoder: a folder, or models:/name@champion. Default: the shipped one.",
        show_default=False,
    ),
]

CheckpointOption = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        help="`default` is the shipped one; else a file, or https://...#sha256=<its hash>.",
    ),
]
CheckpointConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="YAML of a published checkpoint; a file or such a URL."),
]


class MethodName(StrEnum):
    """Kinds of separators."""

    scnet = "scnet"
    diffusion = "diffusion"


class Sampler(StrEnum):
    """Samplers of a diffusion separator."""

    dpm = "dpm"
    ddim = "ddim"
    ddpm = "ddpm"


class Start(StrEnum):
    """Starts of the samples of a diffusion separator."""

    noise = "noise"
    prior = "prior"
    mixture = "mixture"


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """Options of the kind of separator, and of how one by diffusion draws.

    What is None stays as the checkpoint has it.
    """

    method: Annotated[
        MethodName,
        typer.Option(
            "--method", help="Kind of separator; the options that follow are for diffusion."
        ),
    ] = MethodName.scnet
    sampler: Annotated[
        Sampler | None,
        typer.Option("--sampler", help="Default: as in the checkpoint.", show_default=False),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            help="Passes of the network, 1 to 1000. 1: the mean of what fits. Default: as in the "
            "checkpoint.",
            show_default=False,
        ),
    ] = None
    eta: Annotated[
        float | None,
        typer.Option(
            "--eta",
            help="Of ddim: part of the noise that is drawn anew, 0 to 1.",
            show_default=False,
        ),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(
            "--samples",
            help="Draw so many, and write their mean and how far they differ.",
            show_default=False,
        ),
    ] = None
    start: Annotated[
        Start | None,
        typer.Option(
            "--start",
            help="Begin with noise, or with the noisy instrumental of the SCNet (prior) or the "
            "noisy mixture.",
            show_default=False,
        ),
    ] = None
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            help="Of another start than noise: how much noise, below 1; 0.3 unless the checkpoint "
            "has such a start.",
            show_default=False,
        ),
    ] = None
    spacing: Annotated[
        float | None,
        typer.Option(
            "--spacing",
            help="Of the steps: 1 for equal ones, up to 10 for shorter and shorter ones.",
            show_default=False,
        ),
    ] = None
    prior: Annotated[
        bool | None,
        typer.Option(
            "--prior/--no-prior",
            help="Show the network the SCNet's instrumental at each step.",
            show_default=False,
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of the noise.", show_default=False)
    ] = None

    @property
    def is_diffusion(self) -> bool:
        """Tell whether samples are drawn."""
        return self.method is MethodName.diffusion

    def sampling(self) -> dict[str, Any]:
        """Return what is to be another than in the checkpoint, by name."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "method"}
        return {
            name: value.value if isinstance(value, StrEnum) else value
            for name, value in given.items()
            if value is not None
        }
