"""The command `check-separator`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from mixprint.cli.options import (
    CheckpointConfigOption,
    CheckpointOption,
    DeviceOption,
    MethodOptions,
)
from mixprint.progress import echo


def check_separator(
    songs: Annotated[
        list[Path],
        typer.Argument(
            help="Songs with true stems: folders as of MUSDB18-HQ, or `data`.", show_default=False
        ),
    ],
    checkpoint: CheckpointOption = "default",
    config: CheckpointConfigOption = None,
    *,
    method: MethodOptions,
    duration: Annotated[
        float,
        typer.Option("--duration", min=1.0, help="Of what is taken of each song's middle, in s."),
    ] = 10.0,
    calibration_samples: Annotated[
        int,
        typer.Option(
            "--calibration_samples", min=0, help="Drawn for the calibration; 0 leaves it out."
        ),
    ] = 4,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Also write the findings, as JSON.", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Check a separator by what it makes of songs that are otherwise.

    Prints how much comes out as vocals where nobody sings, what becomes of the instrumental when
    others sing, whether the stems add up to the song, scale with it, and stay silent where it is;
    of a diffusion separator also what seeds change, and how sure its samples may be. It has limits
    that it keeps to.

    Exit code: 0 if all is well, 1 if a limit is not kept, 2 if an option is wrong.
    """
    from mixprint.separation.diffusion.counterfactual import (
        check_separator,
        is_kept,
        read_excerpts,
        summary,
    )
    from mixprint.separation.source import SeparatorSource
    from mixprint.stems import SAMPLE_RATE_HZ
    from mixprint.storage.atomic import write_json
    from mixprint.storage.outputs import check_place

    if out is not None:
        check_place(out, is_folder=False)
    source = SeparatorSource(
        checkpoint, config, device, method=method.method.value, sampling=method.sampling()
    )
    separator = source.load()
    excerpts = read_excerpts(songs, duration, SAMPLE_RATE_HZ)
    found = list(check_separator(separator, excerpts, num_samples=calibration_samples))
    means = summary(found)
    if out is not None:
        rows = [
            {"song": excerpt.name, **each} for excerpt, each in zip(excerpts, found, strict=True)
        ]
        values = {"separator": separator.fingerprint, "songs": rows, "summary": means}
        write_json(out, values)
    verdicts = {
        name: is_kept(name, values["worst"]) if method.is_diffusion else None
        for name, values in means.items()
    }
    echo(_table(means, verdicts))
    if False in verdicts.values():
        raise typer.Exit(1)


def _table(means: Mapping[str, Mapping[str, float]], verdicts: Mapping[str, bool | None]) -> str:
    from mixprint.separation.diffusion.counterfactual import CHECKS

    shown = {None: "", True: "kept", False: "NOT KEPT"}
    lines = [f"{'check':<13} {'mean':>8} {'worst':>8} {'limit':>8}"]
    for name, values in means.items():
        check = CHECKS[name]
        has_limit = verdicts[name] is not None
        limit = f"{check.most_db:.0f}" if has_limit else ""
        verdict = shown[verdicts[name]]
        mean, worst = (f"{values[key]:>8.2f}" for key in ("mean", "worst"))
        lines.append(f"{name:<13} {mean} {worst} {limit:>8} {verdict:<8} {check.what}")
    return "\n".join(lines)
