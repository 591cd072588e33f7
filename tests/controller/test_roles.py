"""Roles: every one belongs to a stem, and names of files tell them."""

import pytest

from mixprint.controller.roles import ROLES, UNKNOWN, guess_role, stem_of
from mixprint.stems import STEMS
from mixprint.synthesis.instruments import TRACK_ROLES


def test_every_role_belongs_to_a_stem_and_the_stems_are_roles() -> None:
    assert {stem_of(role) for role in ROLES} == set(STEMS)
    assert all(stem_of(stem) == stem for stem in STEMS)
    assert stem_of(UNKNOWN) == "other"


def test_tracks_that_are_played_have_known_roles_that_their_names_tell() -> None:
    assert set(TRACK_ROLES.values()) < set(ROLES)
    # An instrument that plays the melody is called `lead`.
    assert {name: guess_role(name) for name in TRACK_ROLES if "distorted" not in name} == {
        name: role for name, role in TRACK_ROLES.items() if "distorted" not in name
    }


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("Lead Vox_01.wav", "vocals"),
        ("03_LeadVox.flac", "vocals"),
        ("Ride Vox", "vocals"),
        ("Tenor Sax 2", "brass"),
        ("Bass Clarinet", "brass"),
        ("BGV left", "backing"),
        ("Hintergrundgesang.wav", "backing"),
        ("Bass Drum In.wav", "kick"),
        ("Kick_Out", "kick"),
        ("BassDI.wav", "bass"),
        ("E-Bass", "bass"),
        ("SnareTop_2.WAV", "snare"),
        ("HiHat", "hats"),
        ("OH L", "room"),
        ("DrumRoom", "room"),
        ("Schlagzeug", "drums"),
        ("Floor Tom", "toms"),
        ("Gtr Room Double", "guitar"),
        ("Git. links.wav", "guitar"),
        ("12-AcGtr1", "guitar"),
        ("Klavier", "keys"),
        ("Flächen 2", "pad"),
        ("Fla\u0308che.aif", "pad"),
        ("Streicher hoch", "strings"),
        ("Bläser", "brass"),
        ("SynthLead", "synth"),
        ("808.wav", "bass"),
        ("Audio 07", UNKNOWN),
        ("subtle thing", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_names_tell_roles(name: str, role: str) -> None:
    assert guess_role(name) == role
