import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixprint.dsp.spectral_distance import multi_resolution_stft
from mixprint.encoder.checkpoint import load_checkpoint
from mixprint.errors import CheckpointError, ConfigError
from mixprint.stems import pack
from mixprint.synthesis.compose import compose
from mixprint.synthesis.instruments import render
from mixprint.synthesis.mixing import mix, named_style
from mixprint.zero_shot.model import (
    SHIPPED_ZERO_SHOT,
    ZeroShotConfig,
    ZeroShotModel,
    ZeroShotNetwork,
    load_zero_shot,
    save_zero_shot,
)

SHIPPED_ENCODER = SHIPPED_ZERO_SHOT.parent / "encoder"
CONFIG = ZeroShotConfig(
    sample_rate_hz=44_100,
    embedding_dim=16,
    n_fft=512,
    hop_samples=128,
    num_bands=6,
    channels=8,
    kernel_size=3,
    dilations=(1, 2),
    conditioning_hidden=12,
    room_decays_s=(0.1, 0.3),
    room_s=0.1,
)
ALL = torch.ones(4)


def model(*, moved: bool = True) -> ZeroShotModel:
    """Make an untrained one; moved off the identity by random weights in its last layers."""
    torch.manual_seed(0)
    network = ZeroShotNetwork(CONFIG)
    if moved:
        for layer in (network.gain_head, network.balance_head, network.wet_head, network.leave):
            nn.init.normal_(layer.weight, std=0.3)
    return ZeroShotModel(network, encoder_fingerprint="e", metadata={}, fingerprint="f")


def embeddings(seed: int = 0) -> tuple[Tensor, Tensor]:
    first, second = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
    return first, second


def test_untrained_network_is_the_identity_to_the_bit(make_stems: Callable[..., Tensor]) -> None:
    stems_SCT = make_stems(0.5)
    assert torch.equal(model(moved=False).effect(*embeddings())(stems_SCT, ALL), stems_SCT)


def test_amount_zero_is_the_input_to_the_bit_stem_by_stem(
    make_stems: Callable[..., Tensor],
) -> None:
    stems_SCT = make_stems(0.5)
    effect = model().effect(*embeddings())
    assert torch.equal(effect(stems_SCT, torch.zeros(4)), stems_SCT)
    changed_SCT = effect(stems_SCT, torch.tensor([0.0, 1.0, 0.0, 0.5]))
    assert torch.equal(changed_SCT[[0, 2]], stems_SCT[[0, 2]])
    assert not torch.allclose(changed_SCT[1], stems_SCT[1], atol=1e-3)
    # What is done to one stem does not depend on how much is done to the others.
    torch.testing.assert_close(effect(stems_SCT, ALL)[1], changed_SCT[1], rtol=0, atol=1e-6)


