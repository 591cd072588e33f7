"""Instruments: from notes to sound. All output is exact (see `exact`).

A song is played as stems or, by the same code, as the dry tracks of a multitrack recording, which
add up to these stems.
"""

from dataclasses import dataclass

import numpy as np

from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis import exact
from mixprint.synthesis.compose import Hit, Note, Score
from mixprint.synthesis.exact import (
    Rng,
    Signal,
    band_pass,
    buzz,
    decay,
    envelope,
    filtered,
    gain,
    high_pass,
    low_pass,
    midi_hz,
    peak,
    phase,
    ramp,
    samples,
    saw,
    scalar,
    sine,
)
from mixprint.synthesis.parts import (
    Parts,
    add_sound,
    driven,
    driven_together,
    level_factor,
    total,
)
from mixprint.synthesis.voice import vocals

# RMS of a stem's loud parts before mixing; drums, with their peaks, would else sound far too soft.
REFERENCE_DBFS = {"vocals": -20.0, "bass": -23.0, "drums": -18.0, "other": -21.0}
# What a track is recorded as, by its name; the layers of `other` are named by their instruments.
TRACK_ROLES = {
    "lead vocals": "vocals",
    "backing vocals": "backing",
    "bass": "bass",
    "kick": "kick",
    "snare": "snare",
    "clap": "snare",
    "rim": "snare",
    "hat": "hats",
    "ride": "cymbals",
    "crash": "cymbals",
    "tom": "toms",
    "shaker": "percussion",
    "drum room": "room",
    "guitar": "guitar",
    "distorted left": "guitar",
    "distorted right": "guitar",
    "piano": "keys",
    "keys": "keys",
    "organ": "keys",
    "bells": "keys",
    "pad": "pad",
    "strings": "strings",
    "brass": "brass",
    "pluck": "synth",
    "supersaw": "synth",
    "lead": "synth",
}
MAX_TRACKS = 16
# Strokes that are recorded on one track; every other drum has its own.
_SHARED_TRACKS = {"open": "hat"}


@dataclass(frozen=True)
class Track:
    """A dry track.

    Attributes:
        name: a key of `TRACK_ROLES`.
        stem: of the four, the one that it is part of.
        signal_CT: one channel where both sides would be the same, else two.
    """

    name: str
    stem: str
    signal_CT: Signal

    @property
    def role(self) -> str:
        """Role of the track."""
        return TRACK_ROLES[self.name]


def render(score: Score, seed: int) -> dict[str, Signal]:
    """Play a score as stems.

    Args:
        score: the composed song.
        seed: the collection's seed; it draws the sound of each instrument.

    Returns:
        stem name -> signal_CT, stereo, dry, all at the same reference level.
    """
    stems = {}
    for stem, parts in _played(score, seed, apart=False).items():
        total_CT = total(parts, samples(score.duration_s))
        stems[stem] = total_CT * level_factor(total_CT) * gain(REFERENCE_DBFS[stem])
    return stems


def render_tracks(score: Score, seed: int) -> list[Track]:
    """Play a score as dry tracks: each drum, the bass, each layer of `other`, each voice.

    Args:
        score: the composed song.
        seed: as that of `render`.

    Returns:
        at most `MAX_TRACKS`; those of one stem add up to what `render` plays, but for rounding.
    """
    tracks = []
    for stem, parts in _played(score, seed, apart=True).items():
        factor = level_factor(total(parts, samples(score.duration_s)))
        for name, part_CT in parts.items():
            signal_CT = part_CT * factor * gain(REFERENCE_DBFS[stem])
            is_mono = np.array_equal(signal_CT[0], signal_CT[-1])
            tracks.append(Track(name, stem, signal_CT[:1] if is_mono else signal_CT))
    return tracks


def _played(score: Score, seed: int, *, apart: bool) -> dict[str, Parts]:
    """Play each stem, as a single part or (apart) as one for each track."""
    num_samples = samples(score.duration_s)
    drums, voice = Rng(seed, score.name, "drum sounds"), Rng(seed, score.name, "voice")
    parts = {
        "vocals": vocals(voice, score.vocals, num_samples, apart=apart),
        "bass": {"bass": _bass(Rng(seed, score.name, "bass sound"), score.bass, num_samples)},
        "drums": _drums(drums, score.drums, num_samples, apart=apart),
        "other": _others(score, seed, num_samples, apart=apart),
    }
    return {stem: parts[stem] for stem in STEMS}


