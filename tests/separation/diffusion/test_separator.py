"""The separator: stems that add up, and noise that does not follow from how it is run."""

import pytest
import torch
from torch import Tensor

from mixprint.errors import ConfigError
from mixprint.separation import Separator
from mixprint.separation.diffusion.model import from_scnet
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import SamplingSettings
from mixprint.separation.scnet.network import TrainedSCNet
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from tests.separation.diffusion.trials import (
    HOP,
    WINDOW_S,
    config,
    denoiser,
    level_db,
    music,
    scnet,
    separator,
)

LENGTH = 30 * HOP + 50
WINDOW = round(WINDOW_S * SAMPLE_RATE_HZ)


def _separate(network: DiffusionSeparator, **options: object) -> Tensor:
    return Separator(network).separate(music(LENGTH), **options)


@pytest.fixture(scope="module")
def network() -> DiffusionSeparator:
    return separator()


@pytest.mark.parametrize("num_stems", [2, 4])
def test_stems_null_with_the_mixture(num_stems: int) -> None:
    four = separator(num_stems=num_stems)
    runner = Separator(four)
    assert runner.stems == {2: ("vocals", "instrumental"), 4: STEMS}[num_stems]
    audio_CT = music(LENGTH)
    stems_SCT = runner.separate(audio_CT)
    assert level_db(stems_SCT.sum(dim=0) - audio_CT, audio_CT) < -120
    for stem_CT in stems_SCT:
        assert level_db(stem_CT, audio_CT) > -60


def test_four_stems_are_the_two_with_the_instrumental_divided(network: DiffusionSeparator) -> None:
    two_SCT = _separate(network)
    four_SCT = _separate(network.configured(num_stems=4))
    torch.testing.assert_close(four_SCT[0], two_SCT[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(four_SCT[1:].sum(dim=0), two_SCT[1], rtol=0, atol=1e-6)


def test_the_ratio_is_that_of_the_priors_stems() -> None:
    # A prior that takes half of the mixture for drums, half of that for bass, and no other.
    four = separator(num_stems=4)
    assert four.prior is not None
    gains = {"drums": 0.5, "bass": 0.25, "other": 0.0, "vocals": 0.1}
    gain_S = torch.tensor([gains[stem] for stem in four.prior.stems]).view(1, -1, 1, 1, 1)
    four.prior.model.estimate = lambda mixture_BCFN: gain_S * mixture_BCFN[:, None]
    vocals, bass, drums, other = _separate(four)
    instrumental = music(LENGTH) - vocals
    torch.testing.assert_close(drums, 0.8 * instrumental, rtol=0, atol=1e-5)
    torch.testing.assert_close(bass, 0.2 * instrumental, rtol=0, atol=1e-5)
    assert other.abs().max() < 1e-5


@pytest.mark.parametrize("head", ["mask", "free"])
@pytest.mark.parametrize("num_stems", [2, 4])
def test_silence_gives_silence_to_the_bit(head: str, num_stems: int) -> None:
    silent = separator(denoiser(head=head), num_stems=num_stems, samples=2, sampler="ddpm")
    stems_SCT = Separator(silent).separate(torch.zeros(2, LENGTH))
    assert stems_SCT.shape[0] == num_stems
    assert not stems_SCT.any()


def test_a_gain_scales_the_result_and_nothing_else(network: DiffusionSeparator) -> None:
    runner = Separator(network)
    audio_CT = music(LENGTH)
    full_SCT, soft_SCT = runner.separate(audio_CT), runner.separate(0.1 * audio_CT)
    assert level_db(soft_SCT - 0.1 * full_SCT, 0.1 * full_SCT) < -60


def test_neither_batch_nor_cut_changes_the_result(network: DiffusionSeparator) -> None:
    runner = Separator(network.configured(sampling=SamplingSettings(steps=3, sampler="ddpm")))
    audio_CT = music(LENGTH)
    known_SCT = runner.separate(audio_CT)
    level = audio_CT.mean(dim=0).std(correction=0).item()
    for blocks, batch_size in (([1, 999, 1000], 1), ([], 4), ([333] * 7, 2)):
        cut = audio_CT.split_with_sizes([*blocks, LENGTH - sum(blocks)], dim=1)
        pieces = runner.stream(cut, level=level, batch_size=batch_size)
        found_SCT = torch.cat([stems_SCT for _, stems_SCT in pieces], dim=-1)
        assert level_db(found_SCT - known_SCT, known_SCT) < -100


def test_windows_share_their_noise_where_they_overlap() -> None:
    starts = [0, 5 * HOP, 5 * HOP + 1, 6 * HOP - 1]
    seen: list[Tensor] = []
    noisy = separator(steps=1)
    noisy.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    audio_BCT = torch.stack([music(WINDOW)] * len(starts))
    noisy(audio_BCT, torch.tensor(starts))
    for start in starts:
        noisy(audio_BCT[:1], torch.tensor([start]))
    batch_BCFN, *single = seen
    for row, alone_BCFN in enumerate(single):
        assert torch.equal(alone_BCFN[0], batch_BCFN[row])
    # All of them in frame 5.
    assert torch.equal(batch_BCFN[0, ..., 5:], batch_BCFN[1, ..., :-5])
    assert torch.equal(batch_BCFN[1], batch_BCFN[2])
    assert torch.equal(batch_BCFN[1], batch_BCFN[3])


def test_frames_lie_where_those_of_the_song_do() -> None:
    seen: list[Tensor] = []
    placed = separator(steps=1)
    placed.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].clone()))
    audio_CT = music(4 * WINDOW)
    for start in (0, 700, 1000):
        placed(audio_CT[None, :, start : start + 2 * WINDOW], torch.tensor([start]))
    whole, *others = seen
    for start, found in zip((700, 1000), others, strict=True):
        first = start // HOP
        # Away from the edges, where the window begins.
        expected = whole[..., first + 6 : -6]
        torch.testing.assert_close(
            found[..., 6 : 6 + expected.shape[-1]], expected, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": "ddim"},
        {"sampler": "ddpm"},
        {"sampler": "ddim", "eta": 0.5},
        {"steps": 5},
        {"steps": 1},
        {"spacing": 1.0},
        {"samples": 2},
        {"seed": 1},
        {"prior": True},
        {"start": "prior", "strength": 0.9},
        {"start": "mixture", "strength": 0.9},
        {"start": "prior", "strength": 0.5},
    ],
)
def test_every_option_changes_the_result(network: DiffusionSeparator, changes: dict) -> None:
    base = {"steps": 4, "sampler": "ddim" if "eta" in changes else "dpm"}
    if changes == {"start": "prior", "strength": 0.5}:
        base |= {"start": "prior", "strength": 0.9}
    before = network.configured(sampling=SamplingSettings(**base))
    after = network.configured(sampling=SamplingSettings(**base | changes))
    before_SCT, after_SCT = _separate(before), _separate(after)
    assert level_db(after_SCT - before_SCT, before_SCT) > -80
    assert before.fingerprint != after.fingerprint
    assert torch.equal(_separate(after), after_SCT)


