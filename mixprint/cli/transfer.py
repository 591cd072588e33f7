"""The command line for a person with songs: `mixprint transfer`, `separate`, `features` and more.

Options are accepted with hyphens and with underscores. Heavy imports happen inside the commands,
so that `mixprint --help` answers at once.
"""

import csv
import io
import json
import logging
import os
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from functools import partial, wraps
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixprint.config import BASE_PROFILE, load_params
from mixprint.errors import AudioError, CheckpointError, ConfigError, MixprintError
from mixprint.log import setup_logging
from mixprint.machine.processes import SIGNAL_BASE, sigterm_exits
from mixprint.progress import discard, echo, progress
from mixprint.storage.atomic import write_errors_named

if TYPE_CHECKING:
    import torch

    from mixprint.encoder.checkpoint import Encoder
    from mixprint.features import Standardisation
    from mixprint.separation import Separator
    from mixprint.transfer.jobs import Models
    from mixprint.transfer.settings import Hyperparameters
    from mixprint.zero_shot.checkpoint import ZeroShotModel

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED_STANDARDISATION = WEIGHTS / "standardisation.json"
SHIPPED_ENCODER = WEIGHTS / "encoder"

# As in sysexits.h: an error inside the program.
FAULT_CODE = 70
DEBUG_VARIABLE = "MIXPRINT_DEBUG"

log = logging.getLogger("mixprint")

app = typer.Typer(
    help="Learn what a mix sounds like, and give one song the mix of another.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"token_normalize_func": lambda token: token.replace("_", "-")},
)


class Aim(StrEnum):
    """Which features a transfer aims at."""

    style = "style"
    target = "target"


class ApplyTo(StrEnum):
    """What of the input is written."""

    segment = "segment"
    song = "song"


class Loudness(StrEnum):
    """How loud the output is."""

    style = "style"
    free = "free"
    keep = "keep"
    match = "match"


class TableFormat(StrEnum):
    """How features are printed."""

    json = "json"
    csv = "csv"


class Task(StrEnum):
    """Steps whose cost can be estimated."""

    separate = "separate"


class EstimateFormat(StrEnum):
    """How an estimate is printed."""

    table = "table"
    json = "json"


class Container(StrEnum):
    """Format of stem files."""

    wav = "wav"
    flac = "flac"


class BitDepth(StrEnum):
    """Sample format of stem files."""

    int16 = "16"
    int24 = "24"
    float32 = "float32"


class Precision(StrEnum):
    """Arithmetic of the network."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Residual(StrEnum):
    """What becomes of the difference between a song and its stems' sum."""

    none = "none"
    stem = "stem"
    distribute = "distribute"


# WAV keeps every level as it is; FLAC has no float.
DEFAULT_BIT_DEPTHS = {Container.wav: "float32", Container.flac: "24"}


DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<index>")]
SeparatorOption = Annotated[
    str, typer.Option("--scnet_model", help="Separator checkpoint; `default` is the shipped one.")
]
SeparatorConfigOption = Annotated[
    str | None, typer.Option("--scnet_config", help="YAML of a foreign separator checkpoint.")
]
# Options of both `transfer` and `transfer-batch`.
OptimizeTargetOption = Annotated[
    list[str],
    typer.Option(
        "--optimize_target",
        help="What is brought to the target's: features or embeddings. Several, repeated or "
        "with commas, are each done in a folder of their own.",
    ),
]
OutputDirOption = Annotated[Path, typer.Option("--output_dir", help="Receives all results.")]
MethodOption = Annotated[
    list[str],
    typer.Option(
        "--method",
        help="console (gain, EQ, dynamics, balance, width are fitted), tcn (a free network), "
        "optimise (one after the other), or "
        "zero-shot (one pass of a trained network). Several: each.",
    ),
]
AimOption = Annotated[
    Aim,
    typer.Option(
        "--aim",
        help="Which features are aimed at: those that the input is expected to have in the "
        "target's mix (style), or the target's own, its music's too (target).",
    ),
]
ApplyToOption = Annotated[ApplyTo, typer.Option("--apply_to", help="What of the input is written.")]
AmountOption = Annotated[
    list[str] | None,
    typer.Option(
        "--amount",
        help="How much is done: 0 nothing, 1 all that was found, above 1 more. For single "
        "stems drums=0.5; several, repeated or with commas.",
        show_default="1",
    ),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option("--keep", help="Stems that stay as they are.", show_default=False),
]
LoudnessOption = Annotated[
    Loudness,
    typer.Option(
        "--loudness",
        help="Of the output: that expected of the input in the target's mix (style), as it comes "
        "(free), the input's (keep), or the target's (match).",
    ),
]
MixingCheckpointOption = Annotated[
    str,
    typer.Option(
        "--mixing_checkpoint",
        help="An encoder: a folder, or models:/name@champion. With features it only "
        "measures. Default: the shipped one.",
        show_default=False,
    ),
]
ZeroShotCheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--zero_shot_checkpoint",
        help="Folder of a zero-shot model. Default: the shipped one.",
        show_default=False,
    ),
]
NumStepsOption = Annotated[
    int, typer.Option("--num_steps", min=0, help="Most steps; it stops at a plateau.")
]
RateOption = Annotated[
    list[str], typer.Option("--lr", help="Learning rate at the start. Several: each.")
]
ReceptiveFieldOption = Annotated[
    float, typer.Option("--receptive_field", help="What the TCN sees at least, in s.")
]
SegmentDurationOption = Annotated[
    float, typer.Option("--segment_duration", help="Length of the segment in s.")
]
SegmentOffsetOption = Annotated[
    float, typer.Option("--segment_offset", help="Start of the segment in all songs, in s.")
]
SegmentsOption = Annotated[
    int,
    typer.Option(
        "--segments",
        min=1,
        help="Segments of each song that are heard. More than one are chosen by what sounds "
        "in them, wherever they are; then all of each song is separated.",
    ),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the TCN's start.")]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace what another call has written there; nothing else ever is."
    ),
]


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Set up logging, and end with a sentence instead of a traceback.

    Exit code: 1 for what a person can mend, 2 if the call is wrong, `FAULT_CODE` for what nobody
    foresaw, and a shell's for Ctrl-C and for a pipe whose reader has gone.
    """

    @wraps(function)
    @sigterm_exits()
    def run(*args: Any, **kwargs: Any) -> None:
        setup_logging()
        try:
            with write_errors_named("a file"):
                function(*args, **kwargs)
        except MixprintError as error:
            echo(f"error: {error}", err=True)
            # As for an option that does not exist: 2 says that the call is wrong, not the data.
            raise typer.Exit(2 if isinstance(error, ConfigError) else 1) from error
        except KeyboardInterrupt as error:
            echo("interrupted; what is finished is intact", err=True)
            raise typer.Exit(SIGNAL_BASE + signal.SIGINT) from error
        except BrokenPipeError as error:
            # Whoever read along has gone.
            discard(sys.stdout)
            raise typer.Exit(SIGNAL_BASE + signal.SIGPIPE) from error
        except typer.Exit:
            raise
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            echo(_fault_text(function.__name__, error), err=True)
            raise typer.Exit(FAULT_CODE) from error

    return run


def _fault_text(command: str, error: Exception) -> str:
    """Say how to report an error that nobody foresaw, with its traceback in a file."""
    from mixprint import __version__

    lines = traceback.format_exception(error)
    found = "".join(traceback.format_exception_only(error)).strip()
    try:
        handle, name = tempfile.mkstemp(prefix="mixprint-traceback-", suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines([f"mixprint {__version__} {command}\n\n", *lines])
        where = f"its traceback, which lies in {name}"
    except OSError:
        # Without a folder for temporary files.
        where = "the traceback below"
        found = "".join(lines)
    return (
        f"error: {command} of mixprint {__version__} met a fault of its own: {found}; please "
        f"report it with {where} ({DEBUG_VARIABLE}=1 shows it at once)"
    )


def _show_version(wanted: bool) -> None:
    """Print the version, and end."""
    if wanted:
        from mixprint import __version__

        echo(f"mixprint {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    """Learn what a mix sounds like, and give one song the mix of another."""


@app.command()
@_command
def transfer(
    input_audio: Annotated[Path, typer.Option("--input_audio", help="The song to be changed.")],
    optimize_target: OptimizeTargetOption,
    target_audio: Annotated[
        list[Path] | None,
        typer.Option(
            "--target_audio",
            help="The song whose mix it is to get; repeated, their mix.",
            show_default=False,
        ),
    ] = None,
    style: Annotated[
        list[Path] | None,
        typer.Option(
            "--style",
            help="A style from --save_style, instead of a song or beside it.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Of the songs, then of the styles, for example 0.7,0.3. Default: equal.",
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[
        int,
        typer.Option(
            "--sweep", min=0, help="With two targets: so many mixes, from the first to the second."
        ),
    ] = 0,
    save_style: Annotated[
        Path | None,
        typer.Option("--save_style", help="Receives the style as JSON.", show_default=False),
    ] = None,
    output_dir: OutputDirOption = Path("e2e_style_transfer_output"),
    method: MethodOption = ["console"],  # noqa: B006 (typer copies it)
    aim: AimOption = Aim.style,
    apply_to: ApplyToOption = ApplyTo.segment,
    amount: AmountOption = None,
    keep: KeepOption = None,
    loudness: LoudnessOption = Loudness.style,
    mixing_checkpoint: MixingCheckpointOption = "",
    zero_shot_checkpoint: ZeroShotCheckpointOption = None,
    scnet_model: SeparatorOption = "default",
    scnet_config: SeparatorConfigOption = None,
    num_steps: NumStepsOption = 500,
    lr: RateOption = ["0.001"],  # noqa: B006 (typer copies it)
    receptive_field: ReceptiveFieldOption = 2.0,
    segment_duration: SegmentDurationOption = 10.0,
    segment_offset: SegmentOffsetOption = 0.0,
    segments: SegmentsOption = 1,
    device: DeviceOption = "auto",
    seed: SeedOption = 1,
    overwrite: OverwriteOption = False,
) -> None:
    """Transfer the mixing style of one song to another.

    Where several targets, methods or learning rates are given, every combination is made in a
    folder of its own, and summary.json and report.html compare them. The songs are separated once.
    What an earlier call has made of the same songs in the same way is left as it is; what it has
    made of others is replaced with --overwrite only, and other files never.
    """
    from mixprint.machine.device import resolve_device
    from mixprint.text import shown
    from mixprint.transfer.request import Request, transfer_songs
    from mixprint.transfer.settings import Controls, listed, parse_amounts, parse_numbers

    used_device = resolve_device(device)
    settings = _hyperparameters(
        optimize_target,
        method,
        lr,
        aim=aim.value,
        num_steps=num_steps,
        receptive_field=receptive_field,
        segment_duration=segment_duration,
        segment_offset=segment_offset,
        segments=segments,
        seed=seed,
    )
    request = Request(
        input_audio=input_audio,
        target_audio=tuple(target_audio or ()),
        styles=tuple(style or ()),
        weights=parse_numbers([] if weights is None else [weights], "--weights"),
        sweep=sweep,
        settings=settings,
        controls=Controls(
            amount=parse_amounts(amount or [], listed(keep or [], "--keep")),
            loudness=loudness.value,
            apply_to=apply_to.value,
        ),
        save_style=save_style,
        overwrite=overwrite,
    )
    request.check_places(output_dir)
    models = _load_models(
        used_device,
        mixing_checkpoint,
        zero_shot_checkpoint,
        scnet_model,
        scnet_config,
        settings,
    )
    done = transfer_songs(request, output_dir, models)
    for each in done:
        if len(done) > 1:
            echo(f"{each.folder.name}:")
        elif each.was_there:
            echo("was there already")
        metrics = each.metrics
        for kind in ("feature", "embedding"):
            initial, final = metrics[f"initial_{kind}_distance"], metrics[f"final_{kind}_distance"]
            if initial is not None:
                echo(f"{kind} distance: {initial:.3f} -> {final:.3f}")
        for note in metrics["notes"]:
            echo(f"note: {note}")
    if len(done) > 1:
        echo(f"open {shown(output_dir / 'report.html')} to compare them")
    else:
        echo(
            f"listen to {shown(output_dir / 'output_transferred.wav')}, or open report.html "
            "beside it"
        )


@app.command("transfer-batch")
@_command
def transfer_batch(
    pairs: Annotated[
        Path,
        typer.Argument(
            help="CSV with the columns input and target, and if wanted method, optimize_target, "
            "amount and keep, which go before the options. Paths are relative to it.",
            show_default=False,
        ),
    ],
    output_dir: OutputDirOption,
    optimize_target: OptimizeTargetOption = ["features"],  # noqa: B006 (typer copies it)
    method: MethodOption = ["console"],  # noqa: B006 (typer copies it)
    aim: AimOption = Aim.style,
    apply_to: ApplyToOption = ApplyTo.segment,
    amount: AmountOption = None,
    keep: KeepOption = None,
    loudness: LoudnessOption = Loudness.style,
    mixing_checkpoint: MixingCheckpointOption = "",
    zero_shot_checkpoint: ZeroShotCheckpointOption = None,
    scnet_model: SeparatorOption = "default",
    scnet_config: SeparatorConfigOption = None,
    num_steps: NumStepsOption = 500,
    lr: RateOption = ["0.001"],  # noqa: B006 (typer copies it)
    receptive_field: ReceptiveFieldOption = 2.0,
    segment_duration: SegmentDurationOption = 10.0,
    segment_offset: SegmentOffsetOption = 0.0,
    segments: SegmentsOption = 1,
    device: DeviceOption = "auto",
    seed: SeedOption = 1,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            min=0,
            help="Transfers side by side. 0: by cores and memory, one on a GPU.",
        ),
    ] = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Transfer a table of pairs, by one method or several; each result has a folder.

    summary.json, summary.csv and report.html compare all pairs and methods, with what other tables
    have left in the folder. What was finished before, with the same songs and settings, is not done
    again. A song of many pairs is separated once.

    Exit code: 0 if all is done, 1 if a pair failed, 2 if an option is wrong.
    """
    from mixprint.checkpoints.registry import fetch_checkpoint, is_registered
    from mixprint.machine.device import resolve_device
    from mixprint.storage.outputs import check_folder, remove_result, reserved, temporary_folder
    from mixprint.text import shown
    from mixprint.transfer.inputs import SongSource
    from mixprint.transfer.jobs import run_jobs
    from mixprint.transfer.layout import SUMMARY, TRANSFER
    from mixprint.transfer.pairs import Defaults, find_jobs, plan_pairs, read_pairs
    from mixprint.transfer.report.summary import write_summary
    from mixprint.transfer.settings import listed

    used_device = resolve_device(device)
    defaults = Defaults(
        settings=_hyperparameters(
            optimize_target,
            method,
            lr,
            aim=aim.value,
            num_steps=num_steps,
            receptive_field=receptive_field,
            segment_duration=segment_duration,
            segment_offset=segment_offset,
            segments=segments,
            seed=seed,
        ),
        amount=tuple(amount or ()),
        keep=listed(keep or [], "--keep"),
        loudness=loudness.value,
        apply_to=apply_to.value,
    )
    table, unreadable = read_pairs(pairs)
    plans, unknown = plan_pairs(table, defaults)
    asked = tuple(settings for plan in plans for settings in plan.settings)
    check_folder(
        output_dir, SUMMARY, also=(TRANSFER,), inputs=[pairs], overwrite=overwrite, updates=True
    )
    with ExitStack() as stack:
        stack.enter_context(reserved(output_dir, f"transfers of {shown(pairs)}"))
        if is_registered(mixing_checkpoint):
            # Once: while the batch runs, another one may become the champion.
            folder = stack.enter_context(temporary_folder())
            mixing_checkpoint = str(fetch_checkpoint(mixing_checkpoint, folder))
        load = partial(
            _load_models,
            used_device,
            mixing_checkpoint,
            zero_shot_checkpoint,
            scnet_model,
            scnet_config,
            asked,
        )
        models = load()
        assert models.separator is not None
        source = SongSource(separator=models.separator.fingerprint)
        found, missing = find_jobs(plans, source)
        if overwrite:
            remove_result(output_dir, TRANSFER)
        outcomes = run_jobs(
            found, output_dir, models, load_models=load, num_processes=jobs, overwrite=overwrite
        )
        summary = write_summary(output_dir, [*unreadable, *unknown, *missing, *outcomes])
    for row in (row for row in summary["transfers"] if row["is_asked_for"]):
        initial, final = row["initial_feature_distance"], row["final_feature_distance"]
        echo(f"{row['folder']}: feature distance {initial:.3f} -> {final:.3f}")
    for failed in summary["failed"]:
        echo(f"failed: {failed['detail']}", err=True)
    counts = f"{summary['num_transfers']} there, {summary['num_failed']} failed"
    echo(f"{counts}; open {shown(output_dir / 'report.html')} to compare them", err=True)
    if summary["num_failed"]:
        raise typer.Exit(1)


