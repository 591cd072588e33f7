"""Commands that transfer styles: `transfer` and `transfer-batch`."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mixprint.cli.options import (
    DeviceOption,
    OverwriteOption,
    SeparatorConfigOption,
    SeparatorOption,
)
from mixprint.progress import echo
from mixprint.text import shown
from mixprint.transfer.methods.registry import describe_methods

if TYPE_CHECKING:
    import torch

    from mixprint.transfer.jobs import Done, Models
    from mixprint.transfer.settings import Hyperparameters


class Aim(StrEnum):
    """Features that a transfer aims at."""

    style = "style"
    target = "target"


class ApplyTo(StrEnum):
    """Part of the input that is written."""

    segment = "segment"
    song = "song"


class Loudness(StrEnum):
    """Loudness of the output."""

    style = "style"
    free = "free"
    keep = "keep"
    match = "match"


OptimizeTargetOption = Annotated[
    list[str],
    typer.Option(
        "--optimize_target",
        help="What is brought to the target's: features or embeddings. Several, repeated or "
        "with commas, are each done in a folder of their own.",
    ),
]
OutputDirOption = Annotated[Path, typer.Option("--output_dir", help="Receives all results.")]


@dataclass(frozen=True, kw_only=True)
class TransferOptions:
    """Options of both commands."""

    method: Annotated[
        list[str],
        typer.Option(
            "--method",
            help=f"{describe_methods()}. Several: each.",
        ),
    ] = field(default_factory=lambda: ["console"])
    aim: Annotated[
        Aim,
        typer.Option(
            "--aim",
            help="Which features are aimed at: those that the input is expected to have in the "
            "target's mix (style), or the target's own, its music's too (target).",
        ),
    ] = Aim.style
    apply_to: Annotated[
        ApplyTo, typer.Option("--apply_to", help="What of the input is written.")
    ] = ApplyTo.segment
    amount: Annotated[
        list[str] | None,
        typer.Option(
            "--amount",
            help="How much is done: 0 nothing, 1 all that was found, above 1 more. For single "
            "stems drums=0.5; several, repeated or with commas.",
            show_default="1",
        ),
    ] = None
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Stems that stay as they are.", show_default=False),
    ] = None
    loudness: Annotated[
        Loudness,
        typer.Option(
            "--loudness",
            help="Of the output: that expected of the input in the target's mix (style), as it "
            "comes (free), the input's (keep), or the target's (match).",
        ),
    ] = Loudness.style
    mixing_checkpoint: Annotated[
        str,
        typer.Option(
            "--mixing_checkpoint",
            help="An encoder: a folder, or models:/name@champion. With features it only "
            "measures. Default: the shipped one.",
            show_default=False,
        ),
    ] = ""
    zero_shot_checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--zero_shot_checkpoint",
            help="Folder of a zero-shot model. Default: the shipped one.",
            show_default=False,
        ),
    ] = None
    controller_checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--controller_checkpoint",
            help="Folder of a trained controller. Default: the shipped one.",
            show_default=False,
        ),
    ] = None
    scnet_model: SeparatorOption = "default"
    scnet_config: SeparatorConfigOption = None
    num_steps: Annotated[
        int, typer.Option("--num_steps", min=0, help="Most steps; it stops at a plateau.")
    ] = 500
    lr: Annotated[
        list[str],
        typer.Option(
            "--lr",
            help="Learning rate of a TCN; how far a step of the console may go. Several: each.",
        ),
    ] = field(default_factory=lambda: ["0.001"])
    receptive_field: Annotated[
        float, typer.Option("--receptive_field", help="What the TCN sees at least, in s.")
    ] = 2.0
    segment_duration: Annotated[
        float, typer.Option("--segment_duration", help="Length of the segment in s.")
    ] = 10.0
    segment_offset: Annotated[
        float,
        typer.Option("--segment_offset", help="Start of the segment in all songs, in s."),
    ] = 0.0
    segments: Annotated[
        int,
        typer.Option(
            "--segments",
            min=1,
            help="Segments of each song that are heard. More than one are chosen by what sounds "
            "in them, wherever they are; then all of each song is separated.",
        ),
    ] = 1
    device: DeviceOption = "auto"
    seed: Annotated[int, typer.Option("--seed", help="Of the TCN's start.")] = 1

    def settings(self, optimize_target: Sequence[str]) -> "tuple[Hyperparameters, ...]":
        """Combine every target with every method and every learning rate.

        Raises:
            ConfigError: a value is not known or out of range.
        """
        from mixprint.transfer.settings import Hyperparameters, listed, parse_numbers

        return tuple(
            Hyperparameters(
                optimize_target=wanted,  # type: ignore[arg-type]  # checked there
                method=method,
                lr=lr,
                aim=self.aim.value,
                num_steps=self.num_steps,
                receptive_field=self.receptive_field,
                segment_duration=self.segment_duration,
                segment_offset=self.segment_offset,
                segments=self.segments,
                seed=self.seed,
            )
            for wanted in listed(optimize_target, "--optimize_target")
            for method in listed(self.method, "--method")
            for lr in dict.fromkeys(parse_numbers(self.lr, "--lr"))
        )

    def load_models(
        self,
        device: "torch.device",
        settings: "Sequence[Hyperparameters]",
        encoder: str | None = None,
    ) -> "Models":
        """Load what transfers of these settings are made with.

        Args:
            device: where all is computed.
            settings: of the transfers.
            encoder: stands for `mixing_checkpoint`.
        """
        from mixprint.api.models import load_models

        return load_models(
            device,
            settings,
            encoder=self.mixing_checkpoint if encoder is None else encoder,
            zero_shot=self.zero_shot_checkpoint,
            controller=self.controller_checkpoint,
            separator=self.scnet_model,
            separator_config=self.scnet_config,
        )


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
    *,
    options: TransferOptions,
    overwrite: OverwriteOption = False,
) -> None:
    """Transfer the mixing style of one song to another.

    Where several targets, methods or learning rates are given, every combination is made in a
    folder of its own, and summary.json and report.html compare them. The songs are separated once.
    What an earlier call has made of the same songs in the same way is left as it is; what it has
    made of others is replaced with --overwrite only, and other files never.
    """
    from mixprint.machine.device import resolve_device
    from mixprint.transfer.request import Request, transfer_songs
    from mixprint.transfer.settings import Controls, listed, parse_amounts, parse_numbers

    device = resolve_device(options.device)
    request = Request(
        input_audio=input_audio,
        target_audio=tuple(target_audio or ()),
        styles=tuple(style or ()),
        settings=options.settings(optimize_target),
        weights=parse_numbers([] if weights is None else [weights], "--weights"),
        sweep=sweep,
        controls=Controls(
            amount=parse_amounts(options.amount or [], listed(options.keep or [], "--keep")),
            loudness=options.loudness.value,
            apply_to=options.apply_to.value,
        ),
        save_style=save_style,
        overwrite=overwrite,
    )
    request.check_places(output_dir)
    _show(
        transfer_songs(request, output_dir, options.load_models(device, request.settings)),
        output_dir,
    )


def _show(done: "Sequence[Done]", output_dir: Path) -> None:
    """Print how near each transfer comes to its target, and where to listen."""
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
    *,
    options: TransferOptions,
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
    summary = _transfer_table(
        pairs, output_dir, optimize_target, options, num_processes=jobs, overwrite=overwrite
    )
    for row in (row for row in summary["transfers"] if row["is_asked_for"]):
        initial, final = row["initial_feature_distance"], row["final_feature_distance"]
        echo(f"{row['folder']}: feature distance {initial:.3f} -> {final:.3f}")
    for failed in summary["failed"]:
        echo(f"failed: {failed['detail']}", err=True)
    counts = f"{summary['num_transfers']} there, {summary['num_failed']} failed"
    echo(f"{counts}; open {shown(output_dir / 'report.html')} to compare them", err=True)
    if summary["num_failed"]:
        raise typer.Exit(1)


def _transfer_table(
    pairs: Path,
    output_dir: Path,
    optimize_target: Sequence[str],
    options: TransferOptions,
    *,
    num_processes: int,
    overwrite: bool,
) -> Mapping[str, Any]:
    """Make every transfer of a table that is not made yet, and return what summary.json holds."""
    from mixprint.checkpoints.registry import fetch_checkpoint, is_registered
    from mixprint.machine.device import resolve_device
    from mixprint.storage.outputs import check_folder, remove_result, reserved, temporary_folder
    from mixprint.transfer.inputs import SongFinder
    from mixprint.transfer.jobs import run_jobs
    from mixprint.transfer.layout import SUMMARY, TRANSFER
    from mixprint.transfer.pairs import Defaults, find_jobs, plan_pairs, read_pairs
    from mixprint.transfer.report.summary import write_summary
    from mixprint.transfer.settings import listed

    device = resolve_device(options.device)
    defaults = Defaults(
        settings=options.settings(optimize_target),
        amount=tuple(options.amount or ()),
        keep=listed(options.keep or [], "--keep"),
        loudness=options.loudness.value,
        apply_to=options.apply_to.value,
    )
    table, unreadable = read_pairs(pairs)
    plans, unknown = plan_pairs(table, defaults)
    settings = tuple(each for plan in plans for each in plan.settings)
    check_folder(
        output_dir, SUMMARY, also=(TRANSFER,), inputs=[pairs], overwrite=overwrite, updates=True
    )
    with ExitStack() as stack:
        stack.enter_context(reserved(output_dir, f"transfers of {shown(pairs)}"))
        encoder = options.mixing_checkpoint
        if is_registered(encoder):
            # Once: while the batch runs, another one may become the champion.
            folder = stack.enter_context(temporary_folder())
            encoder = str(fetch_checkpoint(encoder, folder))
        load_models = partial(options.load_models, device, settings, encoder)
        models = load_models()
        assert models.separator is not None
        found, missing = find_jobs(plans, SongFinder(separator=models.separator.fingerprint))
        if overwrite:
            remove_result(output_dir, TRANSFER)
        outcomes = run_jobs(
            found,
            output_dir,
            models,
            load_models=load_models,
            num_processes=num_processes,
            overwrite=overwrite,
        )
        return write_summary(output_dir, [*unreadable, *unknown, *missing, *outcomes])
