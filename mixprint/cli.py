"""The command line for a person with songs: `mixprint transfer`, `separate` and `features`.

Options are accepted with hyphens and with underscores. Heavy imports happen inside the commands,
so that `mixprint --help` answers at once.
"""

import csv
import json
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixprint.errors import CheckpointError, ConfigError, MixprintError
from mixprint.log import setup_logging

if TYPE_CHECKING:
    import torch

    from mixprint.encoder.checkpoint import Encoder
    from mixprint.features import Standardisation
    from mixprint.separation import Separator

REGISTRY_SCHEME = "models:/"
WEIGHTS = Path(__file__).parent / "weights"
SHIPPED_STANDARDISATION = WEIGHTS / "standardisation.json"
SHIPPED_ENCODER = WEIGHTS / "encoder"

app = typer.Typer(
    help="Learn what a mix sounds like, and give one song the mix of another.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
)


class OptimizeTarget(StrEnum):
    """What is brought to the target's."""

    features = "features"
    embeddings = "embeddings"


class TableFormat(StrEnum):
    """How features are printed."""

    json = "json"
    csv = "csv"


DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<index>")]
SeparatorOption = Annotated[
    str, typer.Option("--scnet_model", help="Separator checkpoint; `default` is the shipped one.")
]
SeparatorConfigOption = Annotated[
    Path | None, typer.Option("--scnet_config", help="YAML of a foreign separator checkpoint.")
]


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Set up logging, and end with a sentence instead of a traceback where a person can mend it."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        setup_logging()
        try:
            function(*args, **kwargs)
        except MixprintError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from error

    return run


@app.callback()
def main() -> None:
    """Learn what a mix sounds like, and give one song the mix of another."""


