import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mixprint.transfer
from mixprint.audio.files import read_audio, write_audio
from mixprint.audio.levels import true_peak_dbtp
from mixprint.console.rendering import render
from mixprint.console.results import write_mix
from mixprint.console.settings import Settings
from mixprint.errors import CheckpointError, ConfigError, DataError
from mixprint.features import FEATURE_NAMES, Standardisation, extract
from mixprint.stems import STEMS
from mixprint.storage.atomic import read_json
from mixprint.transfer.effect import InWindows, Running, apply_to_blocks
from mixprint.transfer.excerpts import Segment, load_whole
from mixprint.transfer.jobs import Models
from mixprint.transfer.methods.console_effect import ConsoleEffect
from mixprint.transfer.pair import Target, settings_used, transfer_segments
from mixprint.transfer.request import Request, transfer_songs
from mixprint.transfer.settings import (
    LOUDNESS_AT_PEAK_SHARE,
    Controls,
    parse_amounts,
)
from mixprint.transfer.stem_store import WholeSong
from mixprint.transfer.style import Style
from tests.transfer.metrics_schema import problems
from tests.transfer.test_excerpts import SplitSeparator
from tests.transfer.test_fit import LevelEncoder
from tests.transfer.trials import reports_cut_short, settings

RATE_HZ = 44_100
Make = Callable[..., Tensor]
SCHEMA = json.loads((Path(mixprint.transfer.__file__).parent / "metrics.schema.json").read_text())


class FourSeparator(SplitSeparator):
    """Stands for a separator: every stem has its share of the mix, and a little of its own."""

    def separate(self, audio_CT: Tensor) -> Tensor:
        shares = torch.tensor([0.4, 0.3, 0.2, 0.1]).view(-1, 1, 1)
        return shares * audio_CT


def segment(stems_SCT: Tensor, name: str = "a") -> Segment:
    return Segment(name, name, stems_SCT.sum(0), stems_SCT, {"model": "x"})


def transfer(
    out_dir: Path,
    source: Segment,
    target: Segment | Target,
    standardisation: Standardisation,
    *,
    controls: Controls | None = None,
    encoder: Any = None,
    model: Any = None,
    **more: object,
) -> dict[str, Any]:
    if isinstance(target, Segment):
        target = Target.of_song(target, encoder=encoder, device="cpu")
    metrics = transfer_segments(
        source,
        target,
        out_dir,
        settings(**({"method": "console", "num_steps": 2} | more)),
        fingerprint="x",
        controls=controls,
        standardisation=standardisation,
        encoder=encoder,
        model=model,
        device="cpu",
    )
    assert problems(metrics, SCHEMA) == []
    assert metrics == read_json(out_dir / "metrics.json")
    return metrics


def settings_of(metrics: dict[str, Any]) -> Settings:
    return Settings.from_values(metrics["settings"], "metrics.json")


def read_stems(folder: Path) -> Tensor:
    return torch.stack([read_audio(folder / f"{stem}.wav") for stem in STEMS])


@pytest.mark.parametrize("method", ["console", "tcn"])
def test_methods(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation, method: str
) -> None:
    source, target = segment(make_stems()), segment(make_stems(seed=1, gain=0.5), "b")
    metrics = transfer(tmp_path, source, target, standardisation, method=method, num_steps=2)
    assert metrics["method"] == method
    assert (metrics["settings"] is None) is (method == "tcn")
    assert (metrics["tcn"]["receptive_field_samples"] is None) is (method == "console")
    assert (metrics["tcn"]["residual_db"] is None) is (method == "console")
    assert metrics["final_feature_distance"] < metrics["initial_feature_distance"]
    for name, found in metrics["features"].items():
        assert found.keys() == set(FEATURE_NAMES), name
    output_SCT = read_stems(tmp_path / "transferred_stems")
    measured_D = extract(output_SCT.unsqueeze(0), RATE_HZ)[0]
    reported_D = torch.tensor([metrics["features"]["output"][name] for name in FEATURE_NAMES])
    torch.testing.assert_close(reported_D, measured_D, atol=2e-3, rtol=0)


