"""The map of how far samples differ."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from mixprint.audio.files import write_audio
from mixprint.separation import Separator
from mixprint.separation.diffusion import separator as diffusion
from mixprint.separation.diffusion.noise import gaussian_noise
from mixprint.separation.diffusion.separator import Drawn
from mixprint.separation.files import FileSettings, separate_file
from mixprint.separation.uncertainty import UncertaintyMap, watched_uncertainty
from mixprint.stems import SAMPLE_RATE_HZ
from tests.separation.diffusion.trials import HOP, level_db, music, separator

LENGTH = 60 * HOP
NUM_SAMPLES = 3


def test_one_sample_has_no_map() -> None:
    with watched_uncertainty(Separator(separator())) as found:
        assert found is None


def test_it_tells_how_far_the_audio_of_samples_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    audio_CT = music(LENGTH)
    several = Separator(separator(samples=NUM_SAMPLES))
    with watched_uncertainty(several) as found:
        vocals_CT, instrumental_CT = several.separate(audio_CT)
    assert several.network.on_drawn is None
    singles = []
    for number in range(NUM_SAMPLES):
        monkeypatch.setattr(
            diffusion,
            "gaussian_noise",
            lambda seed, _, *rest, number=number: gaussian_noise(seed, number, *rest),
        )
        singles.append(Separator(separator()).separate(audio_CT)[0])
    samples_KCT = torch.stack(singles)
    assert level_db(samples_KCT.mean(dim=0) - vocals_CT, vocals_CT) < -100
    deviation_CT = samples_KCT.var(dim=0).sqrt()
    relative_db = found.relative_db()
    for stem, stem_CT in (("vocals", vocals_CT), ("instrumental", instrumental_CT)):
        # Windows fade into each other, which the map takes for no part of it.
        assert relative_db[stem] == pytest.approx(level_db(deviation_CT, stem_CT), abs=0.7)


def test_cells_lie_where_windows_do() -> None:
    network = separator(samples=2)
    found = UncertaintyMap(network)
    rows = network.denoiser.config.blocks.num_bins
    frames = found._frames_per_cell
    mixture_BCFN = torch.zeros(2, 2, rows, frames + 3, dtype=torch.complex64)
    mixture_BCFN[0], mixture_BCFN[1, :, rows // 2 :] = 1.0, 0.1
    drawn = Drawn(
        mixture_BCFN=mixture_BCFN,
        mean_BCFN=0.5 * mixture_BCFN,
        variance_BCFN=0.01 * mixture_BCFN.abs().square(),
        first_frame_B=torch.tensor([0, 2 * frames]),
        num_frames=frames,
    )
    for _ in range(2):
        found.add(drawn)
    arrays = found.arrays()
    assert arrays["time_s"] == pytest.approx(np.arange(4) * frames * HOP / SAMPLE_RATE_HZ)
    assert arrays["frequency_hz"][0] == 0
    assert (np.diff(arrays["frequency_hz"]) > 0).all()
    levels_LK = arrays["mixture_db"].astype(float)
    assert levels_LK[0] == pytest.approx(np.zeros(levels_LK.shape[1]), abs=0.01)
    assert (levels_LK[1] == -120).all()
    assert levels_LK[2, 0] == -120
    assert levels_LK[2, -1] == pytest.approx(-20, abs=0.01)
    for name, expected in (("vocals", -6.02), ("instrumental", -6.02), ("deviation", -20)):
        assert arrays[f"{name}_db"][0] == pytest.approx(expected, abs=0.01)
    assert found.relative_db() == pytest.approx(dict.fromkeys(("vocals", "instrumental"), -13.9794))


def test_it_lies_beside_the_stems(tmp_path: Path) -> None:
    song, folder = tmp_path / "a $song$.wav", tmp_path / "out"
    write_audio(song, music(LENGTH), SAMPLE_RATE_HZ)
    several = Separator(separator(samples=2))
    report, _ = separate_file(several, song, folder, FileSettings())
    names = {"vocals.wav", "instrumental.wav", "uncertainty.npz", "uncertainty.png"}
    assert set(report.files) == set(report.files_sha256) == names
    assert set(report.levels) == set(report.leakage_db) == {"vocals", "instrumental"}
    assert report.null_depth_db < -120
    assert report.settings["stems"] == ["vocals", "instrumental"]
    assert report.settings["sampling"]["samples"] == 2
    assert set(report.uncertainty_db) == {"vocals", "instrumental"}
    assert report.uncertainty_db["vocals"] > report.uncertainty_db["instrumental"] > -80
    with np.load(folder / "uncertainty.npz", allow_pickle=False) as arrays:
        times, bands = arrays["deviation_db"].shape
        assert arrays["time_s"].shape == (times + 1,)
        assert arrays["frequency_hz"].shape == (bands + 1,)
        assert arrays["time_s"][-1] >= LENGTH / SAMPLE_RATE_HZ
    assert imread(folder / "uncertainty.png")[..., :3].std() > 0.1
    # What is there is left as it is, unless its map was lost.
    assert not separate_file(several, song, folder, FileSettings())[1]
    (folder / "uncertainty.npz").write_bytes(b"")
    assert separate_file(several, song, folder, FileSettings())[1]


def test_a_start_with_the_mixture_tells_how_loud_its_vocals_are(tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    write_audio(song, music(LENGTH), SAMPLE_RATE_HZ)
    mixed = separator(start="mixture", strength=0.5)
    report, _ = separate_file(Separator(mixed), song, tmp_path / "out", FileSettings())
    (note,) = report.notes
    # At half time signal and noise are alike, and the signal's deviation is 0.5.
    assert mixed.start_snr_db == pytest.approx(-6.02, abs=0.01)
    levels = {stem: 10 ** (v["level_dbfs"] / 10) for stem, v in report.levels.items()}
    share_db = 10 * np.log10(levels["vocals"] / sum(levels.values()))
    assert f"{6.02 - 0.5 * share_db:.1f} dB below the noise" in note
