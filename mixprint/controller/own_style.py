"""The style of one engineer: a controller that learns from pairs of raw tracks and mixes.

First the settings of each pair are found (`mixprint.controller.fits`). A prior over settings is
moved towards them, the further the more pairs there are, and a controller is trained on the pairs
(`mixprint.controller.adaptation`).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import torch

from mixprint.config import load_params
from mixprint.console.pairs import Unpaired, find_pairs
from mixprint.controller.adaptation import STRENGTHS, adapt_controller
from mixprint.controller.checkpoint import Controller
from mixprint.controller.fits import Fit, fit_pairs, read_fit
from mixprint.controller.fitted import FittedExamples, PairExampleConfig
from mixprint.controller.outputs import FITS_FOLDER, OUTPUTS, PAIRS_NAME
from mixprint.controller.settings import NetworkShape, TrainParameters
from mixprint.controller.training import TrainingSetup
from mixprint.encoder.checkpoint import Encoder
from mixprint.errors import ConfigError, DataError
from mixprint.schema import Above, Range, read_record
from mixprint.storage.atomic import write_json
from mixprint.text import first_of, shown
from mixprint.training.engine import Outcome
from mixprint.training.loading import derive_seed
from mixprint.training.outputs import check_own_folder
from mixprint.training.recorder import MetricsCallback

log = logging.getLogger("mixprint.controller")

PARAMETERS = Path(__file__).with_name("own_style.yaml")


def own_style_params(
    layers: Iterable[Path] = (), overrides: Iterable[str] = ()
) -> dict[str, dict[str, Any]]:
    """Read the file of the parameters, with others and single values laid over it.

    Raises:
        ConfigError: a file or a value does not fit.
    """
    section = OwnStyleConfig.section
    return load_params(PARAMETERS, overrides=overrides, layers=layers, section=section)


@dataclass(frozen=True, kw_only=True)
class OwnStyleConfig(TrainParameters):
    """Parameters of the training from pairs, as in `own_style.yaml` beside this module.

    Attributes:
        fit_steps: of the search for the settings of a pair.
        max_distance: of the console's mix to the true one; pairs beyond that are left out.
        valid_share: part of the pairs that is held out; at least one, where there are two, and at
            most `num_valid`.
        prior_strength: pairs that the prior of the controller to start from counts as; where there
            is none, neutral settings.
        scratch_pairs: from so many pairs on a network from scratch is trained; with fewer it would
            learn them by heart, and stays the prior alone.
        pairs: how examples are drawn from them.
    """

    section: ClassVar[str] = "own_style"
    fit_steps: Annotated[int, Range(0)]
    max_distance: Annotated[float, Above(0.0)]
    valid_share: Annotated[float, Range(0.0, 0.9)]
    prior_strength: Annotated[float, Above(0.0)]
    scratch_pairs: Annotated[int, Range(1)]
    pairs: PairExampleConfig

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            ConfigError: values do not fit together.
        """
        super().__post_init__()
        self.check_length("pairs.excerpt_s", self.pairs.excerpt_s)

    @classmethod
    def layered(
        cls, layers: Iterable[Path] = (), overrides: Iterable[str] = ()
    ) -> "OwnStyleConfig":
        """Read the parameters, and lay files and single values over them; see `load_params`.

        Raises:
            ConfigError: a file or a value does not fit.
        """
        return cls.of_params(own_style_params(layers, overrides), PARAMETERS)

    def shaped_as(self, initial: Controller | None) -> Self:
        """Return them with the network's shape of a controller to start from."""
        if initial is None:
            return self
        known = initial.network.config
        return replace(self, **{f.name: getattr(known, f.name) for f in fields(NetworkShape)})


@dataclass(frozen=True)
class _Used:
    """Pair whose settings were found: its folder, and how near the console comes."""

    folder: str
    distance: float


@dataclass(frozen=True)
class _LeftOut:
    """Pair, or file without its other half, that is not learned from."""

    path: str
    reason: str


@dataclass(frozen=True)
class _Pairs:
    """Content of `pairs.json`: what became of each pair."""

    used: Mapping[str, _Used]
    left_out: tuple[_LeftOut, ...]