@app.command()
@_command
def separate(
    songs: Annotated[
        list[Path], typer.Argument(help="Audio files, and folders of them.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Receives a folder per song.")],
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint",
            help="`default` is the shipped one; else a file, or https://...#sha256=<its hash>.",
        ),
    ] = "default",
    config: Annotated[
        str | None,
        typer.Option("--config", help="YAML of a published checkpoint; a file or such a URL."),
    ] = None,
    container: Annotated[
        Container, typer.Option("--format", help="Of the files that are written.")
    ] = Container.wav,
    bit_depth: Annotated[
        BitDepth | None,
        typer.Option("--bit-depth", help="Default: float32, and 24 with flac.", show_default=False),
    ] = None,
    stems: Annotated[
        str | None,
        typer.Option(
            "--stems",
            help="Which to write, for example vocals,drums. Default: all.",
            show_default=False,
        ),
    ] = None,
    two_stems: Annotated[
        str | None,
        typer.Option("--two-stems", help="Write this stem, and all the rest as one other file."),
    ] = None,
    residual: Annotated[
        Residual,
        typer.Option(
            "--residual",
            help="What the stems' sum lacks of the song: leave it out, write it as a file of its "
            "own, or distribute it among the stems.",
        ),
    ] = Residual.none,
    window: Annotated[
        float | None,
        typer.Option(
            "--window",
            help="What the network sees at once, in s. Default: as in its training.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        float, typer.Option("--overlap", help="Part of a window that it shares with the next.")
    ] = 0.25,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=0,
            help="Windows at a time. 0: what a GPU's memory holds, 1 on a CPU.",
        ),
    ] = 0,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of the network; half precision suits GPUs.")
    ] = Precision.float32,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the network first, on a GPU to CUDA graphs; pays where much is to do.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    jobs: Annotated[
        int, typer.Option("--jobs", min=1, help="Songs side by side, which share the CPU's cores.")
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what an earlier separation has written.")
    ] = False,
) -> None:
    """Separate songs into vocals, bass, drums and other.

    Each song gets a folder with its stems and a report, separation.json: how far their sum is
    from the song, how much they leak into each other, their levels, and the gain that was needed
    to stay within full scale (16 and 24 bits only; float32 keeps all levels). A folder that holds
    the same song, separated in the same way, is left as it is.

    Exit code: 0 if all songs are done, 1 if one failed, 2 if an option is wrong.
    """
    from mixprint.separation.batch import SeparatorSource, find_jobs, separate_files
    from mixprint.separation.files import FileSettings
    from mixprint.stems import STEMS
    from mixprint.storage.outputs import check_place

    settings = FileSettings(
        container=container.value,
        bit_depth=bit_depth.value if bit_depth else DEFAULT_BIT_DEPTHS[container],
        stems=tuple(stem.strip() for stem in stems.split(",")) if stems else STEMS,
        two_stems=two_stems,
        residual=residual.value,
        window_s=window,
        overlap=overlap,
        batch_size=batch_size,
    )
    check_place(out, is_folder=True)
    counts = Counter[str]()
    found, failures = find_jobs(songs, out)
    source = SeparatorSource(checkpoint, config, device, precision.value, compiled)
    done = separate_files(found, source, settings, num_processes=jobs, overwrite=overwrite)
    for outcome in chain(failures, done):
        counts[outcome.status] += 1
        if outcome.status == "failed":
            echo(f"failed: {outcome.detail}", err=True)
        else:
            note = " (was there already)" if outcome.status == "present" else ""
            echo(f"{outcome.detail}{note}")
            for note in outcome.notes:
                echo(f"note: {note}", err=True)
    summary = f"{counts['separated']} separated, {counts['present']} there already"
    echo(f"{summary}, {counts['failed']} failed", err=True)
    if counts["failed"]:
        raise typer.Exit(1)