@pytest.mark.usefixtures("short_reports")
def test_nothing_of_it_is_the_input(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    source = segment(make_stems())
    metrics = transfer(
        tmp_path,
        source,
        segment(make_stems(seed=1, gain=0.4), "b"),
        standardisation,
        controls=Controls(amount=parse_amounts(["0"])),
    )
    assert torch.equal(read_stems(tmp_path / "transferred_stems"), source.stems_SCT)
    assert metrics["final_feature_distance"] == metrics["initial_feature_distance"]
    assert metrics["amount"] == dict.fromkeys(STEMS, 0.0)
    assert len(metrics["stems_left_alone"]) == 4


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("level", [0.3, 4.0], ids=["quiet", "beyond full scale"])
def test_amount_0_is_the_input_to_the_bit_with_what_no_stem_has(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation, level: float
) -> None:
    stems_SCT = make_stems(gain=level)
    lacking_CT = 0.03 * level * torch.randn(2, stems_SCT.shape[-1])
    mixture_CT = stems_SCT.sum(0) + lacking_CT
    source = Segment("a", "a", mixture_CT, stems_SCT, {"model": "x"})
    metrics = transfer(
        tmp_path,
        source,
        segment(make_stems(seed=1, gain=0.4), "b"),
        standardisation,
        controls=Controls(amount=parse_amounts(["0"]), loudness="style"),
    )
    assert torch.equal(read_audio(tmp_path / "output_transferred.wav"), mixture_CT)
    assert torch.equal(read_audio(tmp_path / "input_original.wav"), mixture_CT)
    assert metrics["output"]["gain_db"] == 0
    ratio = lacking_CT.square().mean() / mixture_CT.square().mean()
    assert metrics["output"]["null_depth_db"] == pytest.approx(10 * ratio.log10().item(), abs=0.1)


@pytest.mark.usefixtures("short_reports")
def test_what_no_stem_has_passes_with_the_outputs_gain(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    stems_SCT = make_stems()
    lacking_CT = 0.02 * torch.randn(2, stems_SCT.shape[-1])
    source = Segment("a", "a", stems_SCT.sum(0) + lacking_CT, stems_SCT, {})
    metrics = transfer(
        tmp_path,
        source,
        segment(make_stems(seed=1, gain=0.5), "b"),
        standardisation,
        controls=Controls(loudness="match"),
    )
    gain = 10 ** (metrics["output"]["gain_db"] / 20)
    assert gain < 0.9
    rest_CT = read_audio(tmp_path / "output_transferred.wav")
    rest_CT -= read_stems(tmp_path / "transferred_stems").sum(0)
    torch.testing.assert_close(rest_CT, gain * lacking_CT, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("short_reports")
def test_originals_beyond_full_scale_are_not_clipped(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    source, target = segment(make_stems(gain=5.0)), segment(make_stems(seed=1, gain=6.0), "b")
    assert source.audio_CT.abs().max() > 2
    transfer(tmp_path, source, target, standardisation, num_steps=0)
    for name, song in (("input", source), ("target", target)):
        assert torch.equal(read_audio(tmp_path / f"{name}_original.wav"), song.audio_CT)


@pytest.mark.usefixtures("short_reports")
def test_amounts_and_kept_stems(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    source, target = segment(make_stems()), segment(make_stems(seed=1, gain=0.4), "b")
    whole = Controls(amount=parse_amounts([], ["vocals"]))
    full = transfer(tmp_path / "1", source, target, standardisation, controls=whole)
    amounts = Controls(amount=parse_amounts(["drums=0.5"], ["vocals"]))
    part = transfer(tmp_path / "2", source, target, standardisation, controls=amounts)
    assert torch.equal(read_stems(tmp_path / "2" / "transferred_stems")[0], source.stems_SCT[0])
    assert part["stems_left_alone"] == ["vocals"]
    assert "vocals left alone, as asked" in part["notes"]
    levels_db = [
        settings_of(metrics)["drums.trim_db"] + settings_of(metrics)["drums.fader_db"]
        for metrics in (part, full)
    ]
    assert levels_db[0] == pytest.approx(levels_db[1] / 2) != 0
    kept = settings_of(part)
    assert kept.tracks["vocals"] == Settings.neutral(STEMS).tracks["vocals"]
    assert kept["master.comp.slope"] == 0.0


@pytest.mark.usefixtures("short_reports")
def test_the_settings_make_the_transferred_stems_again(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    source, target = segment(make_stems()), segment(make_stems(seed=1, gain=0.4), "b")
    out_dir = tmp_path / "out"
    controls = Controls(loudness="match")
    metrics = transfer(out_dir, source, target, standardisation, controls=controls)
    assert metrics["output"]["gain_db"] != 0
    settings = Settings.load(out_dir / "settings.json")
    assert settings == settings_of(metrics)
    tracks = {stem: out_dir / "input_stems" / f"{stem}.wav" for stem in STEMS}
    write_mix(tracks, settings, tmp_path / "again")
    torch.testing.assert_close(
        read_stems(tmp_path / "again" / "tracks"),
        read_stems(out_dir / "transferred_stems"),
        atol=1e-6,
        rtol=0,
    )


def test_a_level_beyond_the_console_is_held_with_a_note() -> None:
    effect = ConsoleEffect(Settings.neutral(STEMS), RATE_HZ)
    notes: list[str] = []
    settings = settings_used(effect, Controls(), 30.0, notes)
    assert settings is not None
    assert settings["master.output_db"] == 24.0
    assert "30.0 dB is beyond" in notes[0]


@pytest.mark.usefixtures("short_reports")
@pytest.mark.parametrize("loudness", ["free", "style", "keep", "match"])
def test_loudness_and_true_peak(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation, loudness: str
) -> None:
    source = segment(make_stems(gain=0.3))
    target = segment(make_stems(seed=1, gain=0.6), "b")
    controls = Controls(loudness=loudness)  # type: ignore[arg-type]
    metrics = transfer(tmp_path, source, target, standardisation, controls=controls)
    output = metrics["output"]
    difference_lu = abs(output["input_loudness_lufs"] - output["target_loudness_lufs"])
    assert difference_lu > 4
    if loudness == "free":
        assert output["gain_db"] == 0
    elif loudness == "style":
        input_peak_dbtp = true_peak_dbtp(source.stems_SCT.sum(0))
        gone_lu = output["loudness_lufs"] - output["input_loudness_lufs"]
        at_peak_lu = gone_lu + input_peak_dbtp - output["true_peak_dbtp"]
        assert gone_lu == pytest.approx(LOUDNESS_AT_PEAK_SHARE * at_peak_lu, abs=0.01)
        assert output["gain_db"] != 0
    else:
        wanted = "input" if loudness == "keep" else "target"
        assert output["loudness_lufs"] == pytest.approx(output[f"{wanted}_loudness_lufs"], abs=0.02)
        assert output["loudness_gain_db"] == output["gain_db"] != 0
    assert output["loudness"] == loudness
    audio_CT = read_audio(tmp_path / "output_transferred.wav")
    torch.testing.assert_close(
        audio_CT, read_stems(tmp_path / "transferred_stems").sum(0), atol=1e-6, rtol=0
    )


@pytest.mark.usefixtures("short_reports")
def test_what_is_too_loud_is_lowered_by_one_gain(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    source, target = segment(make_stems()), segment(make_stems(seed=1, gain=8.0), "b")
    controls = Controls(loudness="match")
    metrics = transfer(tmp_path, source, target, standardisation, controls=controls, num_steps=1)
    output = metrics["output"]
    assert output["peak_gain_db"] < -1
    assert output["gain_db"] == pytest.approx(
        output["peak_gain_db"] + output["loudness_gain_db"], abs=1e-9
    )
    written_CT = read_audio(tmp_path / "output_transferred.wav")
    assert true_peak_dbtp(written_CT) == pytest.approx(-1, abs=1e-3)
    assert output["true_peak_dbtp"] == pytest.approx(-1, abs=1e-3)
    assert any("to keep its true peak" in note for note in metrics["notes"])
    assert metrics["artefacts"]["clipped_samples"] == 0


@pytest.mark.usefixtures("short_reports")
def test_a_whole_song_is_what_one_pass_gives(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    path = tmp_path / "a.wav"
    write_audio(path, make_stems(8.0321, gain=0.5).sum(0), RATE_HZ, subtype="FLOAT")
    wanted = settings(segment_offset=2.0)
    separator = FourSeparator()
    source = load_whole(path, wanted, separator, tmp_path / "scratch")  # type: ignore[arg-type]
    target = segment(make_stems(seed=1, gain=0.4), "b")
    metrics = transfer(
        tmp_path / "song", source, target, standardisation, controls=Controls(apply_to="song")
    )
    short = transfer(tmp_path / "segment", source, target, standardisation)
    assert (metrics["applied_to"], short["applied_to"]) == ("song", "segment")
    # What is found does not depend on what it is applied to.
    assert metrics["iterations"] == short["iterations"]
    assert settings_of(metrics).tracks == settings_of(short).tracks
    whole_SCT = read_stems(tmp_path / "song" / "transferred_stems")
    song_CT = read_audio(path)
    assert whole_SCT.shape[-1] == song_CT.shape[-1]
    torch.testing.assert_close(
        read_audio(tmp_path / "song" / "input_original.wav"), song_CT, atol=1e-6, rtol=0
    )
    assert torch.equal(read_stems(tmp_path / "song" / "input_stems"), separator.separate(song_CT))
    one_pass_SCT = render(separator.separate(song_CT), settings_of(metrics), RATE_HZ).float()
    torch.testing.assert_close(whole_SCT, one_pass_SCT, atol=1e-6, rtol=0)
    leftovers = [p for p in tmp_path.rglob("*") if p.name.startswith(".writing")]
    assert leftovers == []


def test_a_song_needs_its_files(
    make_stems: Make, tmp_path: Path, standardisation: Standardisation
) -> None:
    source = segment(make_stems())
    with pytest.raises(DataError, match="separated as a whole"):
        transfer(tmp_path, source, source, standardisation, controls=Controls(apply_to="song"))
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.usefixtures("short_reports")
def test_songs_are_streamed(
    tmp_path: Path,
    make_stems: Make,
    standardisation: Standardisation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No more of a song than a window and its context is ever given to the effect."""
    path = tmp_path / "a.wav"
    write_audio(path, make_stems(12.0, gain=0.5).sum(0), RATE_HZ, subtype="FLOAT")
    lengths = []

    class Watched(QuietEffect):
        context_samples, hop_samples = 4_000, 1_000

        def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
            lengths.append(stems_SCT.shape[-1])
            return super().__call__(stems_SCT, amount_S)

    def short_windows(
        effect: Any, blocks: Any, amount_S: Tensor, running: Running
    ) -> Iterator[Tensor]:
        return apply_to_blocks(
            InWindows(Watched()), blocks, amount_S, replace(running, window_s=1.0)
        )

    monkeypatch.setattr("mixprint.transfer.rendering.apply_to_blocks", short_windows)
    source = load_whole(path, settings(), FourSeparator(), tmp_path / "s")  # type: ignore[arg-type]
    transfer(
        tmp_path / "out",
        source,
        segment(make_stems(seed=1), "b"),
        standardisation,
        controls=Controls(apply_to="song"),
        num_steps=0,
    )
    assert len(lengths) == 12 * RATE_HZ // 45_000 + 1
    assert max(lengths) <= 45_000 + 2 * 4_000


@pytest.mark.usefixtures("short_reports")
def test_several_segments_are_fitted_together(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    first_SCT, second_SCT = make_stems(), make_stems(seed=3, gain=0.5)
    second_SCT[1] = 0  # no bass there
    both_SCT = torch.cat((first_SCT, second_SCT), dim=-1)
    num_samples = first_SCT.shape[-1]
    source = Segment("a", "a", both_SCT.sum(0), both_SCT, {}, lengths=(num_samples, num_samples))
    target = segment(make_stems(seed=1), "b")
    metrics = transfer(tmp_path, source, target, standardisation, num_steps=4)
    assert metrics["stems_left_alone"] == []
    style = Style.of("a", [first_SCT, second_SCT], RATE_HZ)
    for name, value in zip(FEATURE_NAMES, style.features_D.tolist(), strict=True):
        assert metrics["features"]["input"][name] == pytest.approx(value, abs=1e-4)
    assert read_stems(tmp_path / "transferred_stems").shape == both_SCT.shape
    assert metrics["final_feature_distance"] < metrics["initial_feature_distance"]


@pytest.mark.usefixtures("short_reports")
def test_a_short_input_stays_short(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    source = segment(make_stems(1.3))
    target = segment(make_stems(seed=1, gain=0.3), "b")
    metrics = transfer(tmp_path, source, target, standardisation)
    assert read_stems(tmp_path / "transferred_stems").shape == source.stems_SCT.shape
    assert metrics["final_feature_distance"] < metrics["initial_feature_distance"]


def test_mixed_targets(tmp_path: Path, make_stems: Make, standardisation: Standardisation) -> None:
    songs = [segment(make_stems(seed=i, gain=0.1 + 0.3 * i), f"song{i}") for i in (1, 2)]
    targets = [Target.of_song(song, encoder=None, device="cpu") for song in songs]
    targets[0].style.save(tmp_path / "first.json")
    stored = Target.of_file(tmp_path / "first.json")
    mixed = Target.mean([stored, targets[1]], [1.0, 3.0])
    with reports_cut_short():
        metrics = transfer(tmp_path / "out", segment(make_stems()), mixed, standardisation)
    assert metrics["target_audio"] == "song2"
    assert [source["weight"] for source in metrics["targets"]] == [0.25, 0.75]
    assert metrics["targets"][0]["style"] == str(tmp_path / "first.json")
    expected_D = (targets[0].style.features_D + 3 * targets[1].style.features_D) / 4
    found = metrics["features"]["target"]
    torch.testing.assert_close(torch.tensor([found[n] for n in FEATURE_NAMES]), expected_D)
    assert Target.mean(targets, [0.0, 1.0]) is targets[1]
    both = transfer(
        tmp_path / "both",
        segment(make_stems()),
        Target.mean(targets, [1, 1]),
        standardisation,
        num_steps=0,
    )
    assert both["target_audio"] == "song1 + song2"
    assert (tmp_path / "both" / "target_original.wav").is_file()
    assert (tmp_path / "both" / "target_2_stems" / "bass.wav").is_file()


def test_a_stored_style_needs_no_song(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    encoder = LevelEncoder()
    target_SCT = make_stems(seed=1, gain=0.3)
    song = Target.of_song(segment(target_SCT, "b"), encoder=encoder, device="cpu")
    song.style.save(tmp_path / "b.json")
    with reports_cut_short():
        by_song = transfer(
            tmp_path / "1", segment(make_stems()), song, standardisation, encoder=encoder
        )
    stored = Target.of_file(tmp_path / "b.json")
    by_style = transfer(
        tmp_path / "2", segment(make_stems()), stored, standardisation, encoder=encoder
    )
    assert by_style["target_audio"] is None
    assert by_style["target_style"] == "b"
    assert not list((tmp_path / "2").glob("target_*"))
    assert by_style["iterations"] == by_song["iterations"]
    assert by_style["settings"] == by_song["settings"]


@pytest.mark.usefixtures("short_reports")
def test_embeddings_of_another_encoder(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    class Other(LevelEncoder):
        fingerprint = "other"

    source = segment(make_stems())
    target = Target.of_song(segment(make_stems(seed=1), "b"), encoder=Other(), device="cpu")
    metrics = transfer(tmp_path, source, target, standardisation, encoder=LevelEncoder())
    assert metrics["final_embedding_distance"] is None
    assert any("encoder level, found one of other" in note for note in metrics["notes"])
    with pytest.raises(CheckpointError, match="encoder level, found one of other"):
        transfer(
            tmp_path,
            source,
            target,
            standardisation,
            encoder=LevelEncoder(),
            optimize_target="embeddings",
        )


class QuietEffect:
    """Turns everything down by 6 dB."""

    context_samples, hop_samples = 0, 1

    def __call__(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        return 2.0 ** -amount_S.view(-1, 1, 1) * stems_SCT

    def to(self, device: torch.device | str) -> "QuietEffect":
        return self


class QuietModel:
    """Stands for a trained zero-shot model."""

    fingerprint = "quiet"
    seen: list[Tensor]

    def check_encoder(self, fingerprint: str) -> None:
        if fingerprint != "level":
            raise CheckpointError(f"expected level, found {fingerprint}")

    def effect(self, input_E: Tensor, target_E: Tensor) -> QuietEffect:
        self.seen = [input_E, target_E]
        return QuietEffect()


def test_zero_shot(tmp_path: Path, make_stems: Make, standardisation: Standardisation) -> None:
    source, target = segment(make_stems()), segment(make_stems(seed=1, gain=0.5), "b")
    model, encoder = QuietModel(), LevelEncoder()
    source.stems_SCT[1] = 0
    metrics = transfer(
        tmp_path,
        source,
        target,
        standardisation,
        method="zero-shot",
        aim="target",
        encoder=encoder,
        model=model,
        controls=Controls(amount=parse_amounts(["drums=2"])),
    )
    gains = torch.tensor([0.5, 1.0, 0.25, 0.5]).view(-1, 1, 1)
    output_SCT = read_stems(tmp_path / "transferred_stems")
    torch.testing.assert_close(output_SCT, gains * source.stems_SCT, atol=1e-7, rtol=0)
    assert torch.equal(model.seen[0], encoder.embed(source.stems_SCT.unsqueeze(0), RATE_HZ)[0])
    assert [i["step"] for i in metrics["iterations"]] == [0, 1]
    assert metrics["checkpoints"]["zero_shot"] == "quiet"
    assert metrics["converged"] is True
    assert metrics["stems_left_alone"] == ["bass"]
    with pytest.raises(ConfigError, match="encoder"):
        transfer(tmp_path, source, target, standardisation, method="zero-shot", model=model)
    with pytest.raises(ConfigError, match="trained model"):
        transfer(tmp_path, source, target, standardisation, method="zero-shot", encoder=encoder)


def test_requests_are_checked() -> None:
    wanted = {"input_audio": Path("a"), "settings": (settings(),), "controls": Controls()}
    two = {"target_audio": (Path("b"), Path("c"))}
    for more, message in (
        ({}, "neither"),
        (two | {"weights": (1.0,)}, "expected 2"),
        (two | {"weights": (0.0, 5.0)}, "above 0"),
        (two | {"weights": (0.0, 0.0)}, "above 0"),
        (two | {"weights": (-1.0, 2.0)}, "above 0"),
        (two | {"weights": (1e308, 1e308)}, "up to"),
        (two | {"settings": ()}, "got none"),
        (two | {"sweep": 1}, "2 to 101"),
        ({"target_audio": (Path("b"),), "sweep": 3}, "two targets"),
        (two | {"sweep": 3, "weights": (1.0, 2.0)}, "two targets"),
        (two | {"sweep": 3, "save_style": Path("s")}, "sweep of them"),
    ):
        with pytest.raises(ConfigError, match=message):
            Request(**(wanted | more))  # type: ignore[arg-type]


@pytest.mark.usefixtures("short_reports")
def test_every_combination_is_made_and_songs_are_separated_once(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation
) -> None:
    for index, name in enumerate("abc"):
        audio_CT = make_stems(3.2, seed=index, gain=0.5 + index).sum(0)
        write_audio(tmp_path / f"{name}.wav", audio_CT, RATE_HZ)
    separated = []

    class Counting(FourSeparator):
        def separate(self, audio_CT: Tensor) -> Tensor:
            separated.append(audio_CT.shape[-1])
            return super().separate(audio_CT)

    request = Request(
        input_audio=tmp_path / "a.wav",
        target_audio=(tmp_path / "b.wav", tmp_path / "c.wav"),
        sweep=3,
        settings=tuple(settings(method="console", num_steps=0, lr=lr) for lr in (0.0005, 0.002)),
        controls=Controls(),
    )
    out_dir = tmp_path / "out"
    models = Models(standardisation=standardisation, separator=Counting())  # type: ignore[arg-type]
    done = transfer_songs(request, out_dir, models)
    assert len(separated) == 3
    names = [
        f"sweep-{share}-lr-{lr}" for share in ("0.00", "0.50", "1.00") for lr in (0.0005, 0.002)
    ]
    assert [each.folder.name for each in done] == names
    rows = read_json(out_dir / "summary.json")["transfers"]
    assert [row["folder"] for row in rows] == names
    assert {row["pair"] for row in rows} == {
        "a in the mix of b",
        "a in the mix of c",
        "a in the mix of b + c",
    }
    page = (out_dir / "report.html").read_text()
    assert all(name in page for name in names)
    assert sorted(p.name for p in out_dir.iterdir()) == sorted(
        [*names, "summary.json", "summary.csv", "report.html"]
    )
    metrics = [each.metrics for each in done]
    levels = [m["features"]["target"]["bass_loudness_lufs"] for m in metrics[::2]]
    assert levels[1] == pytest.approx((levels[0] + levels[2]) / 2, abs=1e-3)
    assert metrics[0]["target_audio"] == str(tmp_path / "b.wav")
    assert metrics[1]["hyperparameters"]["lr"] == 0.002
    assert not any(each.was_there for each in done)
    (out_dir / names[2] / "output_transferred.wav").unlink()
    again = transfer_songs(request, out_dir, models)
    assert [each.was_there for each in again] == [name != names[2] for name in names]
    # All three songs, for the one that is made again is a mix of both targets.
    assert len(separated) == 6


@pytest.fixture
def ask(
    tmp_path: Path, make_stems: Make, standardisation: Standardisation, short_reports: None
) -> Callable[..., list[Any]]:
    """Transfer short songs into `out`, in the way of the command."""
    for index, name in enumerate("ab"):
        audio_CT = make_stems(3.2, seed=index, gain=0.5).sum(0)
        write_audio(tmp_path / f"{name}.wav", audio_CT, RATE_HZ)

    def ask(out: str = "out", song: str = "a.wav", **more: Any) -> list[Any]:
        values: dict[str, Any] = {
            "input_audio": tmp_path / song,
            "target_audio": (tmp_path / "b.wav",),
            "settings": (settings(method="console", num_steps=0),),
            "controls": Controls(),
        }
        models = Models(standardisation=standardisation, separator=FourSeparator())  # type: ignore[arg-type]
        return transfer_songs(Request(**(values | more)), tmp_path / out, models)

    return ask


def contents(folder: Path) -> dict[str, bytes]:
    paths = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


@pytest.mark.usefixtures("short_reports")
def test_another_call_replaces_nothing_unless_asked(
    tmp_path: Path, ask: Callable[..., list[Any]]
) -> None:
    ask()
    before = contents(tmp_path / "out")
    assert [each.was_there for each in ask()] == [True]
    for more in (
        {"song": "b.wav"},
        {"controls": Controls(loudness="keep")},
        {"settings": tuple(settings(method="console", num_steps=0, lr=lr) for lr in (0.1, 0.2))},
    ):
        with pytest.raises(DataError, match=r"a transfer of another call.*--overwrite"):
            ask(**more)
        assert contents(tmp_path / "out") == before
    # Several combinations take the place of the one, and leave nothing of it.
    done = ask(**more, overwrite=True)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        *(each.folder.name for each in done),
        "report.html",
        "summary.json",
        "summary.csv",
    }
    with pytest.raises(DataError, match=r"a summary of transfers of another call.*--overwrite"):
        ask()
    (again,) = ask(overwrite=True)
    assert not again.was_there
    assert not (tmp_path / "out" / "summary.json").exists()


@pytest.mark.parametrize("name", ["report.html", "output_transferred.wav", "input_stems/bass.wav"])
def test_a_persons_files_stay_whatever_is_asked_for(
    tmp_path: Path, ask: Callable[..., list[Any]], name: str
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"my own")
    for overwrite in (False, True):
        with pytest.raises(DataError, match=f"other files there: {name}"):
            ask(overwrite=overwrite)
    assert contents(tmp_path / "out") == {name: b"my own"}


def test_an_input_in_the_output_folder_stays(tmp_path: Path, ask: Callable[..., list[Any]]) -> None:
    ask()
    before = contents(tmp_path / "out")
    (tmp_path / "link.wav").symlink_to(tmp_path / "out" / "output_transferred.wav")
    for song in ("out/output_transferred.wav", "link.wav", "out/../out/input_original.wav"):
        with pytest.raises(DataError, match="of an input"):
            ask(song=song, overwrite=True)
    with pytest.raises(DataError, match="of an input"):
        ask(target_audio=(tmp_path / "out" / "input_stems" / "bass.wav",), overwrite=True)
    assert contents(tmp_path / "out") == before


@pytest.mark.usefixtures("short_reports")
def test_a_style_file_is_replaced_only_where_it_is_one_and_only_when_asked(
    tmp_path: Path, ask: Callable[..., list[Any]]
) -> None:
    style = tmp_path / "style.json"
    ask(save_style=style)
    first = style.read_bytes()
    ask(save_style=style)
    other = {"target_audio": (tmp_path / "a.wav",), "save_style": style}
    with pytest.raises(DataError, match="--overwrite"):
        ask("other", **other)
    assert style.read_bytes() == first
    ask("other", **other, overwrite=True)
    assert style.read_bytes() != first
    style.write_text('{"my": "own"}')
    with pytest.raises(DataError, match="found another"):
        ask("other", **other, overwrite=True)
    with pytest.raises(DataError, match="expected another name for the style"):
        ask("third", save_style=tmp_path / "third" / "Metrics.json")
    with pytest.raises(DataError, match="found the same"):
        ask("third", styles=(style,), save_style=style)
    assert style.read_text() == '{"my": "own"}'


def test_songs_and_folders_whose_names_are_no_text(
    tmp_path: Path, ask: Callable[..., list[Any]]
) -> None:
    name = os.fsdecode(b"caf\xe9")
    (tmp_path / "a.wav").rename(tmp_path / f"{name}.wav")
    lrs = tuple(settings(method="console", num_steps=0, lr=lr) for lr in (0.1, 0.2))
    first, _ = ask(name, f"{name}.wav", settings=lrs)
    assert first.metrics["input_title"] == r"caf\xe9"
    assert "caf" in (tmp_path / name / "report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("short_reports")
def test_a_song_of_another_rate_gets_a_note(
    tmp_path: Path, ask: Callable[..., list[Any]], make_stems: Make
) -> None:
    write_audio(tmp_path / "a48.wav", make_stems(3.5).sum(0), 48_000)
    (done,) = ask(song="a48.wav")
    notes = [note for note in done.metrics["notes"] if "Hz" in note]
    assert notes == [f"{tmp_path / 'a48.wav'}: resampled from 48000 Hz to 44100 Hz"]


@pytest.mark.usefixtures("short_reports")
def test_stems_in_files_are_a_whole_song(tmp_path: Path, make_stems: Make) -> None:
    stems_SCT = make_stems(7.0)
    for stem, stem_CT in zip(STEMS, stems_SCT, strict=True):
        write_audio(tmp_path / f"{stem}.wav", stem_CT, RATE_HZ, subtype="FLOAT")
    write_audio(tmp_path / "mix.wav", stems_SCT.sum(0), RATE_HZ, subtype="FLOAT")
    song = WholeSong(tmp_path / "mix.wav", tmp_path, stems_SCT.shape[-1])
    mixtures, stems = zip(*song.blocks(), strict=True)
    assert torch.equal(torch.cat(stems, dim=-1), stems_SCT)
    assert torch.equal(torch.cat(mixtures, dim=-1), stems_SCT.sum(0))
