"""Options that several families of commands share."""

from typing import Annotated

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