@app.command("listening-test")
@_command
def listening_test(
    batch_dir: Annotated[
        Path, typer.Argument(help="Holds the folders of transferred pairs.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Receives the test: open its index.html.")],
    seed: Annotated[int, typer.Option("--seed", help="Of the choice and order of trials.")] = 1,
    max_trials: Annotated[
        int, typer.Option("--max_trials", min=1, help="More are left out at random.")
    ] = 8,
    overwrite: OverwriteOption = False,
) -> None:
    """Make a listening test (MUSHRA) of transferred pairs, to be taken in any browser, offline.

    Results for the same two songs, of different methods or settings, are compared in one trial,
    with a hidden reference, an anchor and the input as it was. Ratings are saved as files, which
    `mixprint listening-results` analyses.
    """
    from mixprint.listening.generate import PAGE_NAME, make_test
    from mixprint.text import shown

    test = make_test(batch_dir, out, max_trials=max_trials, seed=seed, overwrite=overwrite)
    for trial in test["trials"]:
        echo(f"{trial['trial']}: {trial['title']}: {', '.join(trial['conditions'])}")
    echo(f"open {shown(out / PAGE_NAME)} in a browser")


@app.command("listening-results")
@_command
def listening_results(
    places: Annotated[
        list[Path],
        typer.Argument(help="Saved ratings, and folders of them.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Receives the figures; a page is written beside it.")
    ] = Path("results.json"),
    overwrite: OverwriteOption = False,
) -> None:
    """Analyse saved ratings: means with 95 % intervals, after screening the listeners.

    Files that cannot be used are named, and the exit code is then 1; the others are analysed.
    """
    from mixprint.listening.analyse import analyse, results_text
    from mixprint.text import shown

    results = analyse(places, out, overwrite=overwrite)
    echo(results_text(results))
    echo(f"{results['num_listeners']} listeners, {results['num_trials']} trials")
    for left in results["screened_out"]:
        echo(
            f"left out: {left['listener']}, who missed the hidden reference in "
            f"{left['failed_fraction']:.0%} of the trials"
        )
    for refused in results["refused"]:
        echo(f"refused: {refused['reason']}", err=True)
    echo(f"open {shown(out.with_suffix('.html'))}")
    if results["refused"]:
        raise typer.Exit(1)


