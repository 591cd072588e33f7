"""Separate: every song becomes four stems, cut into segments, in sharded Parquet.

A shard is the unit of work: the fan-out of the DAG gives each its own task, and a run that was
killed redoes only the shards that have no done marker.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from components.layout import STEMS_FOLDER, catalogue_manifest, shard_manifest
from components.step import Manifest, clear_errors, recorded, share_cores, step_parser
from mixprint.config import StepConfig, load_params
from mixprint.errors import ConfigError
from mixprint.stems import STEMS

if TYPE_CHECKING:
    from mixprint.catalogue import Track
    from mixprint.separation import Separator
    from mixprint.shards import StemShardWriter

log = logging.getLogger("mixprint.separate")

EXPORT_FOLDER = "stems_audio"
ALL_SHARDS = -1


@dataclass(frozen=True, kw_only=True)
class SeparateConfig(StepConfig):
    """Parameters of the separation."""

    section: ClassVar[str] = "separate"
    checkpoint: str
    config: str
    segment_s: float
    window_s: float
    overlap: float
    batch_size: int
    device: str
    export: str

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.segment_s <= 0 or self.window_s < 0 or self.batch_size < 1:
            raise ConfigError(
                f"separate: expected segment_s > 0, window_s >= 0 and batch_size >= 1, got "
                f"{self.segment_s}, {self.window_s} and {self.batch_size}"
            )
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"separate.overlap must be in [0, 1), got {self.overlap}")
        if self.export not in {"none", "wav", "flac"}:
            raise ConfigError(f"separate.export must be none, wav or flac, got {self.export!r}")


def run(
    *, root: str, config: SeparateConfig, num_shards: int, catalogue: Manifest, shard: int
) -> list[Manifest]:
    """Separate the songs of one shard, or of all.

    Args:
        root: root folder of the run.
        config: parameters of the step.
        num_shards: how many shards the songs are dealt to.
        catalogue: the folder of the catalogue.
        shard: number of the shard, or `ALL_SHARDS`.

    Returns:
        a manifest per shard that was asked for.
    """
    name = "separate" if shard == ALL_SHARDS else f"separate-{shard:05d}"
    with recorded(Path(root), name):
        # torch takes a second to import, and a KFP driver that only wires has no need of it.
        from mixprint.shards import remove_other_shards

        folder = Path(root) / STEMS_FOLDER
        # One task of the fan-out clears what an older num_shards has left; two would race.
        if shard in {ALL_SHARDS, 0} and folder.exists():
            for path in remove_other_shards(folder, num_shards):
                log.info("removed %s: the songs are dealt to %d shards now", path, num_shards)
        wanted = range(num_shards) if shard == ALL_SHARDS else [shard]
        return _separate(Path(root), config, num_shards, Path(catalogue.uri), wanted)


def _separate(
    root: Path, config: SeparateConfig, num_shards: int, catalogue_dir: Path, wanted: Sequence[int]
) -> list[Manifest]:
    from mixprint.catalogue import read_catalogue, shard_of
    from mixprint.device import resolve_device
    from mixprint.fingerprint import code_version, fingerprint
    from mixprint.progress import progress
    from mixprint.separation import load_separator
    from mixprint.shards import SeparatorFingerprint, is_done, shard_name, write_shard
    from mixprint.stems import SAMPLE_RATE_HZ

    folder = root / STEMS_FOLDER
    share_cores()
    separator = load_separator(
        config.checkpoint, config.config or None, device=resolve_device(config.device)
    )
    made_with = SeparatorFingerprint(
        model=separator.fingerprint["model"],
        checkpoint_sha256=separator.fingerprint["checkpoint_sha256"],
        code_version=code_version("mixprint.separation", "mixprint.audio", "mixprint.segments"),
    )
    tracks = sorted(read_catalogue(catalogue_dir), key=lambda track: track.track_id)
    manifests = []
    for index in wanted:
        path = folder / shard_name(index, num_shards)
        members = [t for t in tracks if shard_of(t.track_id, num_shards) == index]
        recipe = fingerprint(
            {
                "tracks": [track.track_id for track in members],
                "segment_s": config.segment_s,
                "window_s": config.window_s,
                "overlap": config.overlap,
                "separator": asdict(made_with),
            }
        )
        if is_done(path, recipe) and _exported(root, config, members):
            log.info("%s: unchanged and finished, nothing to do", path.name)
        else:
            with write_shard(
                path,
                fingerprint=recipe,
                sample_rate_hz=SAMPLE_RATE_HZ,
                separator=made_with,
                track_ids=[track.track_id for track in members],
            ) as writer:
                for track in progress(members, len(members), "separated", "songs", log):
                    _separate_track(root, config, separator, track, writer)
        manifests.append(shard_manifest(root, index, num_shards))
    return manifests


def _separate_track(
    root: Path,
    config: SeparateConfig,
    separator: "Separator",
    track: "Track",
    writer: "StemShardWriter",
) -> None:
    """Separate one song, add its segments to the shard, and export the stems if wanted."""
    from mixprint.audio import read_audio, write_audio
    from mixprint.catalogue import path_from_uri
    from mixprint.segments import segment_starts
    from mixprint.stems import SAMPLE_RATE_HZ, unpack

    audio_CT = read_audio(path_from_uri(track.uri), sample_rate_hz=SAMPLE_RATE_HZ)
    stems_SCT = separator.separate(
        audio_CT,
        window_s=config.window_s or None,
        overlap=config.overlap,
        batch_size=config.batch_size,
    )
    num_samples = round(config.segment_s * SAMPLE_RATE_HZ)
    starts_s = segment_starts(audio_CT.shape[-1] / SAMPLE_RATE_HZ, config.segment_s)
    for segment, start_s in enumerate(starts_s):
        # The last start is a rounded quotient; it must not reach beyond the song's end.
        first = min(round(start_s * SAMPLE_RATE_HZ), audio_CT.shape[-1] - num_samples)
        writer.write(track.track_id, segment, start_s, stems_SCT[..., first : first + num_samples])
    if config.export != "none":
        for stem, stem_CT in unpack(stems_SCT).items():
            write_audio(_export_path(root, config, track, stem), stem_CT, SAMPLE_RATE_HZ)


def _exported(root: Path, config: SeparateConfig, tracks: Sequence["Track"]) -> bool:
    """Tell whether the files that the export would write are there."""
    return config.export == "none" or all(
        _export_path(root, config, track, stem).is_file() for track in tracks for stem in STEMS
    )


def _export_path(root: Path, config: SeparateConfig, track: "Track", stem: str) -> Path:
    return root / EXPORT_FOLDER / track.track_id / f"{stem}.{config.export}"


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    parser.add_argument("--shard", type=int, default=ALL_SHARDS, help="one shard; default all")
    args = parser.parse_args()
    run(
        root=str(args.root),
        config=SeparateConfig.load(args.params, args.profile),
        num_shards=load_params(args.params, args.profile)["ingest"]["num_shards"],
        catalogue=catalogue_manifest(args.root),
        shard=args.shard,
    )


if __name__ == "__main__":
    with clear_errors():
        main()
