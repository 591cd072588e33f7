"""Separate: every song becomes four stems, cut into segments, in sharded Parquet.

A shard is the unit of work: the fan-out of the DAG gives each its own task, and a run that was
killed redoes only the shards that have no done marker.

In a bucket, too: claims, shards and markers lie there, each written once, and of a shard only the
worker that makes it has a copy on its disk, until it is uploaded.

Any number of workers may share the work, on one machine or many: start this several times with
the same root. Each takes shards that no other has (`mixprint.storage.claims`), waits for those that
others have, and takes over what a killed one has left. When it returns, all shards that it was
asked for are done.

A song that cannot be separated is left out of its shard, whose marker names it with the reason. It
is tried again when the shard is made anew, for other songs, parameters or code.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from components.layout import STEMS_FOLDER, catalogue_manifest, shard_manifest
from components.run_folder import CLAIMS_FOLDER, MirroredRun, RunFolder
from components.step import Manifest, Sharding, clear_errors, recorded, share_cores, step_parser
from mixprint.config import StepConfig, load_params
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import code_version, fingerprint
from mixprint.separation.diffusion.settings import SamplingSettings
from mixprint.stems import STEMS
from mixprint.storage.bucket import GcsBucket, in_parallel, open_bucket
from mixprint.storage.download import check_url, is_url

if TYPE_CHECKING:
    from mixprint.collection.catalogue import Track
    from mixprint.collection.shard_upload import Replaced
    from mixprint.collection.shards import RejectedSong, SeparatorFingerprint, StemShardWriter
    from mixprint.separation import Separator
    from mixprint.storage.claims import Claim

log = logging.getLogger("mixprint.separate")

EXPORT_FOLDER = "stems_audio"
# What the stems follow from, with all that it imports; an edit elsewhere, of the training say,
# leaves finished shards alone.
CODE = ("mixprint.separation.sharding",)
# As in mixprint.separation.runner, which takes a second to import.
PRECISIONS = ("float32", "bfloat16", "float16")
ALL_SHARDS = -1


@dataclass(frozen=True, kw_only=True)
class SeparateConfig(StepConfig):
    """Parameters of the separation."""

    section: ClassVar[str] = "separate"
    method: Literal["scnet", "diffusion"]
    checkpoint: str
    config: str
    segment_s: float
    window_s: float
    overlap: float
    batch_size: int
    device: str
    precision: str
    compile: bool
    export: str
    sampling: SamplingSettings

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.segment_s <= 0 or self.window_s < 0 or self.batch_size < 0:
            raise ConfigError(
                f"separate: expected segment_s > 0, window_s >= 0 and batch_size >= 0, got "
                f"{self.segment_s}, {self.window_s} and {self.batch_size}"
            )
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"separate.overlap must be in [0, 1), got {self.overlap}")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"separate.precision must be one of {PRECISIONS}, got {self.precision!r}"
            )
        for source in (self.checkpoint, self.config):
            if is_url(source):
                check_url(source, is_recorded=True)
        if self.compile and self.method == "diffusion":
            raise ConfigError("separate.compile: expected false with the method diffusion")
        if self.export not in {"none", "wav", "flac"}:
            raise ConfigError(f"separate.export must be none, wav or flac, got {self.export!r}")


def run(
    *,
    root: str,
    config: SeparateConfig,
    num_shards: int,
    catalogue: Manifest,
    shard: int,
    max_reject_fraction: float = 1.0,
) -> list[Manifest]:
    """Separate the songs of one shard, or of all.

    Args:
        root: root folder of the run.
        config: parameters of the step.
        num_shards: how many shards the songs are dealt to.
        catalogue: the folder of the catalogue.
        shard: number of the shard, or `ALL_SHARDS`.
        max_reject_fraction: part of the songs of the whole catalogue that may be left out because
            they cannot be separated.

    Returns:
        a manifest per shard that was asked for.

    Raises:
        DataError: more songs than that cannot be separated.
    """
    name = "separate" if shard == ALL_SHARDS else f"separate-{shard:05d}"
    with recorded(root, name, is_shared=True) as run_folder:
        place = shard_place(run_folder)
        wanted = range(num_shards) if shard == ALL_SHARDS else [shard]
        catalogue_dir = run_folder.local(catalogue.uri)
        _separate(place, config, num_shards, catalogue_dir, wanted)
        _check_rejects(place, catalogue_dir, num_shards, wanted, max_reject_fraction)
        return [shard_manifest(root, index, num_shards) for index in wanted]


def _separate(
    place: "ShardPlace",
    config: SeparateConfig,
    num_shards: int,
    catalogue_dir: Path,
    wanted: Sequence[int],
) -> None:
    from mixprint.collection.catalogue import read_catalogue
    from mixprint.collection.shards import SeparatorFingerprint, shard_name, shard_of
    from mixprint.separation.source import SeparatorSource, of_four_stems
    from mixprint.storage.claims import joint_work, work_through

    share_cores()
    separator = of_four_stems(SeparatorSource.of_step(config.to_values()).load())
    made_with = SeparatorFingerprint(
        model=separator.fingerprint["model"],
        checkpoint_sha256=separator.fingerprint["checkpoint_sha256"],
        code_version=code_version(*CODE),
    )
    members: dict[str, list[Track]] = {shard_name(index, num_shards): [] for index in wanted}
    catalogue = sorted(read_catalogue(catalogue_dir), key=lambda track: track.track_id)
    for track in catalogue:
        name = shard_name(shard_of(track.track_id, num_shards), num_shards)
        if name in members:
            members[name].append(track)
    recipes = {
        name: fingerprint(_recipe(config, separator, [track.track_id for track in tracks]))
        for name, tracks in members.items()
    }

    def is_finished(name: str) -> bool:
        if not place.is_done(name, recipes[name]):
            return False
        return config.export == "none" or place.has(
            _exports(config, members[name], place.rejects(name))
        )

    def work(name: str, claim: "Claim") -> None:
        made = Made(recipes[name], fingerprint(_recipe(config, separator, ())), made_with)
        _make_shard(place, name, made, config, separator, members[name], claim)

    recipe = _recipe(config, separator, [track.track_id for track in catalogue])
    recipe["num_shards"] = num_shards
    with joint_work(place.claims, STEMS_FOLDER, fingerprint(recipe), _activity(recipe)):
        # One task of the fan-out clears what an older num_shards has left; two would race.
        if 0 in wanted:
            for where in place.remove_others(num_shards):
                log.info("removed %s: the songs are dealt to %d shards now", where, num_shards)
        left = []
        for name in members:
            if is_finished(name):
                log.info("%s: unchanged and finished, nothing to do", name)
            else:
                left.append(name)
        work_through(place.claims, left, is_done=is_finished, work=work)


def _activity(recipe: Mapping[str, Any]) -> str:
    """Say by what a separation differs from another one, for the messages of both."""
    long = ("tracks", "separator", "code")
    shown = {n: fingerprint(v)[:8] if n in long else v for n, v in recipe.items()}
    return "separate with " + ", ".join(f"{name} {value}" for name, value in shown.items())


@dataclass(frozen=True)
class Made:
    """Parts that a shard is made from.

    Attributes:
        fingerprint: of the songs, the parameters and the separator.
        recipe: of the parameters and the separator: that of all shards of the set.
        separator: kept in every row.
    """

    fingerprint: str
    recipe: str
    separator: "SeparatorFingerprint"


def _recipe(
    config: SeparateConfig, separator: "Separator", track_ids: Sequence[str]
) -> dict[str, Any]:
    """Name all that a shard follows from; without songs, all that the shards of a set share.

    Neither the batch size nor `compile` is part of it: they change nothing beyond rounding. The
    export is, for the marker vouches for the exported stems, too.
    """
    return {
        "tracks": list(track_ids),
        "segment_s": config.segment_s,
        "window_s": config.window_s,
        "overlap": config.overlap,
        "precision": config.precision,
        "export": config.export,
        "separator": separator.fingerprint,
        "code": code_version(*CODE),
    }


def _make_shard(
    place: "ShardPlace",
    name: str,
    made: "Made",
    config: SeparateConfig,
    separator: "Separator",
    tracks: Sequence["Track"],
    claim: "Claim",
) -> None:
    """Separate the songs of a shard that this worker has claimed."""
    from mixprint.collection.remote_shards import index_path
    from mixprint.collection.shards import done_path, write_shard
    from mixprint.progress import progress
    from mixprint.stems import SAMPLE_RATE_HZ
    from mixprint.storage.atomic import remove_leftovers

    path = place.folder / name
    for target in (path, index_path(path), done_path(path)):
        for leftover in remove_leftovers(target):
            log.info("removed %s, left by a writer of %s", leftover, target.name)
    claim.check()
    place.begin(name, has_exports=config.export != "none")
    try:
        with write_shard(
            path,
            fingerprint=made.fingerprint,
            sample_rate_hz=SAMPLE_RATE_HZ,
            separator=made.separator,
            recipe=made.recipe,
            track_ids=[track.track_id for track in tracks],
            check=claim.check,
        ) as writer:
            for track in progress(tracks, len(tracks), "separated", "songs", log):
                _separate_track(place, config, separator, track, writer)
                place.make_room(name)
                claim.check()
    except FileNotFoundError:
        # A new owner clears away the temporary files of one that it takes for dead.
        claim.check()
        raise
    claim.check()
    place.publish(name)


def _separate_track(
    place: "ShardPlace",
    config: SeparateConfig,
    separator: "Separator",
    track: "Track",
    writer: "StemShardWriter",
) -> None:
    """Separate one song, add its segments to the shard, and export the stems if wanted.

    A song that cannot be separated is left out, with its reason. What is the machine's fault, as a
    volume that is away or too little memory, is an error: it would be no song's next time.
    """
    from mixprint.collection.locations import local_song
    from mixprint.errors import AudioError
    from mixprint.separation.files import FileSettings, separate_file
    from mixprint.separation.sharding import ShardedSong
    from mixprint.text import shown

    song = ShardedSong(
        writer,
        track.track_id,
        segment_s=config.segment_s,
        sample_rate_hz=separator.sample_rate_hz,
    )
    with local_song(track.uri) as path:
        try:
            if config.export == "none":
                for mixture_CT, stems_SCT in separator.stream_file(
                    path,
                    window_s=config.window_s or None,
                    overlap=config.overlap,
                    batch_size=config.batch_size,
                ):
                    song.add(mixture_CT, stems_SCT)
            else:
                separate_file(
                    separator,
                    path,
                    place.root / EXPORT_FOLDER / track.track_id,
                    FileSettings(
                        container=config.export,
                        bit_depth="16",
                        window_s=config.window_s or None,
                        overlap=config.overlap,
                        batch_size=config.batch_size,
                    ),
                    overwrite=True,
                    on_piece=song.add,
                )
            song.finish()
        except AudioError as error:
            if isinstance(error.__cause__, OSError):
                raise
            # Where the song lies for all: the path may be that of a copy.
            detail = error.detail.replace(shown(path), track.uri)
            writer.reject(track.track_id, AudioError(error.reason, detail))


def _check_rejects(
    place: "ShardPlace",
    catalogue_dir: Path,
    num_shards: int,
    wanted: Sequence[int],
    max_fraction: float,
) -> None:
    """Fail when too many songs of the whole run were left out, in whatever shards they are.

    Who has left out none need not look: of the others, the last one sees all.
    """
    from mixprint.collection.catalogue import read_catalogue
    from mixprint.collection.shards import shard_name

    if not any(place.rejects(shard_name(index, num_shards)) for index in wanted):
        return
    everywhere = [place.rejects(shard_name(index, num_shards)) for index in range(num_shards)]
    reasons = Counter(song.reason for found in everywhere for song in found.values())
    num_songs = len(read_catalogue(catalogue_dir))
    if reasons.total() > max_fraction * num_songs or reasons.total() == num_songs:
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise DataError(
            f"separate: expected at most {max_fraction:.0%} of the songs to be left out "
            f"(ingest.max_reject_fraction), and not all, found {reasons.total()} of {num_songs}: "
            f"{told}; the markers in {STEMS_FOLDER}/ name them"
        )


def _exports(
    config: SeparateConfig, tracks: Sequence["Track"], rejects: Collection[str]
) -> list[str]:
    """Name the files that the export writes, below the root."""
    return [
        f"{EXPORT_FOLDER}/{track.track_id}/{stem}.{config.export}"
        for track in tracks
        if track.track_id not in rejects
        for stem in STEMS
    ]


class ShardPlace:
    """Place where the shards of a run are made, on a local disk.

    Attributes:
        root: folder of the run.
        folder: of the shards.
        claims: where workers claim them.
    """

    def __init__(self, run_folder: RunFolder) -> None:
        """Touch nothing yet."""
        self.root = run_folder.path
        self.folder = run_folder.path / STEMS_FOLDER
        self.claims: Path | GcsBucket = run_folder.path / CLAIMS_FOLDER

    def remove_others(self, num_shards: int) -> Sequence[Path | str]:
        """Remove the shards of sets of another size, and say where they lay."""
        from mixprint.collection.shards import remove_other_shards

        return remove_other_shards(self.folder, num_shards) if self.folder.exists() else []

    def is_done(self, name: str, recipe: str) -> bool:
        """Tell whether a shard is whole and made by this recipe."""
        from mixprint.collection.shards import is_done

        return is_done(self.folder / name, recipe)

    def has(self, names: Sequence[str]) -> bool:
        """Tell whether files below the root are there."""
        return all((self.root / name).is_file() for name in names)

    def rejects(self, name: str) -> "Mapping[str, RejectedSong]":
        """Say which songs a shard lacks, and why; none where it is not finished."""
        from mixprint.collection.shards import done_path, read_marker

        path = self.folder / name
        return read_marker(path).rejects if done_path(path).is_file() else {}

    def begin(self, name: str, *, has_exports: bool) -> None:
        """Prepare to write a shard.

        Args:
            name: of the shard.
            has_exports: whether files are exported, which takes place one by one: an older marker
                no longer vouches for them, and is taken back now.
        """
        from mixprint.collection.shards import marker_content, take_back_marker

        if has_exports:
            path = self.folder / name
            take_back_marker(path, marker_content(path))

    def make_room(self, name: str) -> None:
        """Make sure that what is written of a shard may lie here."""

    def publish(self, name: str) -> None:
        """Let others see a shard that is written."""


class BucketPlace(ShardPlace):
    """Place where the shards of a run in a bucket are made."""

    def __init__(self, run_folder: MirroredRun) -> None:
        """Let the folder of the shards stand for that in the bucket."""
        from mixprint.collection.remote_shards import point_to_bucket

        super().__init__(run_folder)
        point_to_bucket(self.folder, run_folder.uri(self.folder))
        self._run_folder = run_folder
        self.claims = open_bucket(f"{run_folder.root}/{CLAIMS_FOLDER}")
        self._replaced: dict[str, Replaced] = {}

    def remove_others(self, num_shards: int) -> Sequence[Path | str]:
        """See `ShardPlace.remove_others`."""
        from mixprint.collection.shard_upload import remove_other_shards_in_bucket

        return remove_other_shards_in_bucket(self.folder, num_shards)

    def is_done(self, name: str, recipe: str) -> bool:
        """See `ShardPlace.is_done`."""
        from mixprint.collection.shard_upload import is_in_bucket

        return is_in_bucket(self.folder / name, recipe)

    def has(self, names: Sequence[str]) -> bool:
        """See `ShardPlace.has`."""
        return all(in_parallel(self._run_folder.bucket.exists, names))

    def rejects(self, name: str) -> "Mapping[str, RejectedSong]":
        """See `ShardPlace.rejects`."""
        from mixprint.collection.remote_shards import bucket_of
        from mixprint.collection.shards import done_path

        bucket, marker = bucket_of(self.folder), done_path(self.folder / name)
        if not bucket.exists(marker.name):
            return {}
        bucket.download(marker.name, marker)
        return super().rejects(name)

    def begin(self, name: str, *, has_exports: bool) -> None:
        """See `ShardPlace.begin`."""
        from mixprint.collection.shard_upload import begin_shard, take_back_marker

        self._replaced[name] = begin_shard(self.folder / name)
        if has_exports:
            take_back_marker(self.folder / name, self._replaced[name])

    def make_room(self, name: str) -> None:
        """See `ShardPlace.make_room`; it is called after each song."""
        self._run_folder.scratch.make_room(0, f"{self._run_folder.uri(self.folder)}/{name}")

    def publish(self, name: str) -> None:
        """See `ShardPlace.publish`: exported stems first, for the marker vouches for all."""
        from mixprint.collection.shard_upload import publish_shard

        self._run_folder.publish()
        self._run_folder.drop(self.root / EXPORT_FOLDER)
        publish_shard(self.folder / name, self._replaced.pop(name))


def shard_place(run_folder: RunFolder) -> ShardPlace:
    """Find where the shards of a run are made."""
    if isinstance(run_folder, MirroredRun):
        return BucketPlace(run_folder)
    return ShardPlace(run_folder)


def main() -> None:
    """Read the command line and run."""
    parser = step_parser(__doc__)
    parser.add_argument("--shard", type=int, default=ALL_SHARDS, help="one shard; default all")
    args = parser.parse_args()
    ingest = Sharding.of_section(load_params(args.params, args.profile)["ingest"])
    run(
        root=args.root,
        config=SeparateConfig.load(args.params, args.profile),
        num_shards=ingest.num_shards,
        catalogue=catalogue_manifest(args.root),
        shard=args.shard,
        max_reject_fraction=ingest.max_reject_fraction,
    )


if __name__ == "__main__":
    with clear_errors():
        main()