@app.command()
@_command
def features(
    songs: Annotated[
        list[Path], typer.Argument(help="Audio files, and folders of them.", show_default=False)
    ],
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
    """Print the 64 mixing features of a segment of each song, with their units.

    A song that cannot be used is named, and the others are printed.

    Exit code: 0 if all songs are there, 1 if one failed, 2 if an option is wrong.
    """
    import torch

    from mixprint.audio.files import read_audio
    from mixprint.features import FEATURE_NAMES, FEATURE_UNITS, SCHEMA_VERSION, extract
    from mixprint.machine.device import resolve_device
    from mixprint.separation.batch import name_songs
    from mixprint.stems import SAMPLE_RATE_HZ
    from mixprint.text import shown
    from mixprint.transfer.settings import check_segment

    check_segment(segment_duration, segment_offset)
    separator = _load_separator(scnet_model, scnet_config, resolve_device(device))
    found, unusable = name_songs(songs)
    failures = [outcome.detail for outcome in unusable]
    rows: dict[str, dict[str, float]] = {}
    for path in progress(found, len(found), "measured", "songs", log):
        try:
            audio_CT = read_audio(path, start_s=segment_offset, duration_s=segment_duration)
        except AudioError as error:
            failures.append(str(error))
            continue
        stems_SCT = separator.separate(audio_CT)
        with torch.inference_mode():
            values_D = extract(stems_SCT.unsqueeze(0), SAMPLE_RATE_HZ).squeeze(0)
        rows[shown(path)] = dict(zip(FEATURE_NAMES, values_D.tolist(), strict=True))
    for failure in failures:
        echo(f"failed: {failure}", err=True)
    units = dict(zip(FEATURE_NAMES, FEATURE_UNITS, strict=True))
    if table_format is TableFormat.json:
        result = {"schema_version": SCHEMA_VERSION, "units": units, "songs": rows}
        echo(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        table = io.StringIO()
        writer = csv.writer(table)
        writer.writerow(["feature", "unit", *rows])
        for name in FEATURE_NAMES:
            writer.writerow([name, units[name], *(row[name] for row in rows.values())])
        echo(table.getvalue().removesuffix("\n"))
    if failures:
        raise typer.Exit(1)


@app.command()
@_command
def quality(
    catalogue: Annotated[
        Path, typer.Option("--catalogue", help="Folder of the catalogue of a pipeline run.")
    ],
    stems: Annotated[Path, typer.Option("--stems", help="Folder of its stem shards.")],
    checkpoint: Annotated[Path, typer.Option("--checkpoint", help="Folder of an encoder.")],
    out: Annotated[Path, typer.Option("--out", help="Receives the figures and the head.")],
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores",
            help="CSV with the header track,score. Default: the mixes are damaged by known "
            "amounts (clipping, noise, masking, over-compression), and what is left is the score.",
            show_default=False,
        ),
    ] = None,
    variants: Annotated[
        int, typer.Option("--variants", min=1, help="Damaged mixes of each track.")
    ] = 8,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", min=1, help="Resamples of the songs for the intervals.")
    ] = 1000,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of all that is drawn.")] = 1,
    overwrite: OverwriteOption = False,
) -> None:
    """Learn scores of mixes from an encoder's embeddings, and measure how well that goes.

    The encoder stays as it is; a head of two layers is fitted. R2 and Kendall's tau are measured
    for songs that the head has not met, beside the 64 features, a mean spectrum and an encoder
    that was not trained.
    """
    from mixprint.collection.catalogue import read_catalogue
    from mixprint.encoder.checkpoint import load_checkpoint
    from mixprint.evaluation.quality import regress_quality
    from mixprint.evaluation.report import METHODS
    from mixprint.machine.device import resolve_device

    used_device = resolve_device(device)
    results = regress_quality(
        tracks=read_catalogue(catalogue),
        stems_dir=stems,
        encoder=load_checkpoint(checkpoint, used_device),
        out_dir=out,
        scores_path=scores,
        num_variants=variants,
        num_bootstrap=bootstrap,
        seed=seed,
        device=used_device,
        overwrite=overwrite,
    )
    echo(
        f"{results['num_mixes']} mixes of {results['num_songs']} songs, of which the encoder may "
        f"know {results['num_training_songs']} from its training"
    )
    for method, label in METHODS.items():
        figures = [
            f"{name} {e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]"
            for name, e in (
                ("R2", results[method]["r2"]),
                ("Kendall's tau", results[method]["kendall_tau"]),
            )
        ]
        echo(f"{label}: {', '.join(figures)}")