def test_effect_moves_with_all_that_it_needs() -> None:
    effect = model().effect(*embeddings()).to("meta")
    controls = vars(effect._controls)
    tensors = [*controls.pop("films"), *controls.values(), *effect._network.state_dict().values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_silence_stays_silence(make_stems: Callable[..., Tensor]) -> None:
    stems_SCT = make_stems(0.5)
    stems_SCT[2] = 0
    out_SCT = model().effect(*embeddings())(stems_SCT, 1.5 * ALL)
    assert torch.equal(out_SCT[2], torch.zeros_like(out_SCT[2]))
    assert out_SCT[0].abs().max() > 0.01


def test_nothing_sounds_before_its_window_or_long_after(make_stems: Callable[..., Tensor]) -> None:
    stems_SCT = torch.zeros(4, 2, 44_100)
    stems_SCT[..., 20_000:20_100] = 0.5
    out_SCT = model().effect(*embeddings())(stems_SCT, ALL)
    assert out_SCT[..., : 20_000 - CONFIG.n_fft].abs().max() < 1e-6
    assert out_SCT[..., 20_100 + CONFIG.context_samples :].abs().max() < 1e-6
    assert out_SCT[..., 20_100 + CONFIG.n_fft : 22_000].abs().max() > 1e-4, "the room sounds on"


def test_windows_with_context_equal_the_whole(make_stems: Callable[..., Tensor]) -> None:
    stems_SCT = make_stems(1.3)
    effect = model().effect(*embeddings())
    whole_SCT = effect(stems_SCT, ALL)
    size = 150 * effect.hop_samples
    parts = []
    for start in range(0, stems_SCT.shape[-1], size):
        first = max(start - effect.context_samples, 0)
        last = start + size + effect.context_samples
        out_SCT = effect(stems_SCT[..., first:last], ALL)
        parts.append(out_SCT[..., start - first : start - first + size])
    assert len(parts) > 2
    assert effect.context_samples < size, "windows do not see all"
    torch.testing.assert_close(torch.cat(parts, dim=-1), whole_SCT, rtol=0, atol=1e-6)


def test_gradient_reaches_all_weights(make_stems: Callable[..., Tensor]) -> None:
    network = model().network.requires_grad_(True)
    first, second = embeddings()
    controls = network.condition(first[None], second[None])
    network(make_stems(0.5)[None], controls).square().sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


def test_gains_of_the_middle_and_the_sides_do_what_they_say(
    make_stems: Callable[..., Tensor],
) -> None:
    network = model(moved=False).network
    gains = torch.zeros(4, 2, CONFIG.num_bands)
    gains[0, 1] = -3.0  # of the limit of 30 dB, 10 dB each: 23 dB less side in the vocals
    network.gain_head.bias.data = gains.flatten()
    network.balance_head.bias.data[1] = 1.0  # 3 dB to the left, a little less by the limit
    stems_SCT = make_stems(0.5)
    out_SCT = network(stems_SCT[None], network.condition(*(e[None] for e in embeddings())))[0]
    middle_before_T, middle_T = stems_SCT[0].mean(dim=0), out_SCT[0].mean(dim=0)
    torch.testing.assert_close(middle_T, middle_before_T, rtol=0, atol=1e-6)
    side_db = 20 * torch.log10(
        (out_SCT[0, 0] - out_SCT[0, 1]).norm() / (stems_SCT[0, 0] - stems_SCT[0, 1]).norm()
    )
    assert side_db.item() == pytest.approx(-30 * torch.tanh(torch.tensor(1.0)).item(), abs=0.1)
    gain_C = out_SCT[1].norm(dim=-1) / stems_SCT[1].norm(dim=-1)
    balance_db = 20 * torch.log10(gain_C[0] / gain_C[1])
    assert balance_db.item() == pytest.approx(12 * torch.tanh(torch.tensor(0.25)).item(), abs=0.01)


def test_weakened_network_does_a_part_in_decibels(make_stems: Callable[..., Tensor]) -> None:
    network = model(moved=False).network
    network.gain_head.bias.data.fill_(0.05)  # 0.5 dB: the limit of 30 dB bends it by 1e-4 of that
    stems_SCT = make_stems(0.5)
    first, second = embeddings()

    def gain_db(used: ZeroShotNetwork) -> float:
        out_SCT = used(stems_SCT[None], used.condition(first[None], second[None]))[0]
        return 20 * torch.log10(out_SCT.norm() / stems_SCT.norm()).item()

    assert gain_db(network) == pytest.approx(0.5, abs=1e-3)
    assert gain_db(network.weakened(0.4)) == pytest.approx(0.2, abs=1e-3)
    assert gain_db(network) == pytest.approx(0.5, abs=1e-3), "the network itself stays"


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
        ({"architecture": {**architecture, "channels": 9}}, "does not fit"),
        ({"weights_sha256": "0" * 64}, "SHA-256"),
    ]:
        path.write_text(json.dumps(config | changes))
        with pytest.raises(CheckpointError, match=message):
            load_zero_shot(tmp_path)
    with pytest.raises(CheckpointError, match="nowhere"):
        load_zero_shot(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kernel_size", 4),
        ("num_bands", 1),
        ("dilations", ()),
        ("hop_samples", 100),
        ("room_decays_s", ()),
        ("room_s", 0.0),
        ("sample_rate_hz", 22_050),
    ],
)
def test_values_out_of_range_are_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        replace(CONFIG, **{name: value})


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
