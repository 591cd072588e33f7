"""Training: what it leaves, what it starts from, and that every option does something."""

import errno
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mixprint.errors import CheckpointError, ConfigError, DataError, TrainingError
from mixprint.fingerprint import file_sha256
from mixprint.separation import (
    SCNetConfig,
    Separator,
    build_scnet,
    export_separator,
    load_separator,
)
from mixprint.separation.diffusion import training
from mixprint.separation.diffusion.backbones import Told
from mixprint.separation.diffusion.losses import Losses
from mixprint.separation.diffusion.model import Denoiser
from mixprint.separation.diffusion.separator import DiffusionSeparator
from mixprint.separation.diffusion.settings import SamplingSettings
from mixprint.separation.diffusion.training import (
    DiffusionTask,
    TrainingPrior,
    train_diffusion,
)
from mixprint.separation.diffusion.validation import Validation
from mixprint.separation.material.sources import songs_of_folder
from mixprint.separation.metrics import utterance_sdr
from mixprint.stems import STEMS
from tests.separation.diffusion.trials import music, shaken
from tests.separation.trials import TINY_DIFFUSION, diffusion_config, make_songs

BLOCKS = SCNetConfig.from_values(TINY_DIFFUSION["model"]["blocks"])
UNMOVING = {"max_steps": 1, "learning_rate": 1e-12, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_songs(tmp_path_factory.mktemp("data") / "songs", 3)


@pytest.fixture(scope="module")
def scnet_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    network = build_scnet(BLOCKS, "masked")
    shaken(network)
    return export_separator(network, tmp_path_factory.mktemp("scnet"), window_s=0.1)


def task(
    data_dir: Path, changes: Mapping[str, Any] | None = None, prior: TrainingPrior | None = None
) -> DiffusionTask:
    config = diffusion_config(changes)
    torch.manual_seed(0)
    network = Denoiser(config.architecture())
    return DiffusionTask(config, network, songs_of_folder(data_dir, config), {}, prior)


def train_tiny(data_dir: Path, out_dir: Path, **changes: Any) -> Path:
    return train_diffusion(data_dir, out_dir, diffusion_config(changes), device="cpu")


def loaded(path: Path) -> DiffusionSeparator:
    network = load_separator(path).network
    assert isinstance(network, DiffusionSeparator)
    return network


def test_outputs(tmp_path: Path, data_dir: Path) -> None:
    config = diffusion_config({"sampling": {"steps": 5, "seed": 3}})
    path = train_diffusion(data_dir, tmp_path, config, device="cpu", extra_valid={"more": data_dir})
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["step"] for entry in history] == [2, 4]
    figures = {
        f"{songs}.{figure}"
        for songs in ("held_out", "more")
        for figure in (
            *(f"one_step_sdr.{stem}" for stem in ("vocals", "instrumental")),
            *(f"few_steps_sdr.{stem}" for stem in ("vocals", "instrumental")),
            "no_vocal_leak_db.vocals",
            *(f"loss.t{percent}" for percent in (25, 50, 75, 100)),
        )
    }
    assert {n.removeprefix("valid.") for n in history[-1] if n.startswith("valid.")} == {
        *figures,
        "time_s",
    }
    network, complete = loaded(path), config.completed(config.architecture())
    assert network.denoiser.config == config.architecture()
    assert (network.sampling, network.window_s) == (config.sampling, 0.1)
    # Fitted to the songs: noise as loud in all rows of an STFT has equal scales, not those of 1.
    scales_F = network.denoiser.compression.scales_F
    assert 0.05 < scales_F.min() < scales_F.max() < 0.9

    def score(entry: Mapping[str, float]) -> float:
        names = ("one_step_sdr.vocals", "few_steps_sdr.vocals")
        return sum(entry[f"valid.held_out.{name}"] for name in names)

    for name, entry in (("diffusion", max(history, key=score)), ("diffusion-last", history[-1])):
        known = json.loads((tmp_path / f"{name}.json").read_text())["training"]
        assert known["steps"] == entry["step"]
        assert known["recipe"] == complete.identity()
        leak = known["validation"]["more"]["no_vocal_leak_db"]["vocals"]
        assert leak == round(entry["valid.more.no_vocal_leak_db.vocals"], 3)


