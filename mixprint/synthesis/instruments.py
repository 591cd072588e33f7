"""Instruments: from notes to sound. All output is exact (see `exact`)."""

import numpy as np

from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from mixprint.synthesis import exact
from mixprint.synthesis.compose import Hit, Note, Score, Syllable
from mixprint.synthesis.exact import (
    Rng,
    Signal,
    band_pass,
    buzz,
    decay,
    drift,
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
    shelf,
    sine,
)

# RMS of a stem's loud parts before mixing; drums, with their peaks, would else sound far too soft.
REFERENCE_DBFS = {"vocals": -20.0, "bass": -23.0, "drums": -18.0, "other": -21.0}


def render(score: Score, seed: int) -> dict[str, Signal]:
    """Play a score.

    Args:
        score: the composed song.
        seed: the collection's seed; it draws the sound of each instrument.

    Returns:
        stem name -> signal_CT, stereo, dry, all at the same reference level.
    """
    num_samples = samples(score.duration_s)
    parts = {
        "drums": _drums(Rng(seed, score.name, "drum sounds"), score.drums, num_samples),
        "bass": _bass(Rng(seed, score.name, "bass sound"), score.bass, num_samples),
        "vocals": _vocals(Rng(seed, score.name, "voice"), score.vocals, num_samples),
    }
    other_CT = np.zeros((2, num_samples))
    for index, (name, notes) in enumerate(score.layers):
        rng = Rng(seed, score.name, name, "layer")
        layer_CT = levelled(_layer(rng, name, notes, num_samples))
        position = rng.uniform(0.25, 0.75) if index else 0.5
        layer_CT *= np.array([[2 * (1 - position)], [2 * position]])
        other_CT += layer_CT * gain(rng.uniform(-5.0, 0.0))
    parts["other"] = other_CT
    return {stem: levelled(parts[stem]) * gain(REFERENCE_DBFS[stem]) for stem in STEMS}