def fit_folders(
    raw: Path, mixed: Path, out_dir: Path, config: OwnStyleConfig
) -> tuple[list[Fit], list[Unpaired]]:
    """Pair what lies in two folders by name, and find the settings of each pair.

    Each is kept in `out_dir` as soon as it is found, and `pairs.json` there lists in the end what
    became of each.

    Args:
        raw: tracks, or folders of them.
        mixed: mixes of these names, or folders of the tracks as they sound in the mix.
        out_dir: folder of the training.
        config: the parameters.

    Returns:
        the fits, and what cannot be used, each with its reason.

    Raises:
        DataError: a folder is missing, nothing can be used, or `out_dir` cannot be written or holds
            somebody's files.
        ConfigError: `out_dir` lies in one of the folders, and would be taken for a part of them.
    """
    check_own_folder(out_dir, OUTPUTS)
    for folder in (raw, mixed):
        if folder.resolve() in (out_dir.resolve(), *out_dir.resolve().parents):
            raise ConfigError(
                f"{shown(out_dir)}: expected a folder apart from the pairs, found one in "
                f"{shown(folder)}"
            )
    pairs, refused = find_pairs(raw, mixed)
    fits, bad = fit_pairs(
        pairs,
        out_dir / FITS_FOLDER,
        num_steps=config.fit_steps,
        least_s=config.least_s,
        max_distance=config.max_distance,
    )
    refused += bad
    became = _Pairs(
        {fit.name: _Used(fit.path.parent.name, fit.distance) for fit in fits},
        tuple(_LeftOut(shown(each.path), each.reason) for each in refused),
    )
    write_json(out_dir / PAIRS_NAME, asdict(became))
    if not fits:
        found = first_of([f"{each.path}: {each.reason}" for each in became.left_out])
        raise DataError(f"pairs: expected one at least that can be used, found {found or 'none'}")
    return fits, refused


def read_fits(out_dir: Path) -> list[Fit]:
    """Read the fits that `fit_folders` has left in the folder of a training.

    Raises:
        DataError: one is missing or broken.
    """
    known = read_record(out_dir / PAIRS_NAME, _Pairs)
    return [read_fit(out_dir / FITS_FOLDER / each.folder) for each in known.used.values()]


def held_out(fits: Sequence[Fit], config: OwnStyleConfig) -> tuple[list[Fit], list[Fit]]:
    """Part the pairs into those that are learned from and those that are held out.

    A single pair is both. The choice follows from the names, so that it changes little when there
    are more pairs.
    """
    order = sorted(fits, key=lambda fit: derive_seed(config.seed, "held out", fit.name))
    wanted = max(round(config.valid_share * len(fits)), 1)
    number = min(wanted, config.num_valid, len(fits) - 1)
    kept = {fit.name for fit in order[:number]}
    train = [fit for fit in fits if fit.name not in kept]
    return train, [fit for fit in fits if fit.name in kept] or train


def learn_style(
    fits: Sequence[Fit],
    config: OwnStyleConfig,
    out_dir: Path,
    *,
    initial: Controller | None,
    encoder: Encoder | None,
    device: torch.device | str,
    on_metrics: MetricsCallback | None = None,
) -> Outcome:
    """Train a controller on fitted pairs, and write it; see `adapt_controller`.

    Args:
        fits: of the pairs, one at least.
        config: the parameters.
        out_dir: receives the controller, and the state of its training.
        initial: controller to start from; None: a small one, which begins with the prior.
        encoder: whose embeddings it reads; None: it reads none.
        device: `cpu` or `cuda`.
        on_metrics: see the engine.

    Returns:
        the best figures on the pairs that are held out: `valid.distance`, and what it is compared
        with, `valid.mean_style_distance` of the mean of the engineer's settings, and those that
        `adapt_controller` adds.

    Raises:
        ConfigError, TrainingError, CheckpointError: see `adapt_controller`.
    """
    config = config.shaped_as(initial)
    train, valid = held_out(fits, config)
    log.info("learning from %d pairs, of which %d are held out", len(fits), len(valid))
    strengths: Sequence[float] = STRENGTHS
    if initial is None and len(fits) < config.scratch_pairs:
        log.warning(
            "%d pairs are too few to train a network from scratch (%d): it sets each role as the "
            "engineer does on the whole, and follows no reference",
            len(fits),
            config.scratch_pairs,
        )
        # The engine takes one step, which is undone.
        config = replace(config, phases=(replace(config.phases[0], num_steps=1),))
        strengths = (0.0,)
    dropout = config.reference_dropout
    sources = [
        # The training itself leaves out references, anew for each step.
        FittedExamples(train, train, config.pairs, reference_dropout=0.0, seed=config.seed),
        FittedExamples(
            valid,
            fits,
            replace(config.pairs, track_dropout=0.0),
            reference_dropout=dropout,
            seed=config.seed + 1,
        ),
    ]
    setup = TrainingSetup(
        config=config,
        train=sources[0],
        valid=sources[1],
        encoder=encoder,
        out_dir=out_dir,
        initial=initial,
    )
    return adapt_controller(
        setup,
        # A pair is drawn more than once, and tells no more by that.
        prior_strength=config.prior_strength * config.num_examples / len(train),
        strengths=strengths,
        device=device,
        on_metrics=on_metrics,
    )


def told(best: Mapping[str, float]) -> list[str]:
    """Say in words how near the controller comes on pairs that are held out."""
    lines = ["mean distance to the mixes of the pairs that were held out:"]
    for name, what in (
        ("valid.distance", "this controller"),
        ("valid.no_reference_distance", "this controller, never with a reference"),
        ("initial_distance", "the controller that it started from"),
        ("valid.mean_style_distance", "the mean of the engineer's settings"),
        ("valid.equal_level_distance", "tracks at equal level"),
    ):
        if name in best:
            lines.append(f"  {best[name]:.3f}  {what}")
    return lines
