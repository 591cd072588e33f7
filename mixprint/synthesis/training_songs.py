"""Songs to train a separator on: sampled instruments and singers beside the generated ones.

Composition and console are those of the embedded data set. The instruments are richer: a sound
bank (`soundbank`), guitars through an amplifier, speech that is sung (`singer`). They are dealt
into two camps, so that songs for validation are played by instruments that no training song has.

    python -m mixprint.synthesis.training_songs --out results/separator/songs --songs 500
"""

import argparse
import logging
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mixprint.errors import ConfigError
from mixprint.log import setup_logging
from mixprint.machine.processes import end_with_parent
from mixprint.progress import Progress
from mixprint.stems import STEMS
from mixprint.synthesis import instruments, singer, soundbank
from mixprint.synthesis.compose import Note, Score, compose
from mixprint.synthesis.dataset import write_mix
from mixprint.synthesis.exact import (
    Rng,
    Signal,
    filtered,
    gain,
    high_pass,
    low_pass,
    peak,
    samples,
)
from mixprint.synthesis.mixing import (
    STYLE_NAMES,
    MixSettings,
    draw_settings,
    free_style,
    mix,
)
from mixprint.synthesis.parts import driven, levelled

log = logging.getLogger("mixprint.synthesis.training_songs")

PACKAGES = "fluidsynth fluid-soundfont-gm flite espeak-ng"

_Option = TypeVar("_Option")


def _gm(*programs: int, bank: int = 0) -> tuple[tuple[int, int], ...]:
    """Return sounds of the bank as (bank, program)."""
    return tuple((bank, program) for program in programs)


# General MIDI's numbers by the role that the composition gives an instrument; bank 8 holds the
# variations of Roland's GS.
_SOUNDS = {
    "guitar": _gm(15, 24, 25, 26, 27, 28, 104, 105, 106) + _gm(24, 25, 26, 28, bank=8),
    "distorted": _gm(26, 27, 28, 29, 30) + _gm(30, bank=8),
    "piano": _gm(0, 1, 2, 3, 6, 7),
    "keys": _gm(2, 4, 5, 7, 11, 12) + _gm(4, 5, bank=8),
    "organ": _gm(16, 17, 18, 19, 20, 21, 22, 23) + _gm(16, 17, bank=8),
    "bells": _gm(8, 9, 10, 11, 12, 13, 14, 98, 108, 112, 114),
    "strings": _gm(40, 41, 42, 44, 45, 48, 49, 50, 51, 110) + _gm(40, bank=8),
    "brass": _gm(56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67),
    "pad": _gm(48, 50, 88, 89, 90, 91, 92, 93, 94, 95) + _gm(50, bank=8),
    "pluck": _gm(6, 12, 13, 24, 25, 45, 46, 99, 104, 107, 108),
    "supersaw": _gm(50, 62, 63, 80, 81, 84, 90),
    "lead": _gm(22, 40, 56, 65, 66, 68, 71, 73, 75, 80, 81, 82, 83, 84, 87, 109),
}
_BASSES = _gm(32, 33, 34, 35, 36, 37, 38, 39, 43, 87) + _gm(38, 39, bank=8)
_KITS = _gm(*range(20), 24, 25, *range(32, 37), 40, 41, 42)
# These play for validation alone: at least one for each role, in all variations.
_HELD_OUT_PROGRAMS = frozenset(
    (3, 5, 11, 14, 18, 21, 26, 30, 35, 38, 41, 44, 51, 58, 62, 66, 73, 82, 91, 95, 104, 108, 109)
)
_HELD_OUT_KITS = frozenset((16, 17, 18, 19, 24))  # "Power" and "Electronic"
_HELD_OUT_VOICES = frozenset(("flite:awb", "espeak:en-us+f3", "espeak:it+m3", "espeak:sw+m5"))
_DRUM_NOTES = {
    "kick": (35, 36),
    "snare": (38, 40),
    "clap": (39,),
    "rim": (37,),
    "hat": (42, 44),
    "open": (46,),
    "ride": (51, 53, 59),
    "crash": (49, 57, 55),
    "shaker": (70, 82, 54, 69),
    "tom": (41, 43, 45, 47, 48, 50),
}
_PERCUSSION = (54, 56, 60, 61, 62, 63, 64, 65, 67, 69, 70, 75, 76)
_STRUCK_S = 0.2  # length of a drum's note; the sample rings out by itself