@pytest.mark.parametrize(
    "changes", [{"schedule": "linear"}, {"timesteps": 5}, {"level_dbfs": -9.0}, {"power": 0.7}]
)
def test_the_denoisers_options_change_the_result(
    network: DiffusionSeparator, changes: dict
) -> None:
    before_SCT, after_SCT = _separate(network), _separate(separator(denoiser(**changes)))
    assert level_db(after_SCT - before_SCT, before_SCT) > -80


def test_one_step_of_a_fresh_start_is_the_scnet() -> None:
    model = scnet()
    fresh = DiffusionSeparator(
        from_scnet(model, config()), window_s=WINDOW_S, sampling=SamplingSettings(steps=1)
    )
    # A whole number of hops, so that both have the same frames.
    audio_BCT = music(16 * HOP)[None]
    found_CT = fresh(audio_BCT, torch.zeros(1, dtype=torch.long))[0, 0]
    gain = 10 ** (fresh.denoiser.config.level_dbfs / 20)
    with torch.inference_mode():
        stems_SCT = model(audio_BCT * gain)[0] / gain
    expected_CT = stems_SCT[model.config.sources.index("vocals")]
    assert level_db(found_CT - expected_CT, expected_CT) < -90


def test_mean_and_variance_are_those_of_the_samples(network: DiffusionSeparator) -> None:
    audio_BCT, starts_B = music(WINDOW)[None], torch.tensor([3 * HOP])
    sampling = SamplingSettings(steps=2, samples=3)
    drawn = network.configured(sampling=sampling).draw(audio_BCT, starts_B)
    three = network.configured(sampling=sampling)
    window = three._window(audio_BCT, starts_B)
    singles = torch.stack(
        [
            three.denoiser.analyse(
                three.denoiser.synthesise(three._one_sample(window, None, number), window.length)
            )
            for number in range(3)
        ]
    )
    torch.testing.assert_close(drawn.mean_BCFN, singles.mean(dim=0))
    assert drawn.variance_BCFN is not None
    torch.testing.assert_close(drawn.variance_BCFN, singles.var(dim=0), rtol=1e-4, atol=1e-9)
    assert drawn.first_frame_B.tolist() == [3]
    assert drawn.num_frames == WINDOW // HOP
    assert network.draw(audio_BCT, starts_B).variance_BCFN is None


@pytest.mark.parametrize("backbone", ["bands", "conformer", "unet"])
def test_half_precision_is_near_float32(backbone: str) -> None:
    runner = Separator(separator(denoiser(backbone=backbone)))
    full_SCT = runner.separate(music(LENGTH))
    runner.precision = "bfloat16"
    half_SCT = runner.separate(music(LENGTH))
    assert not torch.equal(half_SCT, full_SCT)
    assert level_db(half_SCT - full_SCT, full_SCT) < -20


def test_what_does_not_fit_is_refused(network: DiffusionSeparator) -> None:
    def bare(**options: object) -> DiffusionSeparator:
        sampling = SamplingSettings(**options.pop("sampling", {}))
        return DiffusionSeparator(denoiser(), window_s=1.0, sampling=sampling, **options)

    for options in (
        {"num_stems": 4},
        {"sampling": {"prior": True}},
        {"sampling": {"start": "prior", "strength": 0.3}},
    ):
        with pytest.raises(ConfigError, match="found one without"):
            bare(**options)
    with pytest.raises(ConfigError, match="at most 10"):
        separator(denoiser(timesteps=10), steps=11)
    with pytest.raises(ConfigError, match="compile"):
        Separator(network).compiled = True
    blocks = config().blocks
    other = TrainedSCNet(scnet(), window_s=1.0)
    other.model.config = type(blocks)(**{**vars(blocks), "hop_size": 32})
    with pytest.raises(ConfigError, match="with the STFT"):
        bare(prior=other)


def test_the_fingerprint_tells_stems_and_the_prior_that_is_run() -> None:
    two, four = separator(), separator(num_stems=4)
    assert two.fingerprint != four.fingerprint
    assert two.fingerprint == separator().fingerprint
    other = DiffusionSeparator(two.denoiser, window_s=WINDOW_S, sampling=two.sampling)
    assert other.fingerprint == two.fingerprint
