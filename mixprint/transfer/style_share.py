"""Share of a difference between two songs that is a difference of their mixes.

A feature of a song follows from what is played as well as from how it is mixed. The *style share*
k of a feature says how far a song's value moves towards that of another song when it gets the
other's mix:

    expected = own + k * (other's - own)

It is measured, for each feature, where all three are known: on generated songs that are mixed in
several styles. For songs X and Y, and styles A and B, k is the
least-squares slope of X in B minus X in A on Y in B minus X in A, from 0 (the feature follows from
the music alone) to 1 (from the mix alone).

`python -m mixprint.transfer.style_share --root RUN --out FILE` measures it on the training split of
a run, from its catalogue and features.

Shape suffixes: N segments, S stem, D features.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from mixprint.collection.catalogue import read_catalogue
from mixprint.errors import CheckpointError, DataError
from mixprint.features import FEATURE_NAMES, SCHEMA_VERSION
from mixprint.features.table import read_features
from mixprint.fingerprint import fingerprint
from mixprint.log import setup_logging
from mixprint.schema import Range, WithOthers, read_record, shortened
from mixprint.storage.atomic import write_json

log = logging.getLogger("mixprint.transfer")

FORMAT = "mixprint-style-share"
SHIPPED_STYLE_SHARE = Path(__file__).parents[1] / "weights" / "style_share.json"


@dataclass(frozen=True)
class Mixed:
    """A segment of a mix: what is played there, and in which style.

    Attributes:
        song: what is played.
        segment: which part of it.
        style: how it is mixed.
    """

    song: str
    segment: int
    style: str


def measure_style_share(mixed_N: Sequence[Mixed], features_ND: Tensor) -> Tensor:
    """Measure the style share of each feature; see the module's docstring.

    Args:
        mixed_N: what each row is.
        features_ND: the features.

    Returns:
        share_D, 0 to 1.

    Raises:
        DataError: there is no song in two styles of which another song has one.
    """
    own_N, other_N, truth_N = (
        torch.tensor(rows, dtype=torch.long) for rows in zip(*_triples(mixed_N), strict=True)
    )
    own_ND = features_ND[own_N].double()
    way_ND = features_ND[other_N].double() - own_ND
    gone_ND = features_ND[truth_N].double() - own_ND
    # A feature that never differs has no slope; nothing of it needs to move.
    slope_D = (way_ND * gone_ND).sum(0) / way_ND.square().sum(0).clamp_min(1e-12)
    return slope_D.clamp(0, 1).float()


def _triples(mixed_N: Sequence[Mixed]) -> list[tuple[int, int, int]]:
    """List the rows of X in A, Y in B and X in B; X by the same segment."""
    row = {mixed: n for n, mixed in enumerate(mixed_N)}
    in_style: dict[str, list[Mixed]] = {}
    for mixed in mixed_N:
        in_style.setdefault(mixed.style, []).append(mixed)
    found = [
        (row[own], row[other], row[truth])
        for own in mixed_N
        for style, others in in_style.items()
        if style != own.style and (truth := Mixed(own.song, own.segment, style)) in row
        for other in others
        if other.song != own.song
    ]
    if not found:
        raise DataError(
            "style share: expected songs in two styles or more, of which another song has one, "
            f"found none among {len(mixed_N)} segments"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class _Values(WithOthers):
    """A style share as JSON holds it, as far as it is read."""

    format: str
    schema_version: int
    share: Mapping[str, Annotated[float, Range(0.0, 1.0)]]


@lru_cache(maxsize=1)
def load_style_share(path: Path = SHIPPED_STYLE_SHARE) -> Tensor:
    """Read the shares; they are asked for many times in a transfer, and read once.

    Returns:
        share_D, 0 to 1.

    Raises:
        CheckpointError: the file is no style share, or of another feature schema.
    """
    known = read_record(path, _Values, CheckpointError)
    found = (known.format, known.schema_version)
    if found != (FORMAT, SCHEMA_VERSION) or known.share.keys() != set(FEATURE_NAMES):
        raise CheckpointError(
            f"{path}: expected a {FORMAT} with the {len(FEATURE_NAMES)} features of schema "
            f"{SCHEMA_VERSION}, found {shortened(found)}"
        )
    return torch.tensor([known.share[name] for name in FEATURE_NAMES])


def main() -> None:
    """Measure on the training split of a run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True, help="folder of a run")
    parser.add_argument("--out", type=Path, default=SHIPPED_STYLE_SHARE)
    args = parser.parse_args()
    setup_logging()
    tracks = {
        track.track_id: track
        for track in read_catalogue(args.root / "catalogue")
        if track.split == "train" and track.style
    }
    table = read_features(args.root / "features" / "features.parquet")
    rows = [n for n, track_id in enumerate(table.track_ids) if track_id in tracks]
    mixed_N = [
        Mixed(track.song, table.segments[n], track.style)
        for n, track in ((n, tracks[table.track_ids[n]]) for n in rows)
        if track.style
    ]
    share_D = measure_style_share(mixed_N, table.features_BD[rows])
    write_json(
        args.out,
        {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "num_songs": len({mixed.song for mixed in mixed_N}),
            "num_styles": len({mixed.style for mixed in mixed_N}),
            "data_fingerprint": fingerprint({"tracks": sorted(tracks)}),
            "share": {
                name: round(share, 4)
                for name, share in zip(FEATURE_NAMES, share_D.tolist(), strict=True)
            },
        },
    )
    log.info("style share of %d segments: mean %.2f", len(rows), float(share_D.mean()))


if __name__ == "__main__":
    main()