def check_installed() -> None:
    """Make sure that all is there that plays and sings.

    Raises:
        ConfigError: something is missing; the message names the packages.
    """
    programs = (soundbank.PLAYER, *singer.PROGRAMS)
    missing = [name for name in programs if not shutil.which(name)]
    if not soundbank.BANK_PATH.is_file():
        missing.append(str(soundbank.BANK_PATH))
    if missing:
        raise ConfigError(
            f"training songs: expected {', '.join(programs)} and {soundbank.BANK_PATH}, did not "
            f"find {', '.join(missing)}; `apt-get install {PACKAGES}` brings them"
        )


@dataclass(frozen=True, kw_only=True)
class SongSource:
    """A supply of songs, each of which depends on its number alone.

    Attributes:
        seed: of all songs.
        duration_s: of each song.
        held_out: whether instruments that are held out play, or all the others.
        sampled: False: they are played as in the embedded data set, which needs no packages and
            holds no instrument out.
    """

    seed: int
    duration_s: float = 16.0
    held_out: bool = False
    sampled: bool = True

    def write(self, number: int, folder: Path) -> Path:
        """Make a song; one that is there already is kept.

        Args:
            number: number of the song.
            folder: receives a folder in the layout of `mixprint.synthesis.dataset`.

        Returns:
            the song's folder.
        """
        path = folder / self._name(number)
        if not path.is_dir():
            write_mix(path, *self.make(number))
        return path

    def make(self, number: int) -> tuple[dict[str, Signal], dict[str, Any]]:
        """Compose, play and mix a song.

        Returns:
            stem name -> signal_CT as it sounds in the mix, and the truth about the song.
        """
        score, dry = self.play(number)
        rng = Rng(self.seed, score.name, "mix")
        settings = _settings(rng) if self.sampled else draw_settings(rng.choice(STYLE_NAMES), rng)
        truth = {"song": score.name, "source": asdict(self), "genre": score.genre}
        return mix(dry, settings), truth | {"mix": settings.to_values()}

    def play(self, number: int) -> tuple[Score, dict[str, Signal]]:
        """Compose a song and play it.

        Returns:
            the score, and stem name -> dry signal_CT.
        """
        score = compose(self._name(number), self.seed, self.duration_s)
        dry = self._sampled(score) if self.sampled else instruments.render(score, self.seed)
        return score, dry

    def _name(self, number: int) -> str:
        return f"{'valid' if self.held_out else 'train'}{self.seed}-{number:05d}"

    def _sampled(self, score: Score) -> dict[str, Signal]:
        """Play a score; a stem that is not sampled is played as in the embedded data set."""
        rng = Rng(self.seed, score.name, "studio")
        sampled = {
            "drums": lambda: self._drums(rng, score),
            "bass": lambda: self._bass(rng, score),
            "vocals": lambda: self._vocals(rng, score),
            "other": lambda: self._other(rng, score),
        }
        probability = {"drums": 0.85, "bass": 0.8, "vocals": 0.8, "other": 0.85}
        dry: dict[str, Signal] = {}
        for stem in STEMS:
            if self.held_out or rng.chance(probability[stem]):
                signal_CT = levelled(sampled[stem]())
                dry[stem] = signal_CT * gain(instruments.REFERENCE_DBFS[stem])
        if len(dry) < len(STEMS):
            dry = instruments.render(score, self.seed) | dry
        return dry

    def _deal_sound(
        self,
        rng: Rng,
        sounds: tuple[tuple[int, int], ...],
        kept: frozenset[int] = _HELD_OUT_PROGRAMS,
    ) -> tuple[int, int]:
        """Choose one of the sounds that play in this camp."""
        return self._deal(rng, sounds, [program in kept for _, program in sounds])

    def _deal(self, rng: Rng, options: Sequence[_Option], kept: Sequence[bool]) -> _Option:
        """Choose one of this camp's options, given which of them are held out."""
        mine = [o for o, out in zip(options, kept, strict=True) if out == self.held_out]
        chosen: _Option = rng.choice(mine)
        return chosen

    def _drums(self, rng: Rng, score: Score) -> Signal:
        chosen = {drum: rng.choice(notes) for drum, notes in _DRUM_NOTES.items()}
        level = {drum: rng.uniform(0.75, 1.0) for drum in _DRUM_NOTES}
        notes = []
        for hit in score.drums:
            # A roll over the toms goes down; all others keep their drum.
            pitch = rng.choice(_DRUM_NOTES["tom"]) if hit.drum == "tom" else chosen[hit.drum]
            velocity = hit.velocity * level[hit.drum]
            notes.append(Note(hit.start_s, _STRUCK_S, float(pitch), velocity))
        if rng.chance(0.35):
            notes += _percussion(rng, score)
        kit = soundbank.Part(
            notes=notes,
            program=self._deal_sound(rng, _KITS, _HELD_OUT_KITS)[1],
            drums=True,
            detune_semitones=rng.uniform(-1.5, 1.5),
        )
        signal_CT = soundbank.play([kit], score.duration_s)
        if rng.chance(0.3):
            signal_CT = driven(signal_CT / signal_CT.std(), rng.uniform(0.05, 0.5))
        return signal_CT

    def _bass(self, rng: Rng, score: Score) -> Signal:
        bank, program = self._deal_sound(rng, _BASSES)
        part = soundbank.Part(
            notes=score.bass, bank=bank, program=program, detune_semitones=rng.uniform(-0.2, 0.2)
        )
        signal_CT = soundbank.play([part], score.duration_s)
        if rng.chance(0.8):  # a bass is nearly always in the middle
            signal_CT = np.repeat(signal_CT.mean(axis=0, keepdims=True), 2, axis=0)
        if rng.chance(0.4):
            signal_CT = driven(signal_CT / signal_CT.std(), rng.uniform(0.1, 1.5))
            signal_CT = filtered(signal_CT, low_pass(rng.uniform(1500.0, 6000.0)))
        return signal_CT

    def _vocals(self, rng: Rng, score: Score) -> Signal:
        kept = [voice in _HELD_OUT_VOICES for voice in singer.VOICES]
        speech = singer.speak(self._deal(rng, singer.VOICES, kept), rng.integer(0, 5))
        formant_scale = rng.uniform(0.88, 1.2)

        def take(interval_semitones: float) -> Signal:
            return singer.sing(
                speech,
                score.vocals,
                score.duration_s,
                rng,
                interval_semitones=interval_semitones,
                formant_scale=formant_scale,
            )

        register = rng.choice((0.0, 0.0, -12.0)) if score.vocals else 0.0
        lead = take(register)
        track_CT = np.stack([lead, lead])
        if rng.chance(0.35):  # doubles left and right, at the lead's pitch or in harmony
            interval = register + rng.choice((0.0, 0.0, 3.0, 4.0, -5.0, 7.0, 12.0))
            level = rng.uniform(0.2, 0.7)
            track_CT += level * np.stack([take(interval), take(interval)])
        if rng.chance(0.3):
            track_CT = track_CT + _echo(track_CT, rng.uniform(0.15, 0.5), rng.uniform(0.1, 0.4))
        if rng.chance(0.2):
            track_CT = driven(track_CT / track_CT.std(), rng.uniform(0.05, 0.6))
        return filtered(track_CT, high_pass(rng.uniform(60.0, 160.0)))

    def _other(self, rng: Rng, score: Score) -> Signal:
        total_CT = np.zeros((2, samples(score.duration_s)))
        for role, notes in score.layers:
            if role == "distorted":
                layer_CT = self._amplified(rng, notes, score.duration_s)
            else:
                layer_CT = soundbank.play(self._layer(rng, role, notes), score.duration_s)
            total_CT += levelled(layer_CT) * gain(rng.uniform(-8.0, 0.0))
        return total_CT

    def _layer(self, rng: Rng, role: str, notes: tuple[Note, ...]) -> list[soundbank.Part]:
        """Choose a layer for an instrument, now and then with a second one on top."""
        parts = []
        position = rng.uniform(-0.7, 0.7)
        for copy in range(2 if rng.chance(0.3) else 1):
            bank, program = self._deal_sound(rng, _SOUNDS[role])
            shift = rng.choice((0.0, 0.0, 12.0)) if copy else 0.0
            parts.append(
                soundbank.Part(
                    notes=[note._replace(pitch=note.pitch + shift) for note in notes],
                    bank=bank,
                    program=program,
                    pan=position * (1 - 2 * copy),
                    detune_semitones=rng.uniform(-0.15, 0.15),
                )
            )
        return parts

    def _amplified(self, rng: Rng, notes: tuple[Note, ...], duration_s: float) -> Signal:
        """Play two takes of a guitar, left and right, through an amplifier and its speaker."""
        bank, program = self._deal_sound(rng, _SOUNDS["distorted"])
        drive = rng.uniform(0.5, 12.0)
        takes = []
        for _ in range(2):
            late_s, detune = rng.uniform(0.0, 0.012), rng.uniform(-0.1, 0.1)
            part = soundbank.Part(
                notes=[note._replace(start_s=note.start_s + late_s) for note in notes],
                bank=bank,
                program=program,
                detune_semitones=detune,
            )
            dry = soundbank.play([part], duration_s).mean(axis=0)
            takes.append(driven(filtered(dry / dry.std(), high_pass(100.0)), drive))
        speaker = (
            high_pass(rng.uniform(70.0, 130.0)),
            peak(rng.uniform(1500.0, 3500.0), rng.uniform(0.0, 6.0)),
            low_pass(rng.uniform(3500.0, 7500.0), 0.9),
        )
        width = rng.uniform(0.3, 1.0)
        left, right = (filtered(take, *speaker) for take in takes)
        return np.stack([left + (1 - width) * right, right + (1 - width) * left])


