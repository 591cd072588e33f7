"""Roles of tracks: what each was recorded as, and what the name of a file tells about it."""

import re
import unicodedata
from collections.abc import Iterable, Mapping

from mixprint.stems import STEMS

UNKNOWN = "unknown"

# Role -> the stem that its tracks are part of.
_STEM_OF: Mapping[str, str] = {
    "vocals": "vocals",
    "backing": "vocals",
    "bass": "bass",
    "drums": "drums",  # a whole kit
    "kick": "drums",
    "snare": "drums",
    "hats": "drums",
    "cymbals": "drums",
    "toms": "drums",
    "percussion": "drums",
    "room": "drums",  # microphones above the kit or in its room
    "guitar": "other",
    "keys": "other",
    "pad": "other",
    "strings": "other",
    "brass": "other",
    "synth": "other",
    "other": "other",
}
ROLES = tuple(_STEM_OF)

# Whole words, English, German and what engineers abbreviate to, in the order in which they are
# looked for: a bass drum is no bass, a backing vocal no lead, a drum room no drum. An asterisk
# stands for the rest of a word.
_WORDS: tuple[tuple[str, str], ...] = (
    ("backing", "backing backings bvox bv bvs bgv bgvs bkg hintergrund* harm harms harmony"),
    ("backing", "harmonies choir chor"),
    # A tenor saxophone is no tenor, a bass clarinet no bass.
    ("brass", "sax* clarinet klarinette"),
    ("vocals", "vox vocal vocals leadvox ldvox"),
    ("room", "drum_room drums_room kit_room snare_room kick_room overhead* oh ohs ohl ohr"),
    ("kick", "kick* kik bd bassdrum* basstrommel bass_drum bass_dr kck"),
    ("snare", "snare* snr sd sn clap* rim rimshot sidestick"),
    ("hats", "hat hats hihat* hi_hat hh chh ohh"),
    ("cymbals", "cymbal* becken ride rides crash* splash china"),
    ("toms", "tom toms tomtom floortom"),
    ("percussion", "perc* shaker* tamb* conga* bongo* cowbell cabasa maraca* triangle"),
    ("percussion", "schellen* cajon djembe timbale* woodblock claves"),
    ("drums", "drum drums drumkit drumloop drumbus kit schlagzeug dr drm"),
    ("vocals", "voc vocs voice lv gesang stimme singer"),
    ("vocals", "sprecher rap speech narration sopran* alto tenor"),
    ("bass", "bass basse bassgitarre ebass subbass bassline kontrabass bs sub 808"),
    ("guitar", "gtr gtrs git guitar* gitarre* egit agit egtr agtr acgtr elgtr banjo"),
    ("guitar", "ukulele mandoline mandolin"),
    ("keys", "key keys piano* pno klavier fluegel flugel rhodes wurli* organ orgel hammond"),
    ("keys", "epiano clav* cembalo harpsichord celesta vibes vibraphon* marimba glocken*"),
    ("keys", "bells ep accordion"),
    ("pad", "pad pads flaeche* atmo* drone"),
    ("strings", "string strings str streicher geige* violin* viola* bratsche cello* orch*"),
    ("brass", "brass blaeser* horn horns trumpet* trompete* tpt trombone* posaune*"),
    ("brass", "flute floete* oboe tuba"),
    ("synth", "synth* syn lead leads pluck* arp* sequence seq supersaw moog fx sfx"),
    # What may stand beside the name of any instrument tells something only by itself.
    ("backing", "double doubles dbl adlib adlibs"),
    ("drums", "loop loops beat beats"),
    ("room", "room rooms raum ambience ambient amb"),
    ("other", "other rest instrumental inst music musik band backingtrack"),
)
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})


def _pattern(words: str) -> re.Pattern[str]:
    spellings = (re.escape(w).replace(r"\*", "[a-z]*").replace("_", " ") for w in words.split())
    return re.compile(rf"\b(?:{'|'.join(spellings)})\b")


_PATTERNS = tuple((role, _pattern(words)) for role, words in _WORDS)


def stem_of(role: str) -> str:
    """Return the stem that tracks of a role are part of; that of unknown ones is the last."""
    return _STEM_OF.get(role, STEMS[-1])


def stem_numbers(roles: Iterable[str]) -> list[int]:
    """Return the number in `STEMS` of the stem of each role; see `stem_of`."""
    return [STEMS.index(stem_of(role)) for role in roles]


def guess_role(name: str) -> str:
    """Guess a role from the name of a track or of its file.

    Args:
        name: such as `03 Lead Vox_01.wav`, `BassDrum-in` or `Git. links`.

    Returns:
        one of `ROLES`, or `UNKNOWN`.
    """
    text = unicodedata.normalize("NFC", name)
    text = re.sub(r"\.(wav|flac|mp3|aiff?|ogg|opus|w64|caf|au)$", "", text, flags=re.IGNORECASE)
    # `LeadVox2` is two words and a number; `808` is a word.
    text = re.sub(r"(?<=[a-zäöüß])(?=[A-ZÄÖÜ])", " ", text)
    words = text.lower().translate(_UMLAUTS)
    words = re.sub(r"(?<=[a-z])(?=\d)|(?<=\d)(?=[a-z])", " ", words)
    words = re.sub(r"[^a-z0-9]+", " ", words).strip()
    return next((role for role, pattern in _PATTERNS if pattern.search(words)), UNKNOWN)
