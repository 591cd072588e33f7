"""Mixes of real multitracks like real songs, by the objective measure of Diff-MST.

Of the tracks of one song and of each reference, sections of ten seconds are paired in their order.
The reference is brought to -16 LUFS, and so are all mixes but the published baseline, the sum in
mono whose highest sample is 1. What a mix sounds like tells this measure little: it says how far
its levels, dynamics, width, balance and spectrum lie from those of the reference, whatever is
played there.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mixprint.audio.files import probe, read_audio
from mixprint.audio.levels import loudness_lufs
from mixprint.audio.signatures import AUDIO_SUFFIXES
from mixprint.collection.sources import MIXTURE
from mixprint.console.excerpts import part_of
from mixprint.console.rendering import render
from mixprint.console.rules import vocal_by_rule
from mixprint.console.settings import Settings
from mixprint.console.tracks import find_tracks, read_in_step
from mixprint.dsp.decibels import amplitude
from mixprint.evaluation.finished import Finished
from mixprint.evaluation.objective import TERMS, corrected_terms, published_terms
from mixprint.fingerprint import code_version, file_sha256
from mixprint.progress import progress
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.text import shown

log = logging.getLogger("mixprint.benchmarks")

SECTION_S = 10.0
LUFS = -16.0
_TRACK_LUFS = -30.0
TRACKS, REFERENCES = "multitrack", "mixtures"
MONO, EQUAL, RULES, ONE_PASS, HUMAN = (
    "equal loudness, mono",
    "equal loudness",
    "rules for the voice, others at equal loudness",
    "controller, one pass",
    "human mix",
)
NO_TRACKS = "the multitracks are not here ({folder}): expected {tracks}/ and {references}/"
NO_CONTROLLER = "no controller is shipped: name one with --controller; its rows are left out"


@dataclass(frozen=True, kw_only=True)
class RealMixes:
    """Mixes that are measured.

    Attributes:
        folder: has the folders `TRACKS` and `REFERENCES`.
        controller: folder of a controller; None: the shipped one, if there is one.
        num_steps: of the fit after the controller's pass; 0: there is none.
        num_sections: of the tracks and of each reference, at most.
        num_references: so many songs, at most.
    """

    folder: Path
    controller: Path | None
    num_steps: int
    num_sections: int
    num_references: int


def measure(asked: RealMixes, finished: Finished) -> list[dict[str, Any]]:
    """Mix, measure, and average over the sections; nothing, with a sentence, without tracks."""
    if not all((asked.folder / name).is_dir() for name in (TRACKS, REFERENCES)):
        log.warning(NO_TRACKS.format(folder=asked.folder, tracks=TRACKS, references=REFERENCES))
        return []
    mixer = _Mixer(asked)
    named = find_tracks([asked.folder / TRACKS])
    human = named.pop(MIXTURE, None)
    sections = list(_sections(asked, list(named.values())))
    made_with = {
        "code": code_version("mixprint.evaluation.objective", "mixprint.api.mixing"),
        "tracks": [file_sha256(path) for path in named.values()],
        "mixer": mixer.identity,
    }
    rows = []
    for reference, start_s in progress(sections, len(sections), "measured", "sections", log):
        key = {**made_with, "reference": file_sha256(reference), "start_s": start_s}
        work = partial(_measured, mixer, named, human, reference, start_s)
        rows += finished.result(key, work)["rows"]
    return summarise(rows)


def _sections(asked: RealMixes, tracks: Sequence[Path]) -> Iterator[tuple[Path, float]]:
    """List the references with the times at which tracks and reference are cut."""
    songs = sorted(
        path
        for path in (asked.folder / REFERENCES).iterdir()
        if path.suffix.lower() in AUDIO_SUFFIXES
    )
    shortest_s = min(probe(path).duration_s for path in tracks)
    for song in songs[: asked.num_references]:
        length_s = min(shortest_s, probe(song).duration_s)
        for number in range(min(asked.num_sections, int(length_s // SECTION_S))):
            yield song, number * SECTION_S


class _Mixer:
    """Ways to mix tracks like a reference."""

    def __init__(self, asked: RealMixes) -> None:
        from mixprint.controller.shipped import load_named, ships_controller
        from mixprint.separation import load_separator

        self._asked = asked
        self._controller = None
        if asked.controller is None and not ships_controller():
            log.warning(NO_CONTROLLER)
        else:
            self._controller = load_named(asked.controller, "cpu")
            self._separator = load_separator()
        self.identity = {
            "controller": "" if self._controller is None else self._controller.fingerprint,
            "separator": "" if self._controller is None else self._separator.fingerprint,
            "num_steps": asked.num_steps,
        }

    def mixes(self, tracks: Mapping[str, Tensor], reference_CT: Tensor) -> dict[str, Tensor]:
        """Return mix_CT by each way, of any level."""
        from mixprint.controller.roles import guess_role

        equal = {name: _at_loudness(x_CT, _TRACK_LUFS) for name, x_CT in tracks.items()}
        mono_T = torch.stack([x_CT.mean(dim=0) for x_CT in equal.values()]).sum(dim=0)
        found = {
            MONO: (mono_T / mono_T.abs().max()).expand(2, -1),
            EQUAL: torch.stack(list(equal.values())).sum(dim=0),
        }
        voices = [name for name in tracks if guess_role(name) == "vocals"]
        if voices:
            ruled = equal | {name: _by_rule(tracks[name], name) for name in voices}
            found[RULES] = torch.stack(list(ruled.values())).sum(dim=0)
        if self._controller is not None:
            found |= self._by_controller(tracks, reference_CT)
        return found

    def _by_controller(
        self, tracks: Mapping[str, Tensor], reference_CT: Tensor
    ) -> dict[str, Tensor]:
        from mixprint.api.mixing import excerpt_of, fit, predict
        from mixprint.api.references import Reference

        assert self._controller is not None
        tracks_NCT, device = torch.stack(list(tracks.values())), torch.device("cpu")
        heard = excerpt_of(tracks_NCT, SAMPLE_RATE_HZ)
        reference = Reference(REFERENCES, self._separator.separate(reference_CT), reference_CT)
        settings, spread = predict(self._controller, heard, list(tracks), reference, device=device)
        found = {ONE_PASS: _rendered(tracks_NCT, settings)}
        if num_steps := self._asked.num_steps:
            fitted = fit(settings, spread, heard, reference, num_steps, device=device)
            found[with_steps(num_steps)] = _rendered(tracks_NCT, fitted.settings)
        return found


def with_steps(num_steps: int) -> str:
    """Name the row of the fit."""
    return f"controller, {num_steps} steps"


def _measured(
    mixer: _Mixer, named: Mapping[str, Path], human: Path | None, reference: Path, start_s: float
) -> dict[str, Any]:
    """Measure the mixes of one section."""
    first = round(start_s * SAMPLE_RATE_HZ)
    last = first + round(SECTION_S * SAMPLE_RATE_HZ)
    tracks_NCT = part_of(read_in_step(list(named.values()), SAMPLE_RATE_HZ), first, last)
    wanted_CT = _at_loudness(read_audio(reference, start_s=start_s, duration_s=SECTION_S), LUFS)
    tracks = dict(zip(named, tracks_NCT, strict=True))
    sounding = {name: x_CT for name, x_CT in tracks.items() if bool(x_CT.any())}
    mixes = mixer.mixes(sounding, wanted_CT)
    if human is not None:
        mixes[HUMAN] = read_audio(human, start_s=start_s, duration_s=SECTION_S)
    rows = []
    for method, mix_CT in mixes.items():
        levelled_CT = mix_CT if method == MONO else _at_loudness(mix_CT, LUFS)
        rows.append(
            {
                "method": method,
                "reference": shown(reference.stem),
                "start_s": start_s,
                "published": published_terms(levelled_CT, wanted_CT, SAMPLE_RATE_HZ),
                "corrected": corrected_terms(levelled_CT, wanted_CT, SAMPLE_RATE_HZ),
            }
        )
    return {"rows": rows}


def _at_loudness(audio_CT: Tensor, lufs: float) -> Tensor:
    gain_db = lufs - loudness_lufs(audio_CT, SAMPLE_RATE_HZ)
    return audio_CT * amplitude(torch.tensor(gain_db))


def _by_rule(voice_CT: Tensor, name: str) -> Tensor:
    found = vocal_by_rule(voice_CT, SAMPLE_RATE_HZ, name=name, target_lufs=_TRACK_LUFS)
    return _rendered(voice_CT[None], found.settings)


def _rendered(tracks_NCT: Tensor, settings: Settings) -> Tensor:
    return render(tracks_NCT, settings, SAMPLE_RATE_HZ).sum(dim=0).float()


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average the terms of each method over the sections."""
    summary = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        means = {
            kind: {name: sum(row[kind][name] for row in own) / len(own) for name in TERMS}
            for kind in ("published", "corrected")
        }
        summary.append({"method": method, "sections": len(own), **means})
    return summary


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write both measures of each method."""
    if not rows:
        return ["The multitracks were not at hand."]
    columns = [column for column, _ in TERMS.values()]
    lines = [
        "Real multitracks mixed like real songs: the measure of Diff-MST with its faults, columns "
        "in its units (AF = 0.001 RMS + 0.1 CF + 0.01 SW + 0.01 SI + BS), and the same features in "
        "dB; means over sections of ten seconds, smaller is nearer.",
        "",
        f"| method | sections | {' | '.join([*columns, 'AF'])} | "
        f"{' | '.join(f'{name}, dB' for name in TERMS)} | mean, dB |",
        "| --- | ---: |" + " ---: |" * (2 * len(TERMS) + 2),
    ]
    for row in rows:
        published, corrected = row["published"], row["corrected"]
        cells = [f"{TERMS[name][1] * published[name]:.2f}" for name in TERMS]
        cells.append(f"{sum(published.values()):.3f}")
        cells += [f"{corrected[name]:.1f}" for name in TERMS]
        cells.append(f"{sum(corrected.values()) / len(TERMS):.1f}")
        lines.append(f"| {row['method']} | {row['sections']} | {' | '.join(cells)} |")
    return lines
