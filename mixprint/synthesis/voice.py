"""A singing voice, computed: a source and a vocal tract. All output is exact (see `exact`)."""

import numpy as np

from mixprint.synthesis.compose import Syllable
from mixprint.synthesis.exact import (
    Rng,
    Signal,
    band_pass,
    buzz,
    drift,
    envelope,
    filtered,
    high_pass,
    midi_hz,
    phase,
    ramp,
    samples,
    scalar,
    shelf,
    sine,
)
from mixprint.synthesis.parts import Parts, add_sound, driven_together, total

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


def vocals(rng: Rng, syllables: tuple[Syllable, ...], num_samples: int, *, apart: bool) -> Parts:
    """Sing all syllables.

    Args:
        rng: draws the voice.
        syllables: what is sung.
        num_samples: length of the result.
        apart: whether a second voice is a part of its own.

    Returns:
        signal_CT of each part, stereo.
    """
    scale = scalar(1.0 + 0.2 * rng.uniform() + 0.008 * max(0.0, _mean_pitch(syllables) - 55.0))
    sound = _Voice(rng, scale)
    lead = sound.sing(syllables, num_samples, 0.0)
    voices = {"lead vocals": np.stack([lead, lead])}
    if rng.chance(0.35):  # a second voice, an octave or a third away, on one side
        interval, side = rng.choice((0.0, 4.0, -12.0, 7.0)), rng.uniform(0.2, 0.8)
        double = sound.sing(syllables, num_samples, interval) * rng.uniform(0.3, 0.6)
        voices["backing vocals"] = np.stack([2 * (1 - side) * double, 2 * side * double])
    if not apart:
        voices = {"vocals": total(voices, num_samples)}
    if rng.chance(0.2):
        voices = driven_together(voices, rng.uniform(0.5, 2.0))
    return {name: filtered(voice_CT, high_pass(80.0)) for name, voice_CT in voices.items()}


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