@app.command()
@_command
def estimate(
    data: Annotated[
        list[Path],
        typer.Argument(help="Folder of the collection; two for pairs.", show_default=False),
    ],
    task: Annotated[Task, typer.Option("--task", help="The step whose cost is asked for.")],
    source: Annotated[
        str, typer.Option("--source", help="folder, fma, musdbhq, pairs or synthetic")
    ] = "folder",
    params: Annotated[
        Path, typer.Option("--params", help="The parameters that the step will have.")
    ] = Path("params.yaml"),
    profile: Annotated[
        str, typer.Option("--profile", help="tiny, or an overlay of the parameters.")
    ] = BASE_PROFILE,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Another one than in the parameters.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="YAML of such a published checkpoint.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Another one than in the parameters.")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option("--jobs", min=1, help="Workers at a time. On the CPU they share its cores."),
    ] = 1,
    table_format: Annotated[
        EstimateFormat, typer.Option("--format", help="How it is printed.")
    ] = EstimateFormat.table,
) -> None:
    """Tell time, memory and storage of a step beforehand, from a short measurement."""
    import time

    import psutil  # type: ignore[import-untyped]

    from mixprint.machine.device import resolve_device
    from mixprint.separation.estimate import (
        SeparationPlan,
        estimate_separation,
        measure_separation,
        survey,
    )

    assert task is Task.separate  # the only one there is
    sections = load_params(params, profile)
    rules, values = sections["ingest"], sections["separate"]
    separator = _load_separator(
        checkpoint or values["checkpoint"],
        config if checkpoint else values["config"] or None,
        resolve_device(device or values["device"]),
    )
    separator.precision = values["precision"]
    separator.compiled = values["compile"]
    # As long as a worker takes, from its first breath to here.
    start_s = time.time() - psutil.Process().create_time()
    songs, num_left_out = survey(
        source,
        data,
        min_duration_s=max(rules["min_duration_s"], values["segment_s"]),
        max_duration_s=rules["max_duration_s"],
    )
    plan = SeparationPlan(
        segment_s=values["segment_s"],
        window_s=values["window_s"] or separator.window_s,
        overlap=values["overlap"],
        batch_size=values["batch_size"],
        export=values["export"],
        num_shards=rules["num_shards"],
        jobs=jobs,
    )
    measured = measure_separation(separator, songs, plan)
    found = estimate_separation(songs, num_left_out, plan, measured, start_s=start_s)
    if table_format is EstimateFormat.json:
        echo(json.dumps(found.to_values(), indent=2))
    else:
        echo(found.to_text())