def _others(score: Score, seed: int, num_samples: int, *, apart: bool) -> Parts:
    others: dict[str, Signal] = {}
    for index, (name, notes) in enumerate(score.layers):
        rng = Rng(seed, score.name, name, "layer")
        layers = _layer(rng, name, notes, num_samples, apart=apart)
        factor = level_factor(total(layers, num_samples))
        position = rng.uniform(0.25, 0.75) if index else 0.5
        sides = np.array([[2 * (1 - position)], [2 * position]])
        level = gain(rng.uniform(-5.0, 0.0))
        others |= {part: layer_CT * factor * sides * level for part, layer_CT in layers.items()}
    return others


# --- drums -------------------------------------------------------------------------------------


def _drums(rng: Rng, hits: tuple[Hit, ...], num_samples: int, *, apart: bool) -> Parts:
    kit = {drum: _drum(rng, drum) for drum in dict.fromkeys(hit.drum for hit in hits)}
    levels = {
        "kick": 1.0,
        "snare": rng.uniform(0.6, 1.0),
        "clap": 0.7,
        "rim": 0.5,
        "hat": rng.uniform(0.15, 0.4),
        "open": rng.uniform(0.15, 0.35),
        "ride": rng.uniform(0.15, 0.3),
        "crash": rng.uniform(0.25, 0.5),
        "shaker": 0.2,
        "tom": 0.7,
    }
    centred = ("kick", "snare", "clap")
    pans = {drum: 0.5 if drum in centred else rng.uniform(0.25, 0.75) for drum in kit}
    names = {drum: _SHARED_TRACKS.get(drum, drum) if apart else "drums" for drum in kit}
    tracks = {name: np.zeros((2, num_samples)) for name in names.values()}
    for hit in hits:
        sound = kit[hit.drum] * (levels[hit.drum] * hit.velocity)
        pan = pans[hit.drum]
        add_sound(
            tracks[names[hit.drum]], hit.start_s, np.stack([2 * (1 - pan) * sound, 2 * pan * sound])
        )
    dry_CT = total(tracks, num_samples)
    room_CT = exact.reverb(dry_CT[0] + dry_CT[1], rng.uniform(0.2, 0.7), 6000.0, 0.5)
    tracks["drum room"] = room_CT * rng.uniform(0.0, 0.25)
    if not apart:
        tracks = {"drums": total(tracks, num_samples)}
    return driven_together(tracks, rng.uniform(0.5, 2.0)) if rng.chance(0.3) else tracks


def _drum(rng: Rng, drum: str) -> Signal:
    if drum == "kick":
        n = samples(rng.uniform(0.2, 0.45))
        base, sweep = rng.uniform(42.0, 62.0), rng.uniform(80.0, 260.0)
        body = sine(phase(base + sweep * decay(n, rng.uniform(0.06, 0.15)), n))
        click = filtered(rng.noise(n), band_pass(rng.uniform(2000.0, 5000.0), 0.7))
        sound = body * decay(n, rng.uniform(0.25, 0.6)) + click * decay(n, 0.02) * rng.uniform(
            0.2, 1
        )
        return driven(sound, rng.uniform(0.3, 2.0)) * envelope(n, 0.0005, 0.03)
    if drum == "snare":
        n = samples(rng.uniform(0.2, 0.45))
        tone_hz = rng.uniform(150.0, 260.0)
        tone = sine(phase(tone_hz * (1.0 + 0.5 * decay(n, 0.05)), n))
        tone += 0.6 * sine(phase(tone_hz * 1.59, n))
        wires = filtered(
            rng.noise(n),
            high_pass(rng.uniform(700.0, 2000.0)),
            peak(rng.uniform(3000.0, 7000.0), 6.0),
        )
        crack = filtered(rng.noise(n), high_pass(2000.0)) * decay(n, 0.03)
        return (
            tone * decay(n, rng.uniform(0.1, 0.25)) * 0.7
            + wires * decay(n, rng.uniform(0.15, 0.4)) * rng.uniform(0.6, 1.2)
            + crack
        ) * envelope(n, 0.0005, 0.03)
    if drum == "clap":
        n = samples(0.3)
        shape = np.zeros(n)
        for delay_s in (0.0, 0.011, 0.023):
            add_sound(shape, delay_s, decay(n, 0.03))
        add_sound(shape, 0.03, 0.8 * decay(n, rng.uniform(0.15, 0.3)))
        return filtered(rng.noise(n), band_pass(rng.uniform(900.0, 1800.0), 1.0)) * shape * 2.0
    if drum == "tom":
        n = samples(0.4)
        tom_hz = rng.uniform(80.0, 180.0)
        body = sine(phase(tom_hz * (1.0 + 0.4 * decay(n, 0.08)), n)) * decay(n, 0.4)
        return body + 0.2 * rng.noise(n) * decay(n, 0.05)
    if drum == "rim":
        n = samples(0.1)
        hz = rng.uniform(1200.0, 2000.0)
        return (sine(phase(hz, n)) + 0.5 * sine(phase(hz * 0.57, n))) * decay(n, 0.06)
    if drum == "shaker":
        n = samples(0.12)
        return filtered(rng.noise(n), high_pass(5000.0)) * envelope(n, 0.03, 0.08)
    lengths_s = {"hat": (0.04, 0.12), "open": (0.3, 0.5), "ride": (0.5, 1.0), "crash": (1.2, 2.5)}
    time_s = rng.uniform(*lengths_s[drum])
    n = samples(min(1.6, time_s * 1.2))
    metal = np.zeros(n)
    for ratio in (1.0, 1.342, 1.5, 1.93, 2.31, 2.67):
        step = scalar(rng.uniform(300.0, 420.0) * ratio * 4 / SAMPLE_RATE_HZ)
        metal += np.where(np.arange(n) * step % 1.0 < 0.5, 1.0, -1.0)
    mix = rng.uniform(0.1, 0.5)
    sound = mix * metal / 3.0 + (1.0 - mix) * rng.noise(n)
    sound = filtered(sound, high_pass(rng.uniform(4000.0, 8000.0) if time_s < 0.6 else 3000.0))
    return sound * decay(n, time_s) * envelope(n, 0.0005, 0.01)


