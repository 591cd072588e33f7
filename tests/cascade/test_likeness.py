"""The calibration of the measures: what they say of mixes that are known."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from mixprint.cascade.attribution import shares
from mixprint.cascade.likeness import Character, Likeness
from tests.cascade.pieces import NUM_SAMPLES, RATE_HZ, answer, noise, piece

INPUT, TARGET, THIRD = piece(0), piece(1), piece(2)
MIXES: Mapping[str, Tensor] = {
    "answer": answer(INPUT, TARGET),
    "reverse": answer(TARGET, INPUT),
    "input": INPUT.mix,
    "target": TARGET.mix,
    "half": (INPUT.mix + TARGET.mix) / 2,
    "third": THIRD.mix,
    "noise": noise(),
    "silence": torch.zeros(NUM_SAMPLES),
}


@pytest.fixture(scope="module")
def found() -> Mapping[str, Likeness]:
    input_, target = (Character.of(each.mix, RATE_HZ) for each in (INPUT, TARGET))
    return {
        name: Likeness.of(Character.of(mix_T, RATE_HZ), input_, target)
        for name, mix_T in MIXES.items()
    }


def test_the_answer_is_above_all_else(found: Mapping[str, Likeness]) -> None:
    scores = {name: likeness.score for name, likeness in found.items()}
    assert scores["answer"] > 0.9
    assert scores["reverse"] < -0.9
    others = {name: score for name, score in scores.items() if name != "answer"}
    assert max(others.values()) < 0.5, others


def test_copies_are_like_themselves(found: Mapping[str, Likeness]) -> None:
    assert found["input"].rhythm_input > 0.999
    assert found["input"].harmony_input > 0.999
    assert found["target"].rhythm_target > 0.999
    assert found["target"].harmony_target > 0.999
    assert abs(found["half"].score) < 0.4


def test_what_has_nothing_to_do_with_them_is_like_neither(found: Mapping[str, Likeness]) -> None:
    for name in ("noise", "silence"):
        assert max(map(abs, found[name])) < 0.25, name
    assert set(found["silence"]) == {0.0}
    assert found["third"].rhythm_input < 0.4 < found["answer"].rhythm_input


def test_against_the_true_stems_the_answer_is_nearly_all(found: Mapping[str, Likeness]) -> None:
    mix = Character.of(MIXES["answer"], RATE_HZ)
    assert mix.rhythm(Character.of(INPUT.drums, RATE_HZ)) > 0.6
    assert mix.harmony(Character.of(TARGET.rest, RATE_HZ)) > 0.9
    assert Character.of(THIRD.mix, RATE_HZ).rhythm(Character.of(INPUT.drums, RATE_HZ)) < 0.3


def test_the_answer_has_none_of_the_drums_of_the_target() -> None:
    known = {
        **{f"input {name}": stem_T for name, stem_T in vars(INPUT).items()},
        **{f"target {name}": stem_T for name, stem_T in vars(TARGET).items()},
    }
    of_answer, of_half = (shares(MIXES[name], known) for name in ("answer", "half"))
    assert of_answer["target drums"] < 0.02
    assert of_answer["input drums"] > 0.05
    assert of_half["target drums"] > 0.05
    assert shares(MIXES["third"], known)["rest"] > 0.5