OPTIONS: dict[str, dict[str, Any]] = {
    "conformer": {"model": {"backbone": "conformer"}},
    "unet": {"model": {"backbone": "unet"}},
    "blocks": {"model": {"blocks": {"dims": [4, 8, 12]}}},
    "conditioning": {"model": {"conditioning": 10}},
    "level": {"model": {"level_dbfs": -30.0}},
    "power": {"model": {"power": 0.7}},
    # Fresh bands do not look at what is noisy yet.
    "schedule": {"model": {"backbone": "conformer", "schedule": "linear"}},
    "timesteps": {"model": {"backbone": "conformer", "timesteps": 7}},
    "head": {"model": {"head": "free"}},
    "target": {"model": {"head": "free", "target": "v"}},
    "segment": {"training": {"segment_s": 0.12}},
    "batch": {"training": {"batch_size": 3}},
    "level range": {"training": {"level_range_db": 0.0}},
    "no vocals": {"training": {"no_vocal_fraction": 1.0, "vocal_only_fraction": 0.0}},
    "vocals only": {"training": {"no_vocal_fraction": 0.0, "vocal_only_fraction": 1.0}},
    "noise only": {"training": {"noise_only_fraction": 0.9}},
    "vocal weight": {"training": {"vocal_weight": 0.0}},
    "variance weight": {"training": {"variance_weight": 1.0}},
    "presence weight": {"training": {"presence_weight": 1.0}},
    "linear weight": {"training": {"noise_only_fraction": 0.9, "linear_weight": 0.0}},
    "precision": {"training": {"precision": "bfloat16"}},
    "seed": {"training": {"seed": 9}},
}


def first_loss(data_dir: Path, folder: Path, changes: Mapping[str, Any]) -> float:
    values = {**changes, "training": {**UNMOVING, "num_valid": 0, **changes.get("training", {})}}
    told: dict[str, float] = {}
    train_diffusion(
        data_dir,
        folder,
        diffusion_config(values),
        device="cpu",
        on_metrics=lambda _, metrics: told.update(metrics),
    )
    return told["train.loss"]