# --- bass --------------------------------------------------------------------------------------


def _bass(rng: Rng, notes: tuple[Note, ...], num_samples: int) -> Signal:
    kind = rng.choice(("finger", "finger", "pick", "synth", "sub", "saw"))
    bright, sweep_s = rng.uniform(0.3, 0.75), rng.uniform(0.1, 0.6)
    track = np.zeros(num_samples)
    for note in notes:
        n = samples(note.length_s + 0.05)
        hz = midi_hz(note.pitch)
        turns = phase(hz, n)
        if kind in ("finger", "pick"):
            brightness = 0.15 + bright * decay(n, 1.0)
            sound = buzz(turns, brightness) * (0.3 + 0.7 * decay(n, 2.5))
            noise = filtered(rng.noise(samples(0.02)), band_pass(1800.0, 0.8))
            add_sound(sound, 0.0, noise * (0.8 if kind == "pick" else 0.25))
        elif kind == "synth":
            sound = buzz(turns, 0.2 + 0.7 * bright * decay(n, sweep_s))
            sound += 0.5 * sine(0.5 * turns)
        elif kind == "saw":
            sound = saw(turns, hz / SAMPLE_RATE_HZ) + saw(
                turns * 1.004, hz * 1.004 / SAMPLE_RATE_HZ
            )
        else:
            sound = sine(turns) + 0.2 * sine(2.0 * turns)
        add_sound(track, note.start_s, sound * envelope(n, 0.004, 0.05) * note.velocity)
    if kind == "saw":
        track = filtered(track, low_pass(rng.uniform(300.0, 1500.0), 1.2))
    if rng.chance(0.4):
        track = driven(track, rng.uniform(0.5, 3.0))
    track = filtered(track, high_pass(28.0), low_pass(rng.uniform(2500.0, 7000.0)))
    return np.stack([track, track])


# --- the other instruments ---------------------------------------------------------------------