@app.command()
@_command
def doctor(
    cluster: Annotated[
        bool,
        typer.Option(
            "--cluster",
            help="Look at a cluster instead: the one that KFP_HOST, NAMESPACE, TOKEN and "
            "IMAGE_REPO name, and kubectl's.",
        ),
    ] = False,
) -> None:
    """Say what is missing here, or for a run on a cluster, and what to do about it.

    Exit code: 0 if nothing is missing, 1 if something is.
    """
    from mixprint.machine.doctor import look_elsewhere, look_here

    shipped = [
        WEIGHTS / "separator.safetensors",
        SHIPPED_ENCODER / "weights.safetensors",
        SHIPPED_STANDARDISATION,
    ]
    findings = look_elsewhere("cluster") if cluster else list(look_here(Path(), shipped))
    for finding in findings:
        echo(finding.to_text())
    if any(finding.is_missing for finding in findings):
        raise typer.Exit(1)


def _hyperparameters(
    optimize_target: list[str], method: list[str], lr: list[str], **common: Any
) -> "tuple[Hyperparameters, ...]":
    """Combine every target with every method and every learning rate."""
    from mixprint.transfer.settings import Hyperparameters, listed, parse_numbers

    return tuple(
        Hyperparameters(
            optimize_target=wanted,  # type: ignore[arg-type]  # checked there
            method=way,  # type: ignore[arg-type]  # checked there
            lr=rate,
            **common,
        )
        for wanted in listed(optimize_target, "--optimize_target")
        for way in listed(method, "--method")
        for rate in dict.fromkeys(parse_numbers(lr, "--lr"))
    )


