"""The step separate with a diffusion separator."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from components.separate.main import ALL_SHARDS, SeparateConfig, _recipe
from mixprint.collection.shards import done_path, list_shards, read_index, read_segment
from mixprint.config import load_params
from mixprint.errors import ConfigError
from mixprint.separation import export_separator, load_separator
from mixprint.separation.diffusion.checkpoint import export_diffusion
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import SamplingSettings
from tests.components.workplace import ingest, make_workplace, separate, shard_hashes
from tests.separation.diffusion.trials import WINDOW_S, denoiser, scnet

SEGMENT_S = 0.1


@pytest.fixture(scope="module")
def workplace(
    tmp_path_factory: pytest.TempPathFactory, write_song: Callable[..., Path]
) -> tuple[Path, Path]:
    """Songs, and the parameters of a separation by diffusion."""
    folder = tmp_path_factory.mktemp("workplace")
    songs, path = make_workplace(
        folder, write_song, num_songs=6, duration_s=0.25, num_shards=1, segment_s=SEGMENT_S
    )
    params = load_params(path)
    params["separate"] |= {"method": "diffusion", "window_s": 0.0}
    params["separate"]["checkpoint"] = str(write_checkpoint(folder / "weights"))
    params["separate"]["sampling"] |= {"steps": 3}
    path.write_text(yaml.safe_dump(params))
    return songs, path


def write_checkpoint(folder: Path, *, with_prior: bool = True) -> Path:
    prior = load_separator(export_separator(scnet(), folder, window_s=WINDOW_S, name="prior"))
    network = DiffusionSeparator(
        denoiser(),
        window_s=WINDOW_S,
        sampling=SamplingSettings(),
        prior=prior.network if with_prior else None,
    )
    return export_diffusion(network, folder)


@pytest.fixture(scope="module")
def separated(tmp_path_factory: pytest.TempPathFactory, workplace: tuple[Path, Path]) -> Path:
    root = tmp_path_factory.mktemp("separated")
    ingest(root, *workplace)
    separate(root, workplace[1], ALL_SHARDS)
    return root


@pytest.fixture
def root(tmp_path: Path, separated: Path) -> Path:
    return shutil.copytree(separated, tmp_path / "run")


def made_ns(root: Path) -> int:
    (path,) = list_shards(root / "stems")
    return done_path(path).stat().st_mtime_ns


def test_shards_hold_four_stems(root: Path) -> None:
    references = read_index(root / "stems")
    assert len({reference.track_id for reference in references}) == 6
    for reference in references:
        assert read_segment(reference).shape == (4, 2, round(SEGMENT_S * 44_100))


@pytest.mark.parametrize(
    "overrides",
    [
        ("sampling.seed=2",),
        ("sampling.steps=4",),
        ("sampling.spacing=1.0",),
        ("sampling.sampler=ddim",),
        ("sampling.sampler=ddim", "sampling.eta=0.5"),
        ("sampling.samples=2",),
        ("sampling.start=prior", "sampling.strength=0.9"),
        ("sampling.prior=true",),
    ],
)
def test_another_sampling_separates_again(
    root: Path, workplace: tuple[Path, Path], overrides: tuple[str, ...]
) -> None:
    before, hashes = made_ns(root), shard_hashes(root)
    separate(root, workplace[1], ALL_SHARDS)
    assert made_ns(root) == before
    separate(root, workplace[1], ALL_SHARDS, *(f"separate.{each}" for each in overrides))
    assert made_ns(root) > before
    assert shard_hashes(root) != hashes


def test_a_separation_by_scnet_does_not_look_at_the_sampling(
    tmp_path: Path, workplace: tuple[Path, Path]
) -> None:
    songs, params = workplace
    checkpoint = songs.parent / "separator.safetensors"
    by_scnet = ("separate.method=scnet", f"separate.checkpoint={checkpoint}")
    ingest(tmp_path, songs, params)
    separate(tmp_path, params, ALL_SHARDS, *by_scnet)
    before = made_ns(tmp_path)
    separate(tmp_path, params, ALL_SHARDS, *by_scnet, "separate.sampling.seed=5")
    assert made_ns(tmp_path) == before


def test_the_recipe_of_a_shard_names_what_it_did_before(workplace: tuple[Path, Path]) -> None:
    config = SeparateConfig.load(workplace[1])
    recipe = _recipe(config, load_separator(config.checkpoint), ["a song"])
    assert set(recipe) == {
        *("tracks", "segment_s", "window_s", "overlap", "precision", "export", "separator", "code")
    }


def test_without_a_prior_there_are_no_four_stems(
    tmp_path: Path, workplace: tuple[Path, Path]
) -> None:
    songs, params = workplace
    checkpoint = write_checkpoint(tmp_path / "weights", with_prior=False)
    ingest(tmp_path / "run", songs, params)
    with pytest.raises(ConfigError, match="four stems"):
        separate(tmp_path / "run", params, ALL_SHARDS, f"separate.checkpoint={checkpoint}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("separate.method=unmix", "method"),
        ("separate.compile=true", "compile"),
        ("separate.sampling.sampler=unipc", "sampler: expected one of"),
        ("separate.sampling.eta=0.5", "only ddim has a choice"),
        ("separate.sampling.strength=0.5", "start noise"),
    ],
)
def test_parameters_that_do_not_fit_are_named(
    workplace: tuple[Path, Path], override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SeparateConfig.load(workplace[1], overrides=[override])
