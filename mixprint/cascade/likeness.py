"""How much of a mix is the rhythm of one song and the harmony of another.

Shape suffixes: T sample, N frame, H pitch class, K block.
"""

from typing import NamedTuple

from torch import Tensor

from mixprint.dsp.chroma import chroma, harmony_likeness
from mixprint.dsp.harmonic import harmonic_and_percussive
from mixprint.dsp.rhythm import onset_envelope, rhythm_likeness


class Character(NamedTuple):
    """Rhythm and harmony of a piece of music.

    Attributes:
        onset_1N: see `mixprint.dsp.rhythm.onset_envelope`, of the percussive part.
        chroma_1KH: see `mixprint.dsp.chroma.chroma`, of the harmonic part.
    """

    onset_1N: Tensor
    chroma_1KH: Tensor

    @classmethod
    def of(cls, audio_T: Tensor, sample_rate_hz: int) -> "Character":
        """Measure mono audio of half a second or longer."""
        harmonic_1T, percussive_1T = harmonic_and_percussive(audio_T[None], sample_rate_hz)
        return cls(
            onset_envelope(percussive_1T, sample_rate_hz), chroma(harmonic_1T, sample_rate_hz)
        )

    def rhythm(self, other: "Character") -> float:
        """Return how alike the rhythms are, -1 to 1."""
        return float(rhythm_likeness(self.onset_1N, other.onset_1N))

    def harmony(self, other: "Character") -> float:
        """Return how alike the harmonies are, -1 to 1."""
        return float(harmony_likeness(self.chroma_1KH, other.chroma_1KH))


class Likeness(NamedTuple):
    """Likeness of a mix to the two songs that it is made of.

    Attributes:
        rhythm_input: likeness of its rhythm to that of the input.
        rhythm_target: likewise, to that of the target.
        harmony_input: likeness of its harmony to that of the input.
        harmony_target: likewise, to that of the target.
    """

    rhythm_input: float
    rhythm_target: float
    harmony_input: float
    harmony_target: float

    @classmethod
    def of(cls, mix: Character, input_: Character, target: Character) -> "Likeness":
        """Compare a mix with both songs."""
        return cls(mix.rhythm(input_), mix.rhythm(target), mix.harmony(input_), mix.harmony(target))

    @property
    def score(self) -> float:
        """Rhythm of the input and harmony of the target, less the reverse.

        2 for what is all of both, 0 for either song and for half of each, -2 for the reverse.
        """
        rhythm = self.rhythm_input - self.rhythm_target
        return rhythm + self.harmony_target - self.harmony_input
