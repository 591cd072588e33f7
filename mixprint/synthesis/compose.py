"""Composition: what is played when, drawn from a seed.

A song has a genre, a key, a tempo, sections with chord progressions, and notes for each part.
"""

from dataclasses import dataclass
from typing import NamedTuple

from mixprint.synthesis.exact import Rng, scalar

GENRES = ("rock", "pop", "electro", "ballad", "funk", "hiphop")
_TEMPO_BPM = {
    "rock": (105, 165),
    "pop": (90, 128),
    "electro": (115, 136),
    "ballad": (64, 92),
    "funk": (92, 118),
    "hiphop": (74, 100),
}
_NOTE_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Scale degrees of the chords, a bar each.
_PROGRESSIONS = (
    (0, 4, 5, 3),
    (5, 3, 0, 4),
    (0, 5, 3, 4),
    (0, 3, 4, 3),
    (0, 6, 5, 4),
    (0, 2, 3, 4),
    (0, 0, 3, 4),
    (5, 4, 3, 4),
)
# Sixteenth steps of a bar, per genre and drum; letters are velocities: X loud, x normal, . soft.
_GROOVES: dict[str, tuple[dict[str, str], ...]] = {
    "rock": (
        {"kick": "X-------X-x-----", "snare": "----X-------X---", "hat": "x-.-x-.-x-.-x-.-"},
        {"kick": "X-----x-X---x---", "snare": "----X-------X--.", "ride": "x---x---x---x---"},
        {"kick": "X-x-----X-x-----", "snare": "----X-------X---", "crash": "x-------x-------"},
    ),
    "pop": (
        {"kick": "X-----x-x-------", "snare": "----X-------X---", "hat": "x.x.x.x.x.x.x.x."},
        {"kick": "X-------X-----x-", "clap": "----X-------X---", "hat": "x-x-x-x-x-x-x-x-"},
    ),
    "electro": (
        {"kick": "X---X---X---X---", "clap": "----x-------x---", "hat": "--X---X---X---X-"},
        {"kick": "X---X---X---X--x", "snare": "----X-------X---", "hat": ".xX..xX..xX..xX."},
    ),
    "ballad": (
        {"kick": "X-------x-x-----", "snare": "--------X-------", "hat": "x-x-x-x-x-x-x-x-"},
        {"kick": "X---------x-----", "rim": "----x-------x---", "shaker": ".x.x.x.x.x.x.x.x"},
    ),
    "funk": (
        {"kick": "X--x--x---x--x--", "snare": "----X..-.-..X--.", "hat": "xxxxxxxxxxxxxxxx"},
        {"kick": "X-x---x-x--x----", "snare": "----X--.-.--X..-", "hat": "x-xxx-xxx-xxx-xx"},
    ),
    "hiphop": (
        {"kick": "X--x---x--X-----", "snare": "----X-------X---", "hat": "x.x.x.xxx.x.x.x."},
        {"kick": "X-----X---x--x--", "clap": "----X-------X---", "shaker": "x-x-x-x-x-x-x-x-"},
    ),
}
_FILL = {"snare": "--------x-x-xxXX", "tom": "x-x-xx----------", "kick": "X-------x-------"}
_VELOCITY = {"X": 1.0, "x": 0.75, ".": 0.4}
_BASS_RHYTHMS = {
    "rock": ("x-x-x-x-x-x-x-x-", "x---x-x-x---x-x-"),
    "pop": ("x-----x-x-----x-", "x-------x---x---"),
    "electro": ("--x---x---x---x-", "xxx-xxx-xxx-xxx-", "x-x-x-x-x-x-x-x-"),
    "ballad": ("x---------x-----", "x---------------"),
    "funk": ("x--x--x-x-xx-x--", "x-xx----x--x-xx-"),
    "hiphop": ("x--x------x-----", "x------x--x-----"),
}
_CHORD_RHYTHMS = {
    "hold": "x---------------",
    "half": "x-------x-------",
    "eighths": "x-x-x-x-x-x-x-x-",
    "strum": "x---x-xx--x-x-xx",
    "offbeat": "--x---x---x---x-",
    "stab": "x--x--x---x-----",
}
VOWELS = ("i", "e", "ae", "a", "o", "u", "uh")


class Note(NamedTuple):
    """A note of one part: start and length in seconds, MIDI pitch, velocity 0..1."""

    start_s: float
    length_s: float
    pitch: float
    velocity: float


class Hit(NamedTuple):
    """A stroke on one drum: time in seconds, the drum's name, velocity 0..1."""

    start_s: float
    drum: str
    velocity: float


class Syllable(NamedTuple):
    """A sung note: like `Note`, with its vowel and whether a consonant leads into it."""

    start_s: float
    length_s: float
    pitch: float
    velocity: float
    vowel: str
    consonant: str


