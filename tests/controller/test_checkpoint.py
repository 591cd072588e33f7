import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mixprint.controller.checkpoint import Controller, load_controller, save_controller
from mixprint.controller.inputs import embed_stems
from mixprint.controller.prediction import Prediction
from mixprint.errors import CheckpointError, ConfigError, DataError
from tests.controller.trials import CONFIG, RATE_HZ, network

NAMES = ["Lead Vox", "bass"]


def audio(seed: int, num: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.05 * torch.randn(num, 2, RATE_HZ, generator=generator)


@pytest.mark.parametrize("head", ["settings", "chain"])
def test_a_controller_comes_back_and_predicts_the_same_whatever_the_level(
    tmp_path: Path, head: str
) -> None:
    made = network(head=head)
    save_controller(tmp_path, made, "e" * 64, {"metrics": {"a": 1.0}})
    controller = load_controller(tmp_path)
    assert controller.network.config == made.config
    assert controller.metadata == {"metrics": {"a": 1.0}}
    tracks_NCT, stems_SCT = audio(1), audio(2, 4)

    def predicted(gain: float) -> Prediction:
        return controller.predict(gain * tracks_NCT, NAMES, RATE_HZ, stems_SCT=stems_SCT)

    first, again, louder = predicted(1.0), predicted(1.0), predicted(2.0)
    assert first.settings == again.settings
    assert first.spread == again.spread
    shift = first.settings["bass.trim_db"] - louder.settings["bass.trim_db"]
    assert shift == pytest.approx(6.0206, abs=1e-3)
    for name in NAMES:
        strip, other = first.settings.tracks[name], louder.settings.tracks[name]
        for field, value in strip.items():
            if field.name != "trim_db":
                assert other[field.name] == pytest.approx(value, rel=1e-3, abs=2e-3)
    assert first.spread.keys() == first.gates.keys() == {*NAMES, "master"}
    assert first.spread["bass"].keys() == {f.name for f, _ in strip.items()} - {"trim_db"}
    for name, strip in first.settings.tracks.items():
        for group, probability in first.gates[name].items():
            own = [f.name for f in strip.fields if f.group == group and not f.weighed_by]
            assert probability >= 0.5 or all(strip.is_neutral(each) for each in own)


def test_mixes_stems_nothing_and_one_mono_voice_are_told_apart() -> None:
    controller = Controller(network(), encoder_fingerprint="", metadata={}, fingerprint="")
    voice_1CT, stems_SCT = audio(3, 1)[:, :1], audio(4, 4)
    found = [
        controller.predict(voice_1CT, ["thing"], RATE_HZ, **given).settings["thing.fader_db"]
        for given in ({}, {"reference_CT": stems_SCT.sum(0)}, {"stems_SCT": stems_SCT})
    ]
    assert len({round(value, 4) for value in found}) == 3
    told = controller.predict(voice_1CT, ["x"], RATE_HZ, roles=["vocals"])
    guessed = controller.predict(voice_1CT, ["vocals"], RATE_HZ)
    assert told.settings["x.fader_db"] == guessed.settings["vocals.fader_db"] != found[0]


class EncoderStandIn:
    """Encoder that says how much it was given, in a direction."""

    fingerprint = "ab"
    model = SimpleNamespace(config=SimpleNamespace(sample_rate_hz=RATE_HZ))

    def embed(self, stems_BSCT: torch.Tensor, sample_rate_hz: int) -> torch.Tensor:
        assert sample_rate_hz == RATE_HZ
        angle = torch.tensor(stems_BSCT.shape[-1] / RATE_HZ)
        return torch.stack([angle.cos(), angle.sin(), *torch.zeros(2)])[None]


def test_stems_of_another_rate_are_resampled_for_the_embedding() -> None:
    controller = Controller(network(), encoder_fingerprint="ab", metadata={}, fingerprint="")
    encoder: Any = EncoderStandIn()
    stems_SCT = torch.zeros(4, 2, 4 * 48_000)
    embedding_E = embed_stems(encoder, stems_SCT, 48_000)
    assert embedding_E is not None
    # Four seconds were four seconds.
    torch.testing.assert_close(embedding_E[:2], torch.tensor([math.cos(4.0), math.sin(4.0)]))
    assert embed_stems(encoder, stems_SCT[..., : 2 * 48_000], 48_000) is None
    found = [
        controller.predict(audio(5), NAMES, 48_000, stems_SCT=stems_SCT, encoder=each)
        for each in (None, encoder)
    ]
    assert found[0].settings != found[1].settings


def test_what_cannot_be_mixed_is_named() -> None:
    controller = Controller(network(), encoder_fingerprint="ab", metadata={}, fingerprint="")
    with pytest.raises(DataError, match="names: expected 2, one a track, found 1"):
        controller.predict(audio(0), ["a"], RATE_HZ)
    with pytest.raises(DataError, match="tracks: expected finite samples"):
        controller.predict(audio(0) * torch.nan, NAMES, RATE_HZ)
    with pytest.raises(DataError, match=r"stems: expected 4 of 2 channels"):
        controller.predict(audio(0), NAMES, RATE_HZ, stems_SCT=audio(0))
    with pytest.raises(CheckpointError, match="encoder ab, found those of cd"):
        controller.check_encoder("cd")


def test_heads_have_to_share_the_width() -> None:
    with pytest.raises(ConfigError, match="multiple of num_heads, got 16 and 3"):
        replace(CONFIG, num_heads=3)
