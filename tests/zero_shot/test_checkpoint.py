import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.errors import CheckpointError
from mixprint.stems import pack
from mixprint.synthesis.compose import compose
from mixprint.synthesis.instruments import render
from mixprint.synthesis.mixing import mix, named_style
from mixprint.zero_shot.checkpoint import SHIPPED_ZERO_SHOT, load_zero_shot, save_zero_shot
from tests.zero_shot.tiny_model import ALL, CONFIG, embeddings, model

SHIPPED_ENCODER = SHIPPED_ZERO_SHOT.parent / "encoder"


@pytest.mark.parametrize("half", [False, True])
def test_checkpoint_comes_back(
    tmp_path: Path, make_stems: Callable[..., Tensor], half: bool
) -> None:
    made = model()
    save_zero_shot(tmp_path, made.network, "e" * 64, {"metrics": {"a": 1.0}}, half=half)
    loaded = load_zero_shot(tmp_path)
    assert loaded.network.config == CONFIG
    assert loaded.metadata == {"metrics": {"a": 1.0}}
    assert loaded.encoder_fingerprint == "e" * 64
    stems_SCT = make_stems(0.5)
    out_SCT, expected_SCT = (m.effect(*embeddings())(stems_SCT, ALL) for m in (loaded, made))
    torch.testing.assert_close(out_SCT, expected_SCT, rtol=0, atol=3e-3 if half else 0)


def test_another_encoder_is_refused_by_name() -> None:
    made = model()
    made.check_encoder("e")
    with pytest.raises(CheckpointError, match="encoder e, found those of other"):
        made.check_encoder("other")
    with pytest.raises(ValueError, match="16"):
        made.effect(torch.zeros(8), torch.zeros(8))


def test_broken_checkpoints_are_refused(tmp_path: Path) -> None:
    save_zero_shot(tmp_path, model().network, "e", {})
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    architecture = config["architecture"]
    for changes, message in [
        ({"format": "mixprint-encoder"}, "mixprint-zero-shot"),
        ({"format_version": 99}, "99"),
        ({"architecture": {**architecture, "unknown": 1}}, "unknown"),
        ({"architecture": {**architecture, "kernel_size": 4}}, "kernel_size"),
        ({"architecture": {**architecture, "channels": 9}}, "do not fit"),
        ({"weights_sha256": "0" * 64}, "SHA-256"),
    ]:
        path.write_text(json.dumps(config | changes))
        with pytest.raises(CheckpointError, match=message):
            load_zero_shot(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere"):
        load_zero_shot(tmp_path / "nowhere")


def test_effect_moves_with_all_that_it_needs() -> None:
    effect = model().effect(*embeddings()).to("meta")
    conditioning = vars(effect._conditioning)
    tensors = [
        *conditioning.pop("films"),
        *conditioning.values(),
        *effect._network.state_dict().values(),
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def played_and_mixed(song: str, *styles: str) -> list[Tensor]:
    """Compose a song, and mix it in some styles: stems_SCT of the same 10 s in each."""
    dry = render(compose(song, 5, 10.0), 5)
    mixes = [mix(dry, named_style(style)) for style in styles]
    return [pack({s: torch.from_numpy(x_CT).float() for s, x_CT in m.items()}) for m in mixes]


def test_shipped_weights_bring_a_song_nearer_to_the_truth() -> None:
    loaded = load_zero_shot()
    encoder = load_checkpoint(SHIPPED_ENCODER)
    loaded.check_encoder(encoder.fingerprint)
    given_SCT, truth_SCT = played_and_mixed("one", "vinyl", "radio")
    (target_SCT,) = played_and_mixed("two", "radio")
    with torch.no_grad():
        first_E, second_E = encoder.embed(torch.stack([given_SCT, target_SCT]), 44_100)
    out_SCT = loaded.effect(first_E, second_E)(given_SCT, ALL)
    before_S, after_S = (multi_resolution_stft(x_SCT, truth_SCT) for x_SCT in (given_SCT, out_SCT))
    assert after_S.mean() < 0.9 * before_S.mean()
    mixture_CT = truth_SCT.sum(dim=0)
    before, after = (
        multi_resolution_stft(x_SCT.sum(dim=0), mixture_CT) for x_SCT in (given_SCT, out_SCT)
    )
    assert after < 0.9 * before
