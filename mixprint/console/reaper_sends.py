"""Sends of REAPER's projects: lines AUXRECV in the block of the track that receives.

    AUXRECV <track> <mode> <level> <pan> <mute> <mono> <polarity> <from> <to> <law> <midi> ...

The track that is heard is told by its place in the project, from 0. The mode is 0 behind its fader
and pan, 1 before its plug-ins, 3 between the two; the level is an amplitude.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation, localcontext

from mixprint.console.rpp import Line

NAME = "AUXRECV"
BEHIND_FADER = "0"
# A level has so many digits that its dB come back as they were: a float of dB has 17.
_NUM_DIGITS = 25
# No mute, both channels, polarity as it is; channels 1 and 2 to 1 and 2; pan law, MIDI and
# automation as the project has them.
_PLAIN = ("0", "0", "0", "0", "0", "-1:U", "0", "-1", "")
_PAN, _MUTE, _POLARITY = 3, 4, 6


@dataclass(frozen=True)
class Send:
    """A send, as a project tells it.

    Attributes:
        place: of the track that is heard, from 0; -1 where it is not told.
        level_db: of the send; minus infinity where nothing is sent.
        strange: what of it is not a plain send behind fader and pan, in words.
    """

    place: int
    level_db: float
    strange: tuple[str, ...]


def send_line(place: int, level_db: float) -> Line:
    """Return the line of a send behind fader and pan.

    Args:
        place: of the track that is heard, from 0.
        level_db: of the send.
    """
    with localcontext(prec=_NUM_DIGITS):
        level = Decimal(10) ** (Decimal(level_db) / 20)
    return Line(NAME, [str(place), BEHIND_FADER, format(level, "f"), "0", *_PLAIN])


def read_send(line: Line) -> Send:
    """Read a send; what is no number counts as one that sends nothing."""
    place = line.word(0)
    level_db = _level_db(line.word(2, "1"))
    strange = []
    if line.word(1, BEHIND_FADER) != BEHIND_FADER:
        strange.append("before its fader: read as behind it")
    if not _is_zero(line.word(_PAN, "0")):
        strange.append("with a pan: not read")
    if not _is_zero(line.word(_POLARITY, "0")):
        strange.append("with its polarity inverted: not read")
    if not _is_zero(line.word(_MUTE, "0")):
        level_db = float("-inf")
    return Send(
        int(place) if place.isdecimal() and len(place) < 8 else -1, level_db, tuple(strange)
    )


def _level_db(word: str) -> float:
    level = _number(word)
    if level <= 0:
        return float("-inf")
    with localcontext(prec=_NUM_DIGITS):
        return float(20 * level.log10())


def _is_zero(word: str) -> bool:
    return _number(word) == 0


def _number(word: str) -> Decimal:
    try:
        number = Decimal(word)
    except InvalidOperation:
        return Decimal(0)
    return number if number.is_finite() else Decimal(0)
