import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from matplotlib.image import imread
from torch import Tensor

from mixprint.collection.catalogue import Track, read_catalogue, uri_of, write_catalogue
from mixprint.collection.shards import (
    SegmentRef,
    SeparatorFingerprint,
    read_index,
    shard_name,
    write_shard,
)
from mixprint.errors import DataError
from mixprint.evaluation import plots
from mixprint.evaluation.embedding import Embedder
from mixprint.evaluation.evaluate import (
    _feature_changes,
    evaluate,
    read_history,
    select_tracks,
)
from mixprint.evaluation.held_out_chains import ChainTest
from mixprint.features import FEATURE_NAMES, Standardisation
from mixprint.features.table import write_features
from mixprint.storage.atomic import read_json, write_json

RATE_HZ = 44_100
SEGMENT_SAMPLES = 8_820
SEGMENT_S = SEGMENT_SAMPLES / RATE_HZ
STYLES = ("dry", "damp", "wet")
NUM_SONGS = 3


class StyleEncoder:
    """Stands for a perfect encoder: the level of the vocals tells the style, and little else."""

    fingerprint = "style"

    def embed(self, stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
        assert sample_rate_hz == RATE_HZ
        level_BS = stems_BSCT.square().mean((-2, -1)).sqrt()
        angle_B = 4 * level_BS[:, 0] + 0.05 * level_BS[:, 1]
        return torch.stack((angle_B.cos(), angle_B.sin()), dim=1)


class BlindEncoder:
    """Stands for an encoder that was not trained: all is the same to it."""

    fingerprint = "blind"

    def embed(self, stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(stems_BSCT), 2)


def track(
    track_id: str, song: str, style: str, split: str = "test", uri: str = "nowhere.wav"
) -> Track:
    return Track(
        track_id=track_id,
        title=f"</script><b>{song} & {style}",
        uri=uri,
        source="synthetic",
        duration_s=2 * SEGMENT_S,
        sample_rate_hz=RATE_HZ,
        channels=2,
        split=split,
        licence="",
        has_stems=True,
        song=song,
        style=style,
    )


def make_run(
    root: Path, *, known_styles: bool = True, overlap: bool = False, split: str = "test"
) -> dict[str, Path]:
    """Write catalogue, stems, features and settings of 3 songs in 3 styles, two segments each."""
    tracks, keys, rows = [], [], []
    separator = SeparatorFingerprint("true_stems", "", "x")
    with write_shard(
        root / "stems" / shard_name(0, 1),
        fingerprint="x",
        sample_rate_hz=RATE_HZ,
        separator=separator,
    ) as writer:
        for song in range(NUM_SONGS):
            for number, style in enumerate(STYLES):
                track_id = f"{song}{style}"
                mix = root / "data" / track_id / "mixture.wav"
                settings = {"vocals": {"gain_db": float(number)}, "bass": {"pan": -0.1 * number}}
                write_json(mix.with_name("settings.json"), {"mix": {"stems": settings}})
                known_style = style if known_styles else ""
                tracks.append(track(track_id, f"song{song}", known_style, split, mix.as_uri()))
                for segment in range(2):
                    stems_SCT = torch.full((4, 2, SEGMENT_SAMPLES), 0.1)
                    stems_SCT[0] = 0.1 + 0.3 * number
                    stems_SCT[1] = 0.1 * (song + 1)
                    start_s = segment * SEGMENT_S / (2 if overlap else 1)
                    writer.write(track_id, segment, start_s, stems_SCT)
                    keys.append((track_id, segment))
                    # The features tell the song.
                    rows.append([float(song)] * 32 + [0.01 * number] * 32)
    write_catalogue(root / "catalogue", tracks, [], locations=[uri_of(root / "data")])
    features_BD = torch.tensor(rows)
    write_features(
        root / "features" / "features.parquet",
        [k for k, _ in keys],
        [s for _, s in keys],
        features_BD,
    )
    ones_D = torch.ones(len(FEATURE_NAMES))
    Standardisation(0 * ones_D, ones_D).save(root / "features" / "standardisation.json")
    history = [{"epoch": e, "train.loss": 3.0 / e, "valid.recall_at_1": 0.1 * e} for e in (1, 2, 3)]
    write_json(root / "history.json", history)
    return {
        "stems_dir": root / "stems",
        "features_dir": root / "features",
        "catalogue_dir": root / "catalogue",
        "out_dir": root / "evaluation",
        "history_path": root / "history.json",
    }


NO_CHAINS = ChainTest(num_chains=0, lengths=(), segment_s=3.0, seed=1)


def run(paths: dict[str, Path], encoder: Embedder | None = None) -> dict:
    return evaluate(
        **paths,
        encoder=encoder or StyleEncoder(),
        untrained=BlindEncoder(),
        chain_test=NO_CHAINS,
        num_bootstrap=20,
        seed=1,
    )


@pytest.fixture
def undrawn(evaluated: tuple[dict[str, Path], dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have evaluations draw nothing where nobody looks; the one that is shared has its pictures."""
    monkeypatch.setattr("mixprint.evaluation.evaluate._draw", lambda *_: {})


def test_what_was_evaluated_is_known_again(
    evaluated: tuple[dict[str, Path], dict], tmp_path: Path, undrawn: None
) -> None:
    _, first = evaluated
    paths = make_run(tmp_path)
    tracks = read_catalogue(paths["catalogue_dir"])
    # A song that is not evaluated does not count; one that is counts with its style.
    more = track("another", "another", "dry", "train")
    places = [uri_of(tmp_path / "data"), "."]
    write_catalogue(paths["catalogue_dir"], [*tracks, more], [], locations=places)
    assert run(paths)["evaluated_fingerprint"] == first["evaluated_fingerprint"]
    tracks[0] = replace(tracks[0], style="other")
    write_catalogue(paths["catalogue_dir"], tracks, [], locations=places)
    assert run(paths)["evaluated_fingerprint"] != first["evaluated_fingerprint"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], dict]:
    """Evaluate once, for the tests that only look at the result."""
    paths = make_run(tmp_path_factory.mktemp("evaluated"))
    return paths, run(paths)


class Page(HTMLParser):
    """Collects what a page would load and what it plays."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href")]


def test_evaluation_of_a_generated_collection(
    evaluated: tuple[dict[str, Path], dict],
) -> None:
    paths, metrics = evaluated
    out_dir = paths["out_dir"]
    assert read_json(out_dir / "metrics.json") == metrics
    assert (metrics["split_used"], metrics["num_songs"], metrics["num_tracks"]) == ("test", 3, 9)
    assert metrics["segment_s"] == pytest.approx(SEGMENT_S)

    # The encoder follows the style alone; the features follow the song alone.
    assert metrics["style_recall_at_1"] == 1
    assert metrics["style_retrieval"]["features"]["recall_at_1"]["value"] == 0
    assert metrics["style_over_song_ratio"] > 10
    assert metrics["style_retrieval"]["features"]["style_over_song_ratio"]["value"] < 0.1
    # To the untrained encoder all is one: it finds nothing, and no ratio is defined.
    assert metrics["style_retrieval"]["untrained"]["recall_at_1"]["value"] == 0
    assert "style_over_song_ratio" not in metrics["style_retrieval"]["untrained"]
    # The levels tell style and song.
    assert metrics["style_retrieval"]["log_mel"]["style_over_song_ratio"]["value"] > 0
    # Pool of each track: all but itself (8), right are the same style in the 2 other songs.
    assert metrics["style_retrieval"]["chance"]["recall_at_1"] == pytest.approx(2 / 8)
    assert metrics["song_retrieval"]["num_queries"] == 9
    assert metrics["song_retrieval"]["chance"]["recall_at_1"] == pytest.approx(1 / 9)
    assert metrics["song_recall_at_1"] == 1
    for name in ("style_recall_at_1", "style_over_song_ratio", "song_map_at_10"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]

    figures = {path.name for path in (out_dir / "plots").iterdir()}
    assert figures == {
        f"{name}.png"
        for name in ("recall", "projection", "confusion", "probes", "features", "training")
    }


def test_probes_of_a_generated_collection(
    evaluated: tuple[dict[str, Path], dict],
) -> None:
    paths, metrics = evaluated
    probes = metrics["probes"]
    # The gain follows the style, so the encoder knows it for songs that the probe has not met.
    assert probes["settings"]["num_settings"] == 2
    assert probes["settings"]["encoder"]["mean_r2"]["value"] > 0.9
    assert set(probes["settings"]["encoder"]["by_family"]) == {"gain", "pan"}
    assert probes["settings"]["untrained"]["mean_r2"]["value"] == pytest.approx(0, abs=1e-9)
    assert probes["song"]["features"]["accuracy"]["value"] == 1
    assert probes["song"]["chance"]["accuracy"] == pytest.approx(1 / 3)
    assert metrics["probe_settings_mean_r2"] == probes["settings"]["encoder"]["mean_r2"]["value"]
    details = read_json(paths["out_dir"] / "details.json")
    assert set(details["settings_r2"]["encoder"]) == {"vocals.gain_db", "bass.pan"}
    scores = details["scores"]["style"]["recall_at_1"]
    assert scores.keys() == details["songs"].keys()
    assert np.mean(list(scores.values())) == metrics["style_recall_at_1"]


def test_feature_changes_by_hand(tmp_path: Path) -> None:
    paths = make_run(tmp_path)
    collection = select_tracks(
        read_catalogue(paths["catalogue_dir"]), read_index(paths["stems_dir"])
    )
    feature_ND = np.array([[float(t.song[-1]), STYLES.index(t.style)] for t in collection.tracks])
    changes = _feature_changes(collection, feature_ND)
    # Differences of 0, 1 and 2: those of songs and those of styles are pairs of (1, 1, 2).
    rms = np.sqrt((1 + 1 + 4) / 3)
    np.testing.assert_allclose(changes["the same song in another style"], [0, rms], atol=1e-12)
    np.testing.assert_allclose(changes["the same style in another song"], [rms, 0], atol=1e-12)


def test_the_page_holds_all_that_it_shows(evaluated: tuple[dict[str, Path], dict]) -> None:
    paths, _ = evaluated
    text = (paths["out_dir"] / "report.html").read_text()
    found = Page(text)
    assert all(link.startswith("data:") for link in found.links)
    assert not re.search(r"url\(|@import|https?://", text)
    assert "script" not in found.tags
    assert "b" not in found.tags
    assert found.tags.count("img") == 6
    assert found.tags.count("audio") == 4 * (1 + 3)
    assert 'name="viewport"' in text
    assert text.count('class="good"') == 8  # every query's two tracks of the same style
    assert text.count("<details>") == 1
    assert len(text) < 8e6
    flac = base64.b64decode(re.findall(r"data:audio/flac;base64,([^\"]+)", text)[0])
    audio, rate_hz = sf.read(io.BytesIO(flac))
    assert rate_hz == 22_050
    assert audio.shape == (SEGMENT_SAMPLES // 2, 2)


def test_songs_of_unknown_style(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = make_run(tmp_path, known_styles=False)
    # As a user's own songs are: each is one track, and nothing but its title says more.
    own = [
        replace(t, song=t.track_id, title=f"Title of {t.track_id}")
        for t in read_catalogue(paths["catalogue_dir"])
    ]
    write_catalogue(paths["catalogue_dir"], own, [], locations=[uri_of(tmp_path / "data")])
    drawn: list[dict] = []
    plot = plots.plot_projection
    monkeypatch.setattr(plots, "plot_projection", lambda *a: drawn.append(a[2]) or plot(*a))
    metrics = run(paths)
    assert {*drawn[0]["song"]} == {t.title for t in own}, "titles in the legend, no hashes"
    assert "not known" in metrics["style_retrieval"]["absent"]
    assert "style_recall_at_1" not in metrics
    assert "song_recall_at_1" in metrics
    assert "absent" in metrics["probes"]["style"]
    assert "encoder" in metrics["probes"]["settings"]
    figures = {path.name for path in (paths["out_dir"] / "plots").iterdir()}
    assert not figures & {"confusion.png", "features.png"}
    assert "Not measured" in (paths["out_dir"] / "report.html").read_text()


def test_overlapping_segments_are_no_queries(tmp_path: Path, undrawn: None) -> None:
    metrics = run(make_run(tmp_path, overlap=True))
    assert "absent" in metrics["song_retrieval"]
    assert "song_recall_at_1" not in metrics
    assert metrics["style_recall_at_1"] == 1


def test_too_few_test_songs_say_so(tmp_path: Path) -> None:
    paths = make_run(tmp_path, split="train")
    metrics = run(paths)
    assert metrics["split_used"] == "all"
    assert "0 songs" in metrics["split_reason"]
    assert "flatter" in (paths["out_dir"] / "report.html").read_text()


def references(tracks: list[Track]) -> list[SegmentRef]:
    return [SegmentRef(Path("x"), i, t.track_id, 0, 0.0) for i, t in enumerate(tracks)]


def test_validation_songs_are_added_before_training_songs() -> None:
    tracks = [
        track(name, name, "", split)
        for name, split in (("a", "test"), ("b", "valid"), ("c", "valid"), ("d", "train"))
    ]
    chosen = select_tracks(tracks, references(tracks))
    assert chosen.split_used == "valid+test"
    assert [t.track_id for t in chosen.tracks] == ["a", "b", "c"]
    assert select_tracks(tracks[:2], references(tracks)).split_used == "all"


def test_nothing_to_evaluate() -> None:
    with pytest.raises(DataError, match="found none"):
        select_tracks([track("a", "a", "")], [])


def test_missing_features_are_named(tmp_path: Path) -> None:
    paths = make_run(tmp_path)
    write_features(
        paths["features_dir"] / "features.parquet",
        ["0dry"],
        [0],
        torch.zeros(1, len(FEATURE_NAMES)),
    )
    with pytest.raises(DataError, match="0dry"):
        run(paths)


def test_an_embedding_that_is_not_finite_is_named(tmp_path: Path) -> None:
    class Broken(StyleEncoder):
        def embed(self, stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
            return super().embed(stems_BSCT, sample_rate_hz) / 0 * 0

    with pytest.raises(DataError, match="track 0damp, segment 0"):
        run(make_run(tmp_path), Broken())


def test_history_is_checked(tmp_path: Path) -> None:
    assert read_history(None) == []
    assert read_history(tmp_path / "absent.json") == []
    write_json(tmp_path / "h.json", [{"loss": 1.0}])
    with pytest.raises(DataError, match="epoch"):
        read_history(tmp_path / "h.json")
    write_json(tmp_path / "h.json", {"epoch": 1})
    with pytest.raises(DataError, match="list"):
        read_history(tmp_path / "h.json")


def test_projection_keeps_the_plane_that_the_points_lie_in() -> None:
    generator = np.random.default_rng(1)
    flat = generator.normal(size=(9, 2)) * (3, 1)
    axes, _ = np.linalg.qr(generator.normal(size=(5, 2)))
    projected = plots.project(flat @ axes.T)
    wanted = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    found = np.linalg.norm(projected[:, None] - projected[None], axis=-1)
    np.testing.assert_allclose(found, wanted, atol=1e-9)
    assert plots.project(np.ones((1, 5))).tolist() == [[0, 0]]


def test_neighbours_stay_neighbours() -> None:
    generator = np.random.default_rng(2)
    centre_N5 = np.repeat(generator.normal(size=(3, 5)) * 10, 10, axis=0)
    points_N5 = centre_N5 + 0.1 * generator.normal(size=(30, 5))
    flat_N2 = plots.neighbourhoods(points_N5)
    distance_NN = np.linalg.norm(flat_N2[:, None] - flat_N2[None], axis=-1)
    np.fill_diagonal(distance_NN, np.inf)
    nearest_N = distance_NN.argmin(axis=1)
    assert (nearest_N // 10 == np.arange(30) // 10).all()
    np.testing.assert_array_equal(plots.neighbourhoods(points_N5), flat_N2)


def test_equal_points_can_be_drawn(tmp_path: Path) -> None:
    plots.plot_projection(tmp_path / "a.png", np.ones((20, 4)), {"song": ["_a$b"] * 20})
    # Axes and texts are grey; the points have colours.
    image_HWC = imread(tmp_path / "a.png")[..., :3]
    assert np.ptp(image_HWC, axis=-1).max() > 0.2


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plots.plot_training(tmp_path / name, [{"epoch": 1, "train.loss": 2.0}])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