def _percussion(rng: Rng, score: Score) -> list[Note]:
    """Add hand percussion on a steady grid."""
    step_s = 15.0 / score.tempo_bpm * rng.choice((1, 2, 2, 4))
    pitches = [rng.choice(_PERCUSSION) for _ in range(2)]
    played = [rng.chance(0.6) for _ in range(8)]
    return [
        Note(step * step_s, _STRUCK_S, float(rng.choice(pitches)), rng.uniform(0.3, 0.8))
        for step in range(int(score.duration_s / step_s))
        if played[step % len(played)]
    ]


def _echo(x_CT: Signal, delay_s: float, level: float) -> Signal:
    """Repeat a signal four times, softer each time, from side to side."""
    total_CT = np.zeros_like(x_CT)
    for repeat in range(1, 5):
        shift = samples(delay_s * repeat)
        if shift < x_CT.shape[1]:
            source_CT = x_CT[:, :-shift] * level**repeat
            total_CT[repeat % 2, shift:] += source_CT[repeat % 2]
            total_CT[1 - repeat % 2, shift:] += 0.4 * source_CT[1 - repeat % 2]
    return total_CT


def _settings(rng: Rng) -> MixSettings:
    """Draw a mix: half of them in the styles of the data set, half anywhere."""
    if rng.chance(0.5):
        return draw_settings(rng.choice(STYLE_NAMES), rng)

    return free_style(rng)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and write songs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--songs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--duration", type=float, default=16.0, help="seconds of a song")
    parser.add_argument("--held-out", action="store_true", help="play the held-out instruments")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(arguments)
    setup_logging()
    check_installed()
    source = SongSource(seed=args.seed, duration_s=args.duration, held_out=args.held_out)
    args.out.mkdir(parents=True, exist_ok=True)
    work: Any = partial(source.write, folder=args.out)
    with (
        Progress(log, "generated", total=args.songs, unit="songs") as progress,
        ProcessPoolExecutor(args.workers, initializer=end_with_parent) as pool,
    ):
        for _ in pool.map(work, range(args.songs)):
            progress.advance()


if __name__ == "__main__":
    main()
