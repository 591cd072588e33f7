import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mixprint.audio.files import read_audio
from mixprint.audio.levels import loudness_lufs, true_peak_dbtp
from mixprint.audio.resampling import resample
from mixprint.cascade import blend as blending
from mixprint.cascade.blend import NAMES, Blended, BlendSettings, blend, in_words
from mixprint.cascade.report import check_outputs, write_blend
from mixprint.errors import ConfigError, DataError
from mixprint.stems import SAMPLE_RATE_HZ, STEMS
from tests.cascade.pieces import RATE_HZ, Piece, piece

INPUT, TARGET = piece(0), piece(1)


def stereo(mono_T: Tensor) -> Tensor:
    return resample(mono_T[None], RATE_HZ, SAMPLE_RATE_HZ).expand(2, -1).contiguous()


SONGS: Mapping[str, Tensor] = {"input": stereo(INPUT.mix), "target": stereo(TARGET.mix)}


def separate(audio_CT: Tensor) -> Tensor:
    """Stand for a separator that knows both songs: scaled as the audio is."""

    def stems(known: Piece) -> Tensor:
        return torch.stack([stereo(getattr(known, stem)) for stem in STEMS])

    def fit(stems_SCT: Tensor) -> tuple[float, Tensor]:
        mix_CT = stems_SCT.sum(dim=0)
        gain = float((mix_CT * audio_CT).sum() / mix_CT.square().sum())
        return float((audio_CT - gain * mix_CT).square().sum()), gain * stems_SCT

    return min((fit(stems(known)) for known in (INPUT, TARGET)), key=lambda found: found[0])[1]


def blended(masking: str = "stems", balance_db: float = 0.0) -> Blended:
    settings = BlendSettings(masking=masking, balance_db=balance_db)
    return blend(SONGS["input"], SONGS["target"], settings, separate)


@pytest.fixture(scope="module")
def by_stems() -> Blended:
    return blended()


def test_with_true_stems_it_is_the_answer(by_stems: Blended) -> None:
    loudness = [loudness_lufs(song_CT, SAMPLE_RATE_HZ) for song_CT in SONGS.values()]
    gain = 10 ** ((loudness[1] - loudness[0]) / 20)
    answer_CT = gain * stereo(INPUT.drums) + stereo(TARGET.rest)
    answer_CT = answer_CT * 10 ** (by_stems.gain_db / 20)
    torch.testing.assert_close(by_stems.audio_CT, answer_CT, atol=1e-4, rtol=0)
    assert by_stems.likeness.score > 0.9
    assert by_stems.shares is not None
    assert by_stems.shares["target drums"] < 0.02
    assert by_stems.shares["input drums"] > 0.05


def test_the_true_peak_is_kept(by_stems: Blended) -> None:
    assert by_stems.gain_db < 0
    assert true_peak_dbtp(by_stems.audio_CT) == pytest.approx(-1.0, abs=0.05)


def test_balance_makes_the_input_louder(by_stems: Blended) -> None:
    louder = blended(balance_db=12.0)
    assert louder.shares is not None
    assert by_stems.shares is not None
    assert louder.shares["input drums"] > by_stems.shares["input drums"] + 0.1


@pytest.mark.parametrize("masking", NAMES[1:])
def test_a_fixed_mask_needs_no_separator(masking: str) -> None:
    settings = BlendSettings(masking=masking)
    found = blend(SONGS["input"], SONGS["target"], settings)
    assert found.audio_CT.shape == SONGS["input"].shape
    assert found.shares is None
    assert 0 <= found.mask_KN.min() < found.mask_KN.max() < 1.001


def test_windows_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = blended("frequency")
    monkeypatch.setattr(blending, "WINDOW_S", 1.7)
    monkeypatch.setattr(blending, "FADE_S", 0.2)
    in_parts = blended("frequency")
    error_CT = (in_parts.audio_CT - whole.audio_CT).abs()
    # A spectrum knows no more of a window's ends than the fade hides.
    assert error_CT.max() < 0.02 * whole.audio_CT.abs().max()
    stems = blended()
    monkeypatch.setattr(blending, "WINDOW_S", 20.0)
    torch.testing.assert_close(stems.audio_CT, blended().audio_CT, atol=1e-5, rtol=0)


def test_the_longer_song_is_cut() -> None:
    settings = BlendSettings(masking="energy")
    found = blend(SONGS["input"], SONGS["target"][:, : 2 * SAMPLE_RATE_HZ], settings)
    assert found.audio_CT.shape[-1] == 2 * SAMPLE_RATE_HZ


def test_silent_songs_make_silence() -> None:
    silence_CT = torch.zeros(2, 2 * SAMPLE_RATE_HZ)
    found = blend(silence_CT, silence_CT, BlendSettings(masking="spectral"))
    assert not found.audio_CT.any()
    assert found.likeness.score == 0
    assert found.gain_db == 0


def test_words_tell_whose_rhythm_and_harmony_it_is(by_stems: Blended) -> None:
    rhythm, harmony, score, power = in_words(by_stems)
    assert rhythm.startswith(f"Rhythm: {by_stems.likeness.rhythm_input:.2f} like the input's")
    assert f"{by_stems.likeness.harmony_target:.2f} like the target's" in harmony
    assert f"{by_stems.likeness.score:.2f}" in score
    assert "0% the target's drums" in power


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected 1 s or more of both songs, found 0\.50 s"):
        blend(SONGS["input"][:, :22_050], SONGS["target"], BlendSettings(masking="energy"))
    with pytest.raises(ConfigError, match="expected a separator, found none"):
        blend(SONGS["input"], SONGS["target"], BlendSettings())
    with pytest.raises(ConfigError, match="masking: expected one of"):
        BlendSettings(masking="luck")


def test_audio_page_and_figures_are_written(tmp_path: Path, by_stems: Blended) -> None:
    path = tmp_path / "a mix.flac"
    check_outputs(path, [], overwrite=False)
    write_blend(path, by_stems, SONGS, {"masking": "stems", "input": "<a>.wav"})
    torch.testing.assert_close(read_audio(path), by_stems.audio_CT, atol=1e-6, rtol=0)
    page = path.with_suffix(".html").read_text()
    assert "&lt;a&gt;.wav" in page
    assert in_words(by_stems)[0].replace("'", "&#39;") in page
    values = json.loads(path.with_suffix(".json").read_text())
    assert values["score"] == by_stems.likeness.score
    assert values["shares"]["target drums"] < 0.02
    with pytest.raises(DataError, match="found that of another call"):
        check_outputs(path, [], overwrite=False)
    check_outputs(path, [], overwrite=True)


@pytest.mark.parametrize("name", ["mix.wav", "mix.html", "mix.json"])
def test_other_files_are_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[1]")
    with pytest.raises(DataError, match="choose another name"):
        check_outputs(tmp_path / "mix.wav", [], overwrite=True)


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mix\.mp3: expected a name that ends with one of"):
        check_outputs(tmp_path / "mix.mp3", [], overwrite=False)