@app.command()
@_command
def transfer(
    input_audio: Annotated[Path, typer.Option("--input_audio", help="The song to be changed.")],
    target_audio: Annotated[
        Path, typer.Option("--target_audio", help="The song whose mix it is to get.")
    ],
    optimize_target: Annotated[
        OptimizeTarget, typer.Option("--optimize_target", help="What is brought to the target's.")
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Receives all results.")] = Path(
        "e2e_style_transfer_output"
    ),
    mixing_checkpoint: Annotated[
        str,
        typer.Option(
            "--mixing_checkpoint", help="Folder of an encoder; with features it only measures."
        ),
    ] = "",
    scnet_model: SeparatorOption = "default",
    scnet_config: SeparatorConfigOption = None,
    num_steps: Annotated[
        int, typer.Option("--num_steps", min=0, help="Most steps; it stops at a plateau.")
    ] = 500,
    lr: Annotated[float, typer.Option("--lr", help="Learning rate at the start.")] = 0.001,
    receptive_field: Annotated[
        float, typer.Option("--receptive_field", help="What the TCN sees at least, in s.")
    ] = 2.0,
    segment_duration: Annotated[
        float, typer.Option("--segment_duration", help="Length of the segment in s.")
    ] = 10.0,
    segment_offset: Annotated[
        float, typer.Option("--segment_offset", help="Start of the segment in both songs, in s.")
    ] = 0.0,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the TCN's start.")] = 1,
) -> None:
    """Give a song the mixing style of another one."""
    from mixprint.device import resolve_device
    from mixprint.fingerprint import file_sha256
    from mixprint.transfer.songs import Hyperparameters, load_segment, transfer_segments

    settings = Hyperparameters(
        optimize_target=optimize_target.value,
        num_steps=num_steps,
        lr=lr,
        receptive_field=receptive_field,
        segment_duration=segment_duration,
        segment_offset=segment_offset,
        seed=seed,
    )
    used_device = resolve_device(device)
    encoder = _load_encoder(mixing_checkpoint, used_device)
    if encoder is None and optimize_target is OptimizeTarget.embeddings:
        raise ConfigError(
            "--optimize_target embeddings: expected --mixing_checkpoint with an encoder, got none "
            f"(and mixprint ships none in {SHIPPED_ENCODER.name})"
        )
    standardisation = _load_standardisation(encoder)
    separator = _load_separator(scnet_model, scnet_config, used_device)
    input_segment, target_segment = (
        load_segment(
            path, settings, separator.separate, separator.fingerprint, content=file_sha256(path)
        )
        for path in (input_audio, target_audio)
    )
    metrics = transfer_segments(
        input_segment,
        target_segment,
        output_dir,
        settings,
        standardisation=standardisation,
        encoder=encoder,
        device=used_device,
    )
    for kind in ("feature", "embedding"):
        initial, final = metrics[f"initial_{kind}_distance"], metrics[f"final_{kind}_distance"]
        if initial is not None:
            typer.echo(f"{kind} distance: {initial:.3f} -> {final:.3f}")
    for note in metrics["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"listen to {output_dir / 'output_transferred.wav'}, or open report.html beside it")


@app.command()
@_command
def separate(
    songs: Annotated[list[Path], typer.Argument(help="Audio files.")],
    out: Annotated[Path, typer.Option("--out", help="Receives a folder per song.")],
    scnet_model: SeparatorOption = "default",
    scnet_config: SeparatorConfigOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Separate songs into vocals, bass, drums and other."""
    from mixprint.audio import read_audio, write_audio
    from mixprint.device import resolve_device
    from mixprint.stems import SAMPLE_RATE_HZ, unpack

    folders = [out / path.stem for path in songs]
    if len(set(folders)) < len(folders):
        raise ConfigError(f"songs: expected different names, got {[p.name for p in songs]}")
    separator = _load_separator(scnet_model, scnet_config, resolve_device(device))
    for path, folder in zip(songs, folders, strict=True):
        stems_SCT = separator.separate(read_audio(path))
        for stem, stem_CT in unpack(stems_SCT).items():
            # Float, because an estimated stem may exceed full scale.
            write_audio(folder / f"{stem}.wav", stem_CT, SAMPLE_RATE_HZ, subtype="FLOAT")
        typer.echo(str(folder))


@app.command()
@_command
def features(
    songs: Annotated[list[Path], typer.Argument(help="Audio files.")],
    table_format: Annotated[
        TableFormat, typer.Option("--format", help="How they are printed.")
    ] = TableFormat.json,
    segment_duration: Annotated[
        float, typer.Option("--segment_duration", help="Length of the segment in s.")
    ] = 10.0,
    segment_offset: Annotated[
        float, typer.Option("--segment_offset", help="Start of the segment in s.")
    ] = 0.0,
    scnet_model: SeparatorOption = "default",
    scnet_config: SeparatorConfigOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Print the 64 mixing features of a segment of each song, with their units."""
    import torch

    from mixprint.audio import read_audio
    from mixprint.device import resolve_device
    from mixprint.features import FEATURE_NAMES, FEATURE_UNITS, SCHEMA_VERSION, extract
    from mixprint.stems import SAMPLE_RATE_HZ

    separator = _load_separator(scnet_model, scnet_config, resolve_device(device))
    rows: dict[str, dict[str, float]] = {}
    for path in songs:
        audio_CT = read_audio(path, start_s=segment_offset, duration_s=segment_duration)
        stems_SCT = separator.separate(audio_CT)
        with torch.inference_mode():
            values_D = extract(stems_SCT.unsqueeze(0), SAMPLE_RATE_HZ).squeeze(0)
        rows[str(path)] = dict(zip(FEATURE_NAMES, values_D.tolist(), strict=True))
    units = dict(zip(FEATURE_NAMES, FEATURE_UNITS, strict=True))
    if table_format is TableFormat.json:
        result = {"schema_version": SCHEMA_VERSION, "units": units, "songs": rows}
        typer.echo(json.dumps(result, indent=2, ensure_ascii=False))
        return
    writer = csv.writer(sys.stdout)
    writer.writerow(["feature", "unit", *rows])
    for name in FEATURE_NAMES:
        writer.writerow([name, units[name], *(row[name] for row in rows.values())])


def _load_encoder(checkpoint: str, device: "torch.device") -> "Encoder | None":
    """Load the encoder that is named, else the shipped one, else none."""
    from mixprint.encoder.checkpoint import load_checkpoint

    if checkpoint.startswith(REGISTRY_SCHEME):
        raise ConfigError(
            f"--mixing_checkpoint {checkpoint}: expected a folder; the library knows no registry. "
            "The pipeline's transfer component resolves such names"
        )
    if checkpoint:
        return load_checkpoint(Path(checkpoint), device)
    return load_checkpoint(SHIPPED_ENCODER, device) if SHIPPED_ENCODER.is_dir() else None


def _load_standardisation(encoder: "Encoder | None") -> "Standardisation":
    """Take the encoder's standardisation, else the shipped one."""
    from mixprint.features import Standardisation

    if encoder is not None:
        return encoder.standardisation
    if not SHIPPED_STANDARDISATION.is_file():
        raise CheckpointError(
            f"{SHIPPED_STANDARDISATION}: expected the shipped standardisation, found none; "
            "give an encoder by --mixing_checkpoint"
        )
    return Standardisation.load(SHIPPED_STANDARDISATION)


def _load_separator(checkpoint: str, config: Path | None, device: "torch.device") -> "Separator":
    from mixprint.separation import load_separator

    source = checkpoint if checkpoint == "default" else Path(checkpoint)
    return load_separator(source, config, device)