@dataclass(frozen=True)
class Score:
    """A composed song."""

    name: str
    genre: str
    tempo_bpm: float
    key: str
    duration_s: float
    drums: tuple[Hit, ...]
    bass: tuple[Note, ...]
    layers: tuple[tuple[str, tuple[Note, ...]], ...]  # instrument name, notes
    vocals: tuple[Syllable, ...]


@dataclass(frozen=True)
class _Frame:
    """Frame that all parts of a song share: the grid in time, the key and the chord of each bar."""

    genre: str
    step_s: float
    swing: float
    root: int
    scale: tuple[int, ...]
    chords: tuple[int, ...]

    def at(self, bar: int, step: int) -> float:
        """Return the time of a sixteenth step in seconds."""
        late = self.swing if step % 2 else 0.0
        return scalar((bar * 16 + step + late) * self.step_s)

    def pitch(self, degree: int, octave: int) -> float:
        """Return the MIDI pitch of a degree of the scale; degrees beyond 6 go up octaves."""
        return float(self.root + self.scale[degree % 7] + 12 * (octave + degree // 7))


def compose(name: str, seed: int, duration_s: float) -> Score:
    """Compose a song; the same arguments give the same score.

    Args:
        name: the song's name, part of the seed.
        seed: the collection's seed.
        duration_s: length of the song.
    """
    rng = Rng(seed, name, "score")
    genre = rng.choice(GENRES)
    tempo_bpm = float(rng.integer(*_TEMPO_BPM[genre]))
    mode, root = rng.choice(tuple(_SCALES)), rng.integer(0, 11)
    step_s = scalar(60.0 / tempo_bpm / 4.0)
    sections = [rng.choice(_PROGRESSIONS) for _ in range(2)]
    num_bars = int(duration_s / (16 * step_s)) + 1
    frame = _Frame(
        genre=genre,
        step_s=step_s,
        swing=rng.choice((0.0, 0.12, 0.3)) if genre in ("funk", "hiphop") else 0.0,
        root=root,
        scale=_SCALES[mode],
        chords=tuple(sections[(bar // 4) % 2][bar % 4] for bar in range(num_bars)),
    )
    return Score(
        name=name,
        genre=genre,
        tempo_bpm=tempo_bpm,
        key=f"{_NOTE_NAMES[root]} {mode}",
        duration_s=duration_s,
        drums=tuple(_drums(Rng(seed, name, "drums"), frame)),
        bass=tuple(_bass(Rng(seed, name, "bass"), frame)),
        layers=tuple(_layers(Rng(seed, name, "layers"), frame)),
        vocals=tuple(_vocals(Rng(seed, name, "vocals"), frame)),
    )


def _drums(rng: Rng, frame: _Frame) -> list[Hit]:
    grooves = [rng.choice(_GROOVES[frame.genre]) for _ in range(2)]
    loose_s = rng.uniform(0.0, 0.008)
    hits = []
    for bar in range(len(frame.chords)):
        fill = bar % 4 == 3 and rng.chance(0.5)
        pattern = _FILL if fill else grooves[(bar // 4) % 2]
        if bar % 4 == 0 and rng.chance(0.6):
            hits.append(Hit(frame.at(bar, 0), "crash", rng.uniform(0.6, 1.0)))
        for drum, steps in pattern.items():
            for step, mark in enumerate(steps):
                if mark in _VELOCITY and not rng.chance(0.04):
                    start_s = frame.at(bar, step) + rng.uniform(0.0, loose_s)
                    hits.append(Hit(start_s, drum, _VELOCITY[mark] * rng.uniform(0.8, 1.0)))
                elif drum == "hat" and rng.chance(0.05):
                    hits.append(Hit(frame.at(bar, step), "open", rng.uniform(0.4, 0.8)))
    return hits


def _bass(rng: Rng, frame: _Frame) -> list[Note]:
    rhythms = [rng.choice(_BASS_RHYTHMS[frame.genre]) for _ in range(2)]
    octave = rng.choice((2, 2, 3))
    staccato = rng.uniform(0.55, 1.0)
    notes = []
    for bar, chord in enumerate(frame.chords):
        steps = [i for i, mark in enumerate(rhythms[(bar // 4) % 2]) if mark == "x"]
        for step, following in zip(steps, [*steps[1:], 16], strict=True):
            offset = rng.choice((0, 0, 0, 0, 0, 4, 7, 2)) if step else 0
            pitch = frame.pitch(chord + offset, octave)
            pitch -= 12.0 if pitch > 55.0 else 0.0
            length_s = scalar((following - step) * frame.step_s * staccato)
            notes.append(Note(frame.at(bar, step), length_s, pitch, rng.uniform(0.7, 1.0)))
    return notes


_INSTRUMENTS = {
    "rock": ("distorted", "distorted", "guitar", "organ", "lead"),
    "pop": ("piano", "guitar", "pad", "pluck", "strings", "keys"),
    "electro": ("pad", "pluck", "supersaw", "lead", "keys"),
    "ballad": ("piano", "guitar", "strings", "pad", "bells"),
    "funk": ("guitar", "keys", "organ", "brass"),
    "hiphop": ("keys", "bells", "strings", "pluck", "piano"),
}
_RHYTHM_OF = {
    "distorted": ("eighths", "hold", "half"),
    "guitar": ("strum", "eighths", "offbeat"),
    "piano": ("half", "hold", "stab", "eighths"),
    "keys": ("stab", "offbeat", "half"),
    "organ": ("hold", "offbeat"),
    "brass": ("stab",),
    "supersaw": ("half", "hold", "stab", "offbeat"),
}


def _layers(rng: Rng, frame: _Frame) -> list[tuple[str, tuple[Note, ...]]]:
    pool = rng.shuffled(_INSTRUMENTS[frame.genre])
    layers = []
    for name in dict.fromkeys(pool[: rng.integer(2, 3)]):
        if name in ("lead", "bells"):
            notes = _melody(rng, frame, 5)
        elif name == "pluck":
            notes = _arpeggio(rng, frame)
        else:
            rhythm = rng.choice(_RHYTHM_OF.get(name, ("hold", "half")))
            notes = _chords(rng, frame, _CHORD_RHYTHMS[rhythm], power=name == "distorted")
        layers.append((name, tuple(notes)))
    return layers


def _chords(rng: Rng, frame: _Frame, rhythm: str, *, power: bool) -> list[Note]:
    degrees = (0, 4, 7) if power else rng.choice(((0, 2, 4), (0, 2, 4, 6), (0, 4, 7, 9), (2, 4, 7)))
    octave = 3 if power else rng.choice((4, 4, 5))
    steps = [i for i, mark in enumerate(rhythm) if mark == "x"]
    legato = rng.uniform(0.6, 1.0)
    notes = []
    for bar, chord in enumerate(frame.chords):
        for step, following in zip(steps, [*steps[1:], 16], strict=True):
            length_s = scalar((following - step) * frame.step_s * legato)
            velocity = rng.uniform(0.7, 1.0)
            for voice, degree in enumerate(degrees):
                start_s = frame.at(bar, step) + voice * 0.008
                notes.append(Note(start_s, length_s, frame.pitch(chord + degree, octave), velocity))
    return notes


def _arpeggio(rng: Rng, frame: _Frame) -> list[Note]:
    order = rng.choice(((0, 2, 4, 7), (0, 4, 2, 4), (7, 4, 2, 0), (0, 2, 4, 2)))
    every = rng.choice((1, 2, 2))
    octave = rng.choice((4, 5))
    return [
        Note(
            frame.at(bar, step),
            scalar(frame.step_s * every * 0.9),
            frame.pitch(chord + order[(step // every) % 4], octave),
            rng.uniform(0.6, 1.0),
        )
        for bar, chord in enumerate(frame.chords)
        for step in range(0, 16, every)
    ]


def _melody(rng: Rng, frame: _Frame, octave: int) -> list[Note]:
    notes, degree = [], rng.integer(0, 4)
    for bar, chord in enumerate(frame.chords):
        step = rng.choice((0, 0, 2, 4))
        while step < 16 and not (bar % 4 == 3 and step >= 8):
            length = rng.choice((1, 2, 2, 2, 4, 4, 6))
            degree += rng.choice((-2, -1, -1, 0, 1, 1, 2))
            degree = max(-3, min(8, degree))
            if step % 8 == 0:  # lean on a chord tone
                degree = min(
                    (chord + o for o in (-7, -5, -3, 0, 2, 4, 7)), key=lambda d: abs(d - degree)
                )
            if not rng.chance(0.15):
                length_s = scalar(length * frame.step_s * rng.uniform(0.8, 1.0))
                pitch = frame.pitch(degree, octave)
                notes.append(Note(frame.at(bar, step), length_s, pitch, rng.uniform(0.6, 1.0)))
            step += length
    return notes


def _vocals(rng: Rng, frame: _Frame) -> list[Syllable]:
    octave = rng.choice((4, 4, 5))  # from male to female voices
    vowels = rng.shuffled(VOWELS)[:5]
    rest = rng.choice((-1, -1, 0, 2))  # now and then a bar of each four without the voice
    return [
        Syllable(
            *note,
            vowel=rng.choice(vowels),
            consonant=rng.choice(("", "s", "sh", "t", "k", "m", "h", "f")),
        )
        for note in _melody(rng, frame, octave)
        if rest < 0 or int(note.start_s / (16 * frame.step_s)) % 4 != rest
    ]