def _load_models(
    device: "torch.device",
    mixing_checkpoint: str,
    zero_shot_checkpoint: Path | None,
    scnet_model: str,
    scnet_config: str | None,
    settings: "tuple[Hyperparameters, ...]",
) -> "Models":
    """Load what transfers of these settings are made with."""
    from mixprint.transfer.jobs import Models

    encoder = _load_encoder(mixing_checkpoint, device)
    needs_zero_shot = any(each.method == "zero-shot" for each in settings)
    needs_embedding = any(each.optimize_target == "embeddings" for each in settings)
    if encoder is None and (needs_embedding or needs_zero_shot):
        raise ConfigError(
            "embeddings and zero-shot: expected --mixing_checkpoint with an encoder, got none "
            f"(and mixprint ships none in {SHIPPED_ENCODER.name})"
        )
    return Models(
        standardisation=_load_standardisation(encoder),
        encoder=encoder,
        separator=_load_separator(scnet_model, scnet_config, device),
        zero_shot=_load_zero_shot(zero_shot_checkpoint, device) if needs_zero_shot else None,
        device=device,
    )


def _load_encoder(checkpoint: str, device: "torch.device") -> "Encoder | None":
    """Load the encoder that is named, else the shipped one, else none."""
    from mixprint.checkpoints.registry import fetch_checkpoint, is_registered
    from mixprint.encoder.checkpoint import load_checkpoint
    from mixprint.storage.outputs import temporary_folder

    if is_registered(checkpoint):
        with temporary_folder() as folder:
            return load_checkpoint(fetch_checkpoint(checkpoint, folder), device)
    if checkpoint:
        return load_checkpoint(Path(checkpoint), device)
    return load_checkpoint(SHIPPED_ENCODER, device) if SHIPPED_ENCODER.is_dir() else None


def _load_zero_shot(folder: Path | None, device: "torch.device") -> "ZeroShotModel":
    """Load the zero-shot model that is named, else the shipped one."""
    from mixprint.zero_shot.checkpoint import SHIPPED_ZERO_SHOT, load_zero_shot

    return load_zero_shot(folder or SHIPPED_ZERO_SHOT, device)


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


def _load_separator(checkpoint: str, config: str | None, device: "torch.device") -> "Separator":
    from mixprint.separation import load_separator

    return load_separator(checkpoint, config, device)