def levelled(x_CT: Signal) -> Signal:
    """Bring the RMS of the louder half of the 0.1 s blocks to 1."""
    block = samples(0.1)
    num_blocks = x_CT.shape[1] // block
    square = (x_CT[0] * x_CT[0] + x_CT[1] * x_CT[1])[: num_blocks * block]
    power = np.sort(np.cumsum(square.reshape(num_blocks, block), axis=1)[:, -1])[num_blocks // 2 :]
    mean = exact.total(power) / (2 * block * max(1, len(power)))
    if mean < 1e-12:
        return x_CT
    return x_CT * scalar(mean**-0.5)


def add_sound(track: Signal, start_s: float, sound: Signal) -> None:
    """Add a sound to a track in place; what hangs over the end is cut off."""
    start = samples(start_s)
    stop = min(start + sound.shape[-1], track.shape[-1])
    if stop > start:
        track[..., start:stop] += sound[..., : stop - start]


def driven(x: Signal, drive: float) -> Signal:
    """Distort softly: x / (1 + |x|)."""
    x = x * drive
    return x / (1.0 + np.abs(x))


# --- drums -------------------------------------------------------------------------------------


def _drums(rng: Rng, hits: tuple[Hit, ...], num_samples: int) -> Signal:
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
    track_CT = np.zeros((2, num_samples))
    for hit in hits:
        sound = kit[hit.drum] * (levels[hit.drum] * hit.velocity)
        pan = pans[hit.drum]
        add_sound(track_CT, hit.start_s, np.stack([2 * (1 - pan) * sound, 2 * pan * sound]))
    room = exact.reverb(track_CT[0] + track_CT[1], rng.uniform(0.2, 0.7), 6000.0, 0.5)
    track_CT += room * rng.uniform(0.0, 0.25)
    if rng.chance(0.3):
        track_CT = driven(track_CT, rng.uniform(0.5, 2.0))
    return track_CT


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


def _layer(rng: Rng, name: str, notes: tuple[Note, ...], num_samples: int) -> Signal:
    if name == "distorted":
        return _distorted(rng, notes, num_samples)
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
    return filtered(track_CT, high_pass(rng.uniform(60.0, 180.0)))


def _distorted(rng: Rng, notes: tuple[Note, ...], num_samples: int) -> Signal:
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
    return np.stack([left + (1 - width) * right, right + (1 - width) * left])


# --- the voice ---------------------------------------------------------------------------------

# Formant frequencies of a male speaker in Hz (Peterson and Barney 1952), then two fixed ones.
_FORMANTS_HZ = {
    "i": (270.0, 2290.0, 3010.0, 3600.0, 4600.0),
    "e": (530.0, 1840.0, 2480.0, 3500.0, 4500.0),
    "ae": (660.0, 1720.0, 2410.0, 3500.0, 4500.0),
    "a": (730.0, 1090.0, 2440.0, 3400.0, 4400.0),
    "o": (570.0, 840.0, 2410.0, 3300.0, 4400.0),
    "u": (300.0, 870.0, 2240.0, 3300.0, 4300.0),
    "uh": (640.0, 1190.0, 2390.0, 3400.0, 4400.0),
}
_BANDWIDTHS_HZ = (80.0, 100.0, 130.0, 180.0, 250.0)
_CONSONANTS = {  # centre and Q of the noise, level, seconds
    "s": (7500.0, 1.5, 0.5, 0.11),
    "sh": (3600.0, 1.2, 0.5, 0.11),
    "f": (6000.0, 0.5, 0.2, 0.08),
    "t": (4500.0, 0.7, 0.6, 0.025),
    "k": (2000.0, 1.0, 0.6, 0.03),
    "h": (1500.0, 0.5, 0.15, 0.07),
}


def _vocals(rng: Rng, syllables: tuple[Syllable, ...], num_samples: int) -> Signal:
    scale = scalar(1.0 + 0.2 * rng.uniform() + 0.008 * max(0.0, _mean_pitch(syllables) - 55.0))
    sound = _Voice(rng, scale)
    lead = sound.sing(syllables, num_samples, 0.0)
    track_CT = np.stack([lead, lead])
    if rng.chance(0.35):  # a second voice, an octave or a third away, on one side
        interval, side = rng.choice((0.0, 4.0, -12.0, 7.0)), rng.uniform(0.2, 0.8)
        double = sound.sing(syllables, num_samples, interval) * rng.uniform(0.3, 0.6)
        track_CT += np.stack([2 * (1 - side) * double, 2 * side * double])
    if rng.chance(0.2):
        track_CT = driven(track_CT, rng.uniform(0.5, 2.0))
    return filtered(track_CT, high_pass(80.0))


def _mean_pitch(syllables: tuple[Syllable, ...]) -> float:
    return sum(s.pitch for s in syllables) / max(1, len(syllables))


class _Voice:
    """A singer: a source with vibrato and breath, and a vocal tract of five formants."""

    def __init__(self, rng: Rng, formant_scale: float) -> None:
        self.rng = rng
        self.formant_scale = formant_scale
        self.effort = rng.uniform(0.8, 0.93)  # brightness of the source
        self.breath = rng.uniform(0.01, 0.12)
        self.vibrato_hz = rng.uniform(4.8, 6.5)
        self.vibrato_depth = rng.uniform(0.001, 0.016)
        self.glide_s = rng.uniform(0.02, 0.09)

    def sing(self, syllables: tuple[Syllable, ...], num_samples: int, interval: float) -> Signal:
        """Sing all syllables, transposed by an interval in semitones; returns signal_T."""
        rng = self.rng
        tracks = {
            vowel: np.zeros(num_samples) for vowel in dict.fromkeys(s.vowel for s in syllables)
        }
        noises = np.zeros(num_samples)
        previous_hz = 0.0
        for s in syllables:
            n = samples(s.length_s + 0.03)
            hz = midi_hz(s.pitch + interval)
            from_hz = previous_hz or hz * rng.uniform(0.9, 1.0)
            previous_hz = hz
            glide = np.minimum(1.0, np.arange(n) / max(1, samples(self.glide_s)))
            glide = glide * glide * (3.0 - 2.0 * glide)
            vibrato = sine(phase(self.vibrato_hz, n)) * ramp((0.0, 0.3, 1.0, 1.0), n)
            wobble = 1.0 + self.vibrato_depth * vibrato + 0.004 * drift(rng, n, 12.0)
            turns = phase((from_hz + (hz - from_hz) * glide) * wobble, n, rng.uniform())
            shape = envelope(n, 0.03 + 0.03 * rng.uniform(), 0.06)
            shape *= 0.85 + 0.15 * drift(rng, n, 8.0)
            source = buzz(turns, self.effort * (0.6 + 0.4 * shape * s.velocity))
            source += self.breath * rng.noise(n) * (1.0 + sine(turns))
            add_sound(tracks[s.vowel], s.start_s, source * shape * s.velocity)
            self._consonant(noises, s)
        voice = np.zeros(num_samples)
        for vowel, track in tracks.items():
            bands = zip(_FORMANTS_HZ[vowel], _BANDWIDTHS_HZ, strict=True)
            for number, (formant_hz, bandwidth_hz) in enumerate(bands):
                centre_hz = formant_hz * self.formant_scale
                resonance = filtered(track, band_pass(centre_hz, centre_hz / bandwidth_hz))
                # Neighbouring formants are in opposite phase, so that no notch falls between.
                voice += resonance * ((-1.0) ** number * (1.0, 0.7, 0.5, 0.35, 0.25)[number])
        voice = filtered(voice + 0.02 * sum(tracks.values()), shelf(3000.0, 4.0, high=True))
        return voice + noises

    def _consonant(self, noises: Signal, s: Syllable) -> None:
        if s.consonant not in _CONSONANTS:
            return
        centre_hz, q, level, length_s = _CONSONANTS[s.consonant]
        n = samples(length_s * self.rng.uniform(0.7, 1.3))
        attack_s = 0.001 if s.consonant in ("t", "k") else 0.4 * length_s
        noise = filtered(self.rng.noise(n), band_pass(centre_hz * self.formant_scale, q))
        start_s = max(0.0, s.start_s - 0.7 * length_s)
        add_sound(
            noises, start_s, noise * envelope(n, attack_s, 0.4 * length_s) * (level * s.velocity)
        )