def _layer(rng: Rng, name: str, notes: tuple[Note, ...], num_samples: int, *, apart: bool) -> Parts:
    if name == "distorted":
        takes = _distorted(rng, notes, num_samples)
        return takes if apart else {name: total(takes, num_samples)}
    track_CT = np.zeros((2, num_samples))
    bright = rng.uniform(0.35, 0.85)
    width = rng.uniform(0.0, 0.6)
    ratio, index = rng.choice((1.0, 2.0, 3.0, 7.0)), rng.uniform(0.1, 0.35)
    for note in notes:
        tail_s = {"piano": 0.25, "guitar": 0.3, "bells": 1.2, "pad": 0.3, "strings": 0.2}
        n = samples(note.length_s + tail_s.get(name, 0.08))
        hz = midi_hz(note.pitch)
        if name == "piano":
            sound = np.zeros(n)
            for string, level in ((1.0, 1.0), (1.0007, 0.8), (2.003, 0.25)):
                sound += level * buzz(phase(hz * string, n), 0.2 + bright * 0.6 * decay(n, 0.8))
            hammer = filtered(rng.noise(samples(0.015)), band_pass(hz * 3.0, 1.0))
            add_sound(sound, 0.0, hammer)
            sound *= decay(n, 3.0) * envelope(n, 0.002, 0.2)
        elif name == "guitar":
            period = round(SAMPLE_RATE_HZ / hz - 0.5)
            burst = filtered(rng.noise(period), low_pass(2000.0 + 8000.0 * bright * note.velocity))
            sound = exact.pluck(burst, period, 0.996, n) * envelope(n, 0.0005, 0.1) * 2.0
        elif name == "keys":
            modulator = sine(phase(hz * ratio, n)) * (index * decay(n, 0.8))
            sound = sine(phase(hz, n) + modulator) * decay(n, 2.0) * envelope(n, 0.002, 0.06)
        elif name == "organ":
            sound = np.zeros(n)
            for harmonic, level in ((0.5, 0.7), (1.0, 1.0), (1.5, 0.6), (2.0, 0.6), (4.0, bright)):
                sound += level * sine(phase(hz * harmonic, n))
            sound *= envelope(n, 0.008, 0.03)
        elif name == "bells":
            sound = np.zeros(n)
            for partial, level, time_s in ((1.0, 1.0, 2.0), (2.76, 0.5, 1.0), (5.4, 0.3, 0.5)):
                sound += level * sine(phase(hz * partial, n)) * decay(n, time_s)
            sound *= envelope(n, 0.001, 0.2)
        elif name == "brass":
            swell = envelope(n, 0.06, 0.06)
            sound = buzz(phase(hz, n), 0.1 + 0.8 * bright * swell) * swell
        elif name == "pluck":
            sound = saw(phase(hz, n), hz / SAMPLE_RATE_HZ) * decay(n, rng.uniform(0.3, 0.5))
            sound *= envelope(n, 0.002, 0.02)
        elif name == "lead":
            vibrato = 1.0 + 0.006 * sine(phase(5.5, n)) * ramp((0.0, 1.0), n)
            turns = phase(hz * vibrato, n)
            sound = saw(turns, hz / SAMPLE_RATE_HZ) * envelope(n, 0.01, 0.05)
        else:  # pad, strings, supersaw: several detuned saws, different left and right
            attack_s = {"pad": 0.25, "strings": 0.1, "supersaw": 0.005}[name]
            shape = envelope(n, min(attack_s, 0.4 * note.length_s), 0.15) * note.velocity
            for detune in (0.994, 0.998, 1.003, 1.007):
                detuned_hz = hz * detune * (1.0 + 0.001 * rng.uniform(-1.0, 1.0))
                voice = (
                    saw(phase(detuned_hz, n, rng.uniform()), detuned_hz / SAMPLE_RATE_HZ) * shape
                )
                side = 0.5 + width * rng.uniform(-0.8, 0.8)
                add_sound(track_CT, note.start_s, np.stack([(1 - side) * voice, side * voice]))
            continue
        spread = width * ((note.pitch % 12.0) / 12.0 - 0.5)
        sound = sound * note.velocity
        add_sound(track_CT, note.start_s, np.stack([(1 - spread) * sound, (1 + spread) * sound]))
    cutoff_hz = 1200.0 + 9000.0 * bright * bright
    if name in ("pad", "strings", "supersaw", "lead", "pluck"):
        track_CT = filtered(track_CT, low_pass(cutoff_hz, rng.uniform(0.6, 1.5)))
    return {name: filtered(track_CT, high_pass(rng.uniform(60.0, 180.0)))}


def _distorted(rng: Rng, notes: tuple[Note, ...], num_samples: int) -> dict[str, Signal]:
    """Two takes of a rhythm guitar, left and right, through an amplifier and a loudspeaker."""
    drive = rng.uniform(3.0, 25.0)
    takes = []
    for _ in range(2):
        track = np.zeros(num_samples)
        for note in notes:
            n = samples(note.length_s + 0.03)
            hz = midi_hz(note.pitch) * (1.0 + 0.002 * rng.uniform(-1.0, 1.0))
            string = buzz(phase(hz, n, rng.uniform()), 0.5 + 0.35 * decay(n, 1.5))
            late_s = rng.uniform(0.0, 0.012)
            add_sound(
                track, note.start_s + late_s, string * decay(n, 5.0) * envelope(n, 0.003, 0.03)
            )
        amplified = driven(filtered(track, high_pass(110.0)), drive)
        takes.append(
            filtered(
                amplified,
                high_pass(rng.uniform(80.0, 130.0)),
                peak(rng.uniform(1800.0, 3200.0), rng.uniform(2.0, 6.0)),
                low_pass(rng.uniform(3500.0, 6500.0), 0.9),
                low_pass(rng.uniform(5000.0, 8000.0)),
            )
        )
    width = rng.uniform(0.5, 1.0)
    left, right = takes
    return {
        "distorted left": np.stack([left, (1 - width) * left]),
        "distorted right": np.stack([(1 - width) * right, right]),
    }
