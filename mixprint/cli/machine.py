"""Commands about the machine: `estimate` for the cost of a step, `doctor` for what is missing."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mixprint.config import BASE_PROFILE, load_params
from mixprint.progress import echo


class Task(StrEnum):
    """Steps whose cost can be estimated."""

    separate = "separate"


class EstimateFormat(StrEnum):
    """Forms of a printed estimate."""

    table = "table"
    json = "json"


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

    import psutil

    from mixprint.separation.estimate import (
        SeparationPlan,
        estimate_separation,
        measure_separation,
        survey,
    )
    from mixprint.separation.source import SeparatorSource, of_four_stems

    assert task is Task.separate  # the only one there is
    sections = load_params(params, profile)
    rules, values = sections["ingest"], sections["separate"]
    others = {"checkpoint": checkpoint, "config": config or ""} if checkpoint else {}
    others |= {"device": device} if device else {}
    separator = of_four_stems(SeparatorSource.of_step(values | others).load())
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
    from mixprint.machine import xla
    from mixprint.machine.doctor import look_elsewhere, look_here
    from mixprint.separation.material.musdb import missing_decoders
    from mixprint.weights import SHIPPED

    if cluster:
        findings = look_elsewhere("cluster")
    else:
        optional = {
            "decoder of MUSDB18": missing_decoders(),
            "training on TPUs": xla.missing_packages(),
        }
        findings = list(look_here(Path(), SHIPPED, optional))
    for finding in findings:
        echo(finding.to_text())
    if any(finding.is_missing for finding in findings):
        raise typer.Exit(1)
