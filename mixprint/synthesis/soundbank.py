"""Sampled instruments: FluidSynth plays the Fluid R3 General MIDI sound bank.

Both are Debian packages (`fluidsynth`, and `fluid-soundfont-gm` under the MIT licence). They are
needed for the training songs of the separator and for nothing else; the embedded data set is made
without them, because a sample player does not give the same bits on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mido
import numpy as np

from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.synthesis.compose import Note
from mixprint.synthesis.exact import Signal, samples
from mixprint.synthesis.programs import written_audio

BANK_PATH = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
PLAYER = "fluidsynth"

_TICKS_PER_BEAT = 480
_TICKS_PER_S = 2 * _TICKS_PER_BEAT  # MIDI's tempo when none is set is 120 beats a minute
_DRUM_CHANNEL = 9
_NUM_CHANNELS = 16
_BANK_SELECT, _PAN = 0, 10  # numbers of MIDI controllers
_BEND_RANGE_SEMITONES = 2.0  # General MIDI's default
_BEND_STEPS = 8191
_TAIL_S = 2.0  # releases sound on; what lies beyond the song's end is cut off


@dataclass(frozen=True, kw_only=True)
class Part:
    """Notes of one instrument.

    Attributes:
        notes: the notes; of a drum kit, the pitch names the drum (General MIDI's percussion map).
        program: number of the sound, 0 to 127; of a drum kit, the number of the kit.
        bank: variation of the sound.
        drums: whether this is a drum kit.
        pan: -1 left to 1 right.
        detune_semitones: -2 to 2.
    """

    notes: Sequence[Note]
    program: int
    bank: int = 0
    drums: bool = False
    pan: float = 0.0
    detune_semitones: float = 0.0


def play(parts: Sequence[Part], duration_s: float) -> Signal:
    """Play parts together, dry.

    Args:
        parts: at most 15 instruments and one drum kit.
        duration_s: length of the result.

    Returns:
        signal_CT, stereo.

    Raises:
        DataError: the player failed.
    """
    with TemporaryDirectory(prefix="mixprint-") as folder:
        score, sound = Path(folder) / "score.mid", Path(folder) / "sound.wav"
        _write_midi(score, parts, duration_s)
        # Reverb and chorus off: rooms are the mix's business.
        command = [PLAYER, "-ni", "-q", "-R", "0", "-C", "0", "-g", "0.3", "-O", "float"]
        command += ["-r", str(SAMPLE_RATE_HZ), "-F", str(sound), str(BANK_PATH), str(score)]
        audio_TC, _ = written_audio(command, sound)
    signal_CT = np.zeros((2, samples(duration_s)))
    length = min(signal_CT.shape[1], len(audio_TC))
    signal_CT[:, :length] = audio_TC[:length].T
    return signal_CT


def _write_midi(path: Path, parts: Sequence[Part], duration_s: float) -> None:
    """Write a standard MIDI file with a channel for each part."""
    channels = (c for c in range(_NUM_CHANNELS) if c != _DRUM_CHANNEL)
    track = mido.MidiTrack()
    events: list[tuple[int, int, mido.Message]] = []  # tick, order within the tick, message
    for part in parts:
        channel = _DRUM_CHANNEL if part.drums else next(channels)
        if not part.drums:
            events.append((0, 0, _control(channel, _BANK_SELECT, part.bank)))
        events.append((0, 1, mido.Message("program_change", channel=channel, program=part.program)))
        events.append((0, 2, _control(channel, _PAN, round(63.5 * (1 + part.pan)))))
        bend = round(part.detune_semitones / _BEND_RANGE_SEMITONES * _BEND_STEPS)
        events.append((0, 3, mido.Message("pitchwheel", channel=channel, pitch=bend)))
        for note in part.notes:
            if not 0 <= note.start_s < duration_s:
                continue
            pitch = min(max(round(note.pitch), 0), 127)
            velocity = min(max(round(127 * note.velocity), 1), 127)
            start = round(note.start_s * _TICKS_PER_S)
            stop = max(start + 1, round((note.start_s + note.length_s) * _TICKS_PER_S))
            on = mido.Message("note_on", channel=channel, note=pitch, velocity=velocity)
            # A note that ends where the next of its pitch begins must not end that one.
            events.append((start, 5, on))
            events.append((stop, 4, mido.Message("note_off", channel=channel, note=pitch)))
    tick = 0
    for at, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=at - tick))
        tick = at
    end = round((duration_s + _TAIL_S) * _TICKS_PER_S)
    track.append(mido.MetaMessage("end_of_track", time=max(0, end - tick)))
    mido.MidiFile(type=0, ticks_per_beat=_TICKS_PER_BEAT, tracks=[track]).save(path)


def _control(channel: int, control: int, value: int) -> mido.Message:
    return mido.Message("control_change", channel=channel, control=control, value=value)