@pytest.fixture(scope="module")
def losses(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("losses")
    options = {"none": {}, **OPTIONS}
    return {name: first_loss(data_dir, folder / name, each) for name, each in options.items()}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_the_loss(losses: dict[str, float], name: str) -> None:
    same = [n for n in ("none", *OPTIONS) if n != name and losses[n] == losses[name]]
    assert same == []


OPTIMISER_OPTIONS: dict[str, dict[str, Any]] = {
    "muon": {"optimiser": "muon"},
    "muon factor": {"optimiser": "muon", "muon_factor": 9.0},
    "rate": {"learning_rate": 0.01},
    "rate of what is new": {"new_factor": 50.0},
    "what is learned": {"learned": "presence"},
    "last rate": {"final_fraction": 0.9},
    "warm-up": {"warmup_steps": 1},
    "decay": {"weight_decay": 9.0},
    "betas": {"betas": [0.5, 0.9]},
    "gradient": {"max_grad_norm": 1e-9},
    "average": {"ema_decay": 0.05},
}


@pytest.fixture(scope="module")
def learned(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder, short = tmp_path_factory.mktemp("learned"), {"max_steps": 2, "num_valid": 0}
    options = {"none": {}, **OPTIMISER_OPTIONS}
    return {
        name: file_sha256(train_tiny(data_dir, folder / name, training={**short, **each}))
        for name, each in options.items()
    }


@pytest.mark.parametrize("name", OPTIMISER_OPTIONS)
def test_options_of_the_optimiser_change_what_is_learned(
    learned: dict[str, str], name: str
) -> None:
    same = [n for n in learned if n != name and learned[n] == learned[name]]
    assert same == []


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_the_head_of_presence_can_learn_alone(
    data_dir: Path, tmp_path: Path, optimiser: str
) -> None:
    alone = {"learned": "presence", "ema_decay": 0.05, "optimiser": optimiser, "num_valid": 0}
    first, last = (
        load_file(train_tiny(data_dir, tmp_path / str(n), training={**alone, "max_steps": n}))
        for n in (1, 4)
    )
    moved = {name for name, weight in first.items() if not weight.equal(last[name])}
    assert moved
    assert all(name.startswith("presence.") for name in moved), moved


def test_a_free_head_has_no_presence_to_learn() -> None:
    with pytest.raises(ConfigError, match="learned: expected all with the head free"):
        diffusion_config({"model": {"head": "free"}, "training": {"learned": "presence"}})


@pytest.mark.parametrize(
    ("changes", "changes_few", "changes_one"),
    [
        ({"sampling": {"sampler": "ddpm"}}, True, False),
        ({"sampling": {"sampler": "ddim", "eta": 0.5}}, True, False),
        ({"sampling": {"seed": 4}}, True, True),
        ({"sampling": {"start": "mixture", "strength": 0.6}}, True, False),
        ({"training": {"valid_sampling_steps": 3}}, True, False),
        ({"training": {"valid_s": 0.2}}, True, True),
    ],
    ids=str,
)
def test_a_validation_samples_as_the_separator_will(
    data_dir: Path, changes: dict[str, Any], changes_few: bool, changes_one: bool
) -> None:
    def figures(changes: dict[str, Any]) -> dict[str, float]:
        own = task(data_dir, changes)
        shaken(own.parts["network"])
        return dict(own.validate(1, own.parts))

    plain, changed = figures({}), figures(changes)
    assert figures({}) == plain, "its noise is always the same"
    for name, is_other in (("few_steps", changes_few), ("one_step", changes_one)):
        figure = f"held_out.{name}_sdr.vocals"
        assert (plain[figure] != changed[figure]) == is_other


def test_a_validation_measures_what_it_says(data_dir: Path) -> None:
    own = task(data_dir)
    network = own.parts["network"]
    assert isinstance(network, Denoiser)

    num_features = network.backbone.num_features

    # Vocals are a quarter of whatever it is shown, and it is sure of them.
    class Quarter(torch.nn.Module):
        takes_compressed = False

        def forward(self, z: torch.Tensor, *_: torch.Tensor) -> Told:
            out_D = torch.tensor([*[math.atanh(0.25), 0.0] * 2, -10.0, -10.0])
            out_BDFN = out_D.view(1, -1, 1, 1).expand(len(z), -1, *z.shape[2:])
            return Told(out_BDFN, torch.zeros(len(z), num_features, 1, z.shape[-1]))

    network.backbone = Quarter()
    found = own.validate(1, own.parts)
    # Stems are noise at levels 1 : 2 : 3 : 4; the mixture has the power 30, the instrumental 29.
    error = torch.tensor((1 - 0.25) ** 2 + 0.25**2 * 29)
    for name in ("one_step", "few_steps"):
        assert found[f"held_out.{name}_sdr.vocals"] == pytest.approx(
            -10 * error.log10().item(), abs=0.2
        )
        assert found[f"held_out.{name}_sdr.instrumental"] == pytest.approx(
            10 * (29 / error).log10().item(), abs=0.2
        )
    assert found["held_out.no_vocal_leak_db.vocals"] == pytest.approx(-12.04, abs=0.02)
    assert own.score(found) == (
        pytest.approx(found["held_out.one_step_sdr.vocals"], abs=0.01),
        1.0,
    )


def test_it_learns(tmp_path: Path, data_dir: Path) -> None:
    quiet = dict.fromkeys(
        ("remix_probability", "equaliser_probability", "dropout_probability", "gain_range_db"), 0.0
    )
    rates = {"learning_rate": 0.01, "ema_decay": 0.5}
    often = {"max_steps": 40, "valid_steps": 40, "save_steps": 40, "log_steps": 40}
    train_tiny(data_dir, tmp_path, remix=quiet, training={**rates, **often})
    entry = json.loads((tmp_path / "history.json").read_text())[-1]
    # Wiener: of vocals with a power of 1 in 30 the mean is all but nothing, which leaves 0.1 dB;
    # the fresh network's masks are at -1.6 dB.
    assert entry["valid.held_out.one_step_sdr.vocals"] > -0.3


def test_it_can_start_from_an_scnet(tmp_path: Path, data_dir: Path, scnet_path: Path) -> None:
    path = train_tiny(
        data_dir,
        tmp_path,
        initial=str(scnet_path),
        model={**TINY_DIFFUSION["model"], "blocks": None},
        training=UNMOVING,
    )
    network = loaded(path)
    assert network.denoiser.config.blocks == BLOCKS
    audio_CT = music(4410)
    # From noise alone, in one step.
    one_step = Separator(network.configured(sampling=SamplingSettings(steps=1)))
    vocals_CT = one_step.separate(audio_CT)[0]
    expected_CT = load_separator(scnet_path).separate(audio_CT)[STEMS.index("vocals")]
    # Windows of the two lie differently on their frames, and weights are rounded to float16.
    assert utterance_sdr(vocals_CT, expected_CT) > 20
    # A resumption takes the blocks from its state, and the scales too.
    scales_F = network.denoiser.compression.scales_F
    more = {**UNMOVING, "max_steps": 2}
    model = {**TINY_DIFFUSION["model"], "blocks": None}
    path = train_tiny(data_dir, tmp_path, model=model, training=more)
    assert torch.equal(loaded(path).denoiser.compression.scales_F, scales_F)


def test_it_can_start_from_a_diffusion_separator(tmp_path: Path, data_dir: Path) -> None:
    first = train_tiny(data_dir, tmp_path / "first", training={"max_steps": 1})
    other = make_songs(tmp_path / "louder", 3, duration_s=0.4)
    second = train_tiny(other, tmp_path / "second", initial=str(first), training=UNMOVING)
    before, after = (loaded(path).denoiser.state_dict() for path in (first, second))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-3)
    assert torch.equal(before["compression.scales_F"], after["compression.scales_F"])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"blocks": {"dims": [4, 8, 12]}},
            r"expected blocks as in .*separator\.s.*8, 8",
        ),
        ({"backbone": "unet"}, "expected the backbone bands with the head mask"),
        ({"head": "free"}, "expected the backbone bands with the head mask"),
    ],
)
def test_parameters_that_do_not_fit_what_it_starts_from_are_refused(
    tmp_path: Path, data_dir: Path, scnet_path: Path, model: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_tiny(data_dir, tmp_path, initial=str(scnet_path), model=model)


def test_another_schedule_than_that_of_its_start_is_refused(tmp_path: Path, data_dir: Path) -> None:
    first = train_tiny(data_dir, tmp_path / "first", training={"max_steps": 1, "num_valid": 0})
    with pytest.raises(ConfigError, match=r"expected power, schedule as in .*cosine.*linear"):
        train_tiny(
            data_dir,
            tmp_path / "second",
            initial=str(first),
            model={"schedule": "linear", "power": 0.6},
        )


def test_a_state_of_another_model_is_refused(tmp_path: Path, data_dir: Path) -> None:
    short = {"max_steps": 1, "num_valid": 0}
    train_tiny(data_dir, tmp_path, training=short)
    with pytest.raises(CheckpointError, match=r"expected a state of model .*unet"):
        train_tiny(data_dir, tmp_path, training=short, model={"backbone": "unet"})


def test_the_prior_goes_with_the_weights(tmp_path: Path, data_dir: Path, scnet_path: Path) -> None:
    path = train_tiny(
        data_dir,
        tmp_path,
        prior=str(scnet_path),
        sampling={"prior": True},
        training={"max_steps": 2, "prior_dropout": 0.0},
    )
    for folder in (tmp_path, tmp_path / "best_model"):
        assert file_sha256(folder / "prior.safetensors") == file_sha256(scnet_path)
    network = loaded(path)
    assert network.prior is not None
    audio_CT = music(4410)
    paths = (path, tmp_path / "best_model" / path.name)
    estimates = [load_separator(each).separate(audio_CT) for each in paths]
    assert torch.equal(*estimates)
    with pytest.raises(CheckpointError, match=r"a state of prior None, found [0-9a-f]{64}"):
        train_tiny(data_dir, tmp_path, training={"max_steps": 3})


def test_no_half_of_a_prior_is_left(
    tmp_path: Path, scnet_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, copied: Path) -> None:
        copied.write_bytes(source.read_bytes()[:100])
        raise OSError(errno.ENOSPC, "no room")

    prior = TrainingPrior.load(str(scnet_path), torch.device("cpu"))
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(DataError, match=r"prior\.safetensors: expected room"):
        prior.copy_to(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_prior_is_shown_with_louder_errors(data_dir: Path, scnet_path: Path) -> None:
    prior = TrainingPrior.load(str(scnet_path), torch.device("cpu"))

    def shown(**values: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        own = task(data_dir, {"training": {"batch_size": 8, **values}}, prior)
        spectra_BSCFN = own._analysed(own.examples()[0])
        mixture_BCFN = spectra_BSCFN.sum(dim=1)
        instrumental_BCFN = mixture_BCFN - spectra_BSCFN[:, 0]
        update = torch.nn.Module()
        update.autocast = lambda: torch.autocast("cpu", enabled=False)
        found = own._shown_prior(0, mixture_BCFN, instrumental_BCFN, update)  # type: ignore[arg-type]
        assert found is not None
        vocals = prior.network.stems.index("vocals")
        with torch.no_grad():
            stems_BSCFN = prior.network.model.estimate(mixture_BCFN)
        error_BCFN = mixture_BCFN - stems_BSCFN[:, vocals] - instrumental_BCFN
        return found.instrumental_BCFN - instrumental_BCFN, error_BCFN, found.is_given_B

    found, error, is_given_B = shown(prior_dropout=0.0, prior_error_db=0.0)
    assert is_given_B.all()
    torch.testing.assert_close(found, error, rtol=0, atol=1e-5)
    found, error, is_given_B = shown(prior_dropout=0.5, prior_error_db=6.0)
    assert is_given_B.sum() == 4
    ratio_B = (found.abs().square().sum(dim=(1, 2, 3)) / error.abs().square().sum(dim=(1, 2, 3)))[
        is_given_B
    ]
    ratio_db_B = 10 * ratio_B.log10()
    assert ((ratio_db_B > 0) & (ratio_db_B < 6)).all()
    assert ratio_db_B.max() - ratio_db_B.min() > 1


def test_what_cannot_be_a_prior_is_refused(
    tmp_path: Path, data_dir: Path, scnet_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"expected a checkpoint of mixprint's own .*x\.ckpt"):
        train_tiny(data_dir, tmp_path / "a", prior="x.ckpt")
    with pytest.raises(ConfigError, match=r"with the STFT .*\(256, 128, 256, True\), found"):
        train_tiny(data_dir, tmp_path / "b", prior="default")
    first = train_tiny(data_dir, tmp_path / "c", training={"max_steps": 1, "num_valid": 0})
    with pytest.raises(ConfigError, match="expected an SCNet, found another kind"):
        train_tiny(data_dir, tmp_path / "d", prior=str(first))
    with pytest.raises(ConfigError, match="expected a separator with a prior"):
        train_tiny(data_dir, tmp_path / "e", sampling={"prior": True})


def test_a_few_steps_must_be_among_the_timesteps(tmp_path: Path, data_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"sampling\.steps: expected at most 4"):
        train_tiny(data_dir, tmp_path, model={"timesteps": 4}, training={"valid_sampling_steps": 5})


def test_a_loss_that_is_not_finite_stops_it(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = training.denoising_losses

    def broken(*arguments: Any, **options: Any) -> Losses:
        losses = original(*arguments, **options)
        return losses._replace(total_B=losses.total_B * torch.tensor([1.0, torch.nan]))

    monkeypatch.setattr(training, "denoising_losses", broken)
    with pytest.raises(
        TrainingError, match=r"step 0: .*, found nan; example 1 \(\S+/song\d from [^)]*\)$"
    ):
        train_tiny(data_dir, tmp_path, training={"num_valid": 0})
    assert not list(tmp_path.rglob("*.pt"))


def test_songs_of_silence_are_refused(tmp_path: Path) -> None:
    import soundfile as sf

    songs = make_songs(tmp_path / "songs", 2)
    for path in songs.glob("*/*.wav"):
        sf.write(path, torch.zeros(22_050, 2).numpy(), 44_100)
    with pytest.raises(DataError, match="first 16 examples: expected spectra that are not silent"):
        train_tiny(songs, tmp_path / "out", training={"num_valid": 0})


def test_the_running_mean_is_shown(
    tmp_path: Path, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "mixprint.separation"):
        train_tiny(data_dir, tmp_path, training={"max_steps": 2})
    entry = json.loads((tmp_path / "history.json").read_text())[-1]
    (told,) = (text for text in caplog.messages if text.startswith("validated 1/1 songs, "))
    assert told.endswith(f", SDR {entry['valid.held_out.one_step_sdr.vocals']:.2f} dB")


def test_only_the_wanted_number_of_songs_is_validated_on(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    original = Validation.measured

    def measured(self: Validation, measure: Any, summary: Any, note: Any) -> dict[str, float]:
        return original(self, lambda song: seen.append(1) or measure(song), summary, note)

    monkeypatch.setattr(Validation, "measured", measured)
    own = task(data_dir, {"training": {"num_valid": 2, "max_valid_songs": 1}})
    own.validate(1, own.parts)
    assert len(seen) == 1
