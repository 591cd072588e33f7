"""Training of an SCNet on songs with true stems.

Shape suffixes: B batch, S stem, C channel, T sample, F frequency row, N frame.
"""

import argparse
import ctypes
import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor, nn

from mixprint.atomic import atomic_path, write_json
from mixprint.device import resolve_device
from mixprint.errors import CheckpointError, ConfigError, MixprintError, TrainingError
from mixprint.fingerprint import fingerprint
from mixprint.log import setup_logging
from mixprint.separation.checkpoint import (
    export_separator,
    load_separator,
    load_weights,
    read_plain,
)
from mixprint.separation.metrics import evaluate_separator
from mixprint.separation.remix import (
    RemixConfig,
    Remixer,
    Song,
    find_songs,
    split_songs,
)
from mixprint.separation.scnet import SCNetConfig, build_scnet
from mixprint.separation.separator import Separator
from mixprint.stems import SAMPLE_RATE_HZ, STEMS

log = logging.getLogger("mixprint.separation.training")

STATE_FILE = "state.pt"
HISTORY_FILE = "history.json"
PRECISIONS = ("float32", "bfloat16")
# Keeps the gradient of a root finite where estimate and target are equal; -80 dB of full scale.
ERROR_FLOOR = 1e-8
SECONDS_PER_MINUTE = 60.0
Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How an SCNet is trained. The defaults are the recipe of the separator that mixprint ships.

    Attributes:
        segment_s: length of an example.
        batch_size: examples per step.
        learning_rate: at its highest.
        final_fraction: part of it that is left at the end of the cosine.
        warmup_steps: steps to the highest.
        weight_decay: of AdamW.
        betas: of AdamW.
        max_grad_norm: gradients are scaled down to this.
        ema_decay: of the averaged weights, which are those that are validated and exported.
        waveform_weight: weight of the L1 distance of waveforms, beside the spectral loss.
        precision: `float32`, or `bfloat16` for autocast.
        max_steps: length of the training; 0: `max_minutes` alone decides.
        max_minutes: length in minutes of work, over all resumed runs; 0: `max_steps` decides.
            Only with `max_steps` alone does a training give the same weights again.
        log_steps: steps between two lines of the log.
        save_steps: steps between two saved states.
        valid_steps: steps between two validations.
        num_valid: compositions that are held out.
        max_valid_songs: of their songs, so many are validated on.
        valid_s: the middle of each, so long.
        seed: of weights and examples.
    """

    segment_s: float = 4.0
    batch_size: int = 3
    learning_rate: float = 1.0e-3
    final_fraction: float = 0.02
    warmup_steps: int = 100
    weight_decay: float = 1.0e-3
    betas: tuple[float, float] = (0.9, 0.99)
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    waveform_weight: float = 0.0
    precision: str = "bfloat16"
    max_steps: int = 0
    max_minutes: float = 62.0
    log_steps: int = 50
    save_steps: int = 250
    valid_steps: int = 500
    num_valid: int = 6
    max_valid_songs: int = 8
    valid_s: float = 8.0
    seed: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"training.precision: expected {PRECISIONS}, found {self.precision}")
        if self.max_steps <= 0 and self.max_minutes <= 0:
            raise ConfigError("training: expected max_steps or max_minutes above 0, found neither")
        for name in ("segment_s", "batch_size", "learning_rate", "log_steps", "save_steps"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"training.{name}: expected a value above 0, found {getattr(self, name)}"
                )
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"training.ema_decay: expected 0 to 1, found {self.ema_decay}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole training: what is trained, on what, and how.

    Attributes:
        variant: of the SCNet.
        model: its architecture.
        remix: how examples are made.
        training: everything else.
    """

    variant: str = "masked"
    # Frames of half a window, not a quarter: half the work, and the shipped model is small.
    model: SCNetConfig = field(
        default_factory=lambda: SCNetConfig(dims=(4, 16, 32, 64), hop_size=2048, num_dplayer=4)
    )
    remix: RemixConfig = field(default_factory=RemixConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "Recipe":
        """Read a recipe; what is not named keeps its default.

        Raises:
            ConfigError: a section or a key is unknown, or a value does not fit.
        """
        default = cls()
        if unknown := sorted(values.keys() - {f.name for f in fields(cls)}):
            raise ConfigError(f"recipe: unknown sections {unknown}")
        model = {**default.model.to_values(), **values.get("model", {})}
        return cls(
            variant=values.get("variant", default.variant),
            model=SCNetConfig.from_values(model),
            remix=_section("remix", default.remix, values.get("remix", {})),
            training=_section("training", default.training, values.get("training", {})),
        )

    @classmethod
    def load(cls, path: Path) -> "Recipe":
        """Read a recipe from a YAML or JSON file."""
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: expected a readable recipe, found: {error}") from error
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: expected a mapping, found {type(values).__name__}")
        return cls.from_values(values)

    def to_values(self) -> dict[str, Any]:
        """Give the recipe back as plain values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


def _section(name: str, default: Section, values: Mapping[str, Any]) -> Section:
    """Lay values over a section's defaults, and check their types by them."""
    known: dict[str, Any] = dict(vars(default))
    if unknown := sorted(values.keys() - known.keys()):
        raise ConfigError(f"{name}: unknown keys {unknown}; known are {sorted(known)}")
    for key, value in values.items():
        expected = type(known[key])
        if expected is tuple and isinstance(value, list | tuple):
            known[key] = tuple(float(element) for element in value)
        elif expected is float and type(value) is int:
            known[key] = float(value)
        elif type(value) is expected:
            known[key] = value
        else:
            raise ConfigError(f"{name}.{key}: expected {expected.__name__}, found {value!r}")
    return type(default)(**known)


class _Clock:
    """Minutes of work, those of earlier runs included."""

    def __init__(self, spent_s: float) -> None:
        self._spent_s = spent_s
        self._start_s = time.monotonic()

    def elapsed_s(self) -> float:
        return self._spent_s + time.monotonic() - self._start_s


class _Run:
    """A training under way: all that changes from step to step."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(recipe.training.seed)
        config = recipe.training
        self.recipe = recipe
        self.device = device
        self.model = build_scnet(recipe.model, recipe.variant).to(device)
        self.average = build_scnet(recipe.model, recipe.variant).to(device).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self.clock = _Clock(0.0)

    def progress(self) -> float:
        """How much of the training is done, 0 to 1 and beyond."""
        config = self.recipe.training
        by_steps = self.step / config.max_steps if config.max_steps > 0 else 0.0
        limit_s = config.max_minutes * SECONDS_PER_MINUTE
        by_time = self.clock.elapsed_s() / limit_s if limit_s > 0 else 0.0
        return max(by_steps, by_time)

    def set_learning_rate(self) -> float:
        """Set the rate of the step to come: a linear rise, then half a cosine."""
        config = self.recipe.training
        rise = min((self.step + 1) / max(config.warmup_steps, 1), 1.0)
        fall = (1 + math.cos(math.pi * min(self.progress(), 1.0))) / 2
        rate = rise * (config.final_fraction + (1 - config.final_fraction) * fall)
        rate *= config.learning_rate
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def train_step(self, stems_BSCT: Tensor, gain_BSF: Tensor) -> float:
        """Learn from one batch.

        Args:
            stems_BSCT: true stems in the network's order.
            gain_BSF: gains for their spectra.

        Returns:
            the loss divided by that of an estimate of silence.

        Raises:
            TrainingError: the loss or the gradient is not finite.
        """
        config = self.recipe.training
        length = stems_BSCT.shape[-1]
        with torch.no_grad():
            target = self.model.analyse(stems_BSCT.to(self.device))
            target *= gain_BSF.to(self.device)[:, :, None, :, None]
            mixture = target.sum(dim=1)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"
        ):
            estimate = self.model.estimate(mixture)
        loss = spectral_rmse(estimate, target)
        if config.waveform_weight:
            difference_BSCT = self.model.synthesise(estimate - target, length)
            loss = loss + config.waveform_weight * difference_BSCT.abs().mean()
        with torch.no_grad():
            relative = loss / spectral_rmse(torch.zeros_like(target), target)
        if not math.isfinite(loss.item()):
            raise TrainingError(f"step {self.step}: expected a finite loss, found {loss.item()}")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.max_grad_norm).item()
        if not math.isfinite(norm):
            raise TrainingError(f"step {self.step}: expected a finite gradient, found norm {norm}")
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return relative.item()

    def _update_average(self) -> None:
        # Early on a long average would be an average with the random start.
        decay = min(self.recipe.training.ema_decay, 1 - 1 / (self.step / 10 + 1))
        averages: list[Tensor] = list(self.average.parameters())
        weights: list[Tensor] = list(self.model.parameters())
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything that the next run needs to go on."""
        state = {
            "recipe": json.dumps(self.recipe.to_values()),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed_s": self.clock.elapsed_s(),
            "history": json.dumps(self.history),
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            CheckpointError: it is unreadable, or of another model or other examples.
        """
        state = read_plain(path, self.device)
        try:
            recipe = json.loads(state["recipe"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: expected a training state, found: {error!r}") from error
        # The length may change between runs; what is learned, and from what, may not.
        for section in ("variant", "model", "remix"):
            expected = self.recipe.to_values()[section]
            if recipe[section] != expected:
                raise CheckpointError(
                    f"{path}: expected a state of {section} {expected}, found {recipe[section]}"
                )
        load_weights(self.model, state["model"], path)
        load_weights(self.average, state["average"], path)
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self.history = json.loads(state["history"])
        self.clock = _Clock(state["elapsed_s"])


def spectral_rmse(estimate: Tensor, target: Tensor) -> Tensor:
    """Measure the distance of complex spectra: the RMSE of each stem, then the mean.

    Args:
        estimate: estimate_BSCFN, complex.
        target: target_BSCFN, complex.

    Source: Tong et al., arXiv 2401.13276, training objective.
    """
    error = torch.view_as_real(estimate - target)
    power_BS = error.square().mean(dim=(2, 3, 4, 5))
    return (power_BS + ERROR_FLOOR).sqrt().mean()


def train_separator(
    data_dir: str | Path,
    out_dir: str | Path,
    recipe: Recipe | None = None,
    *,
    device: str = "auto",
    extra_valid: Mapping[str, str | Path] | None = None,
    initial: str | Path | None = None,
    initial_config: str | Path | None = None,
) -> Path:
    """Train an SCNet, or go on where a killed training left off.

    Args:
        data_dir: songs in MUSDB18-HQ's layout; a `settings.json` with `song` names the
            composition, of which a song may be one of several mixes.
        out_dir: receives `separator.safetensors` and `separator.json` (the averaged weights),
            the state to resume from, and the history of validations.
        recipe: the training; the one of the shipped separator when None.
        device: see `mixprint.device.resolve_device`.
        extra_valid: name -> folder of more songs to validate on, for example real recordings.
        initial: a checkpoint to start from, see `load_separator`; its shapes must be the
            recipe's. It is not read when a training is resumed.
        initial_config: the configuration that goes with `initial`.

    Returns:
        path of the exported weights.

    Raises:
        DataError: there are too few songs, or one is unreadable.
        TrainingError: a loss or gradient is not finite.
        CheckpointError: the state in `out_dir`, or `initial`, does not fit.
    """
    recipe = recipe or Recipe()
    config = recipe.training
    out_dir = Path(out_dir)
    songs = find_songs(Path(data_dir))
    train_songs, held_out = split_songs(songs, config.num_valid)
    valid = {"generated": held_out[: config.max_valid_songs]} if held_out else {}
    for name, folder in (extra_valid or {}).items():
        valid[name] = find_songs(Path(folder))
    num_samples = round(config.segment_s * SAMPLE_RATE_HZ)
    remixer = Remixer(train_songs, recipe.remix, num_samples=num_samples, seed=config.seed)

    run = _Run(recipe, resolve_device(device))
    state_path = out_dir / STATE_FILE
    if state_path.exists():
        run.load(state_path)
        log.info("goes on from step %d, %.1f min", run.step, run.clock.elapsed_s() / 60)
    elif initial is not None:
        state = load_separator(initial, initial_config).model.state_dict()
        load_weights(run.model, state, initial)
        load_weights(run.average, state, initial)
    log.info(
        "trains a %s SCNet of %d parameters on %d songs, holds out %d",
        recipe.variant,
        sum(p.numel() for p in run.model.parameters()),
        len(train_songs),
        len(held_out),
    )
    _train(run, remixer, valid, out_dir)
    run.save(state_path)
    if not run.history or run.history[-1]["step"] != run.step:
        _validate(run, valid, out_dir)
    return export_separator(
        run.average,
        out_dir,
        window_s=config.segment_s,
        training={
            "recipe": recipe.to_values(),
            "steps": run.step,
            "minutes": round(run.clock.elapsed_s() / SECONDS_PER_MINUTE, 2),
            "songs": len(train_songs),
            "data_fingerprint": _data_fingerprint(train_songs, Path(data_dir)),
            "validation": run.history[-1] if run.history else {},
        },
    )


def _train(run: _Run, remixer: Remixer, valid: Mapping[str, Sequence[Song]], out_dir: Path) -> None:
    """Take steps until the training is as long as it should be."""
    config = run.recipe.training
    order = [STEMS.index(stem) for stem in run.model.config.sources]
    losses: list[float] = []
    last_s = time.monotonic()
    while run.progress() < 1:
        rate = run.set_learning_rate()
        stems_BSCT = remixer.batch(run.step, config.batch_size)[:, order]
        gain_BSF = remixer.equalisers(run.step, config.batch_size, run.model.config.num_bins)
        losses.append(run.train_step(stems_BSCT, gain_BSF[:, order]))
        if run.step % config.log_steps == 0:
            now_s = time.monotonic()
            log.info(
                "step %d, %.1f min, %.0f %%: relative loss %.4f, rate %.1e, %.2f s/step",
                run.step,
                run.clock.elapsed_s() / SECONDS_PER_MINUTE,
                100 * run.progress(),
                sum(losses) / len(losses),
                rate,
                (now_s - last_s) / len(losses),
            )
            losses.clear()
            last_s = now_s
        if run.step % config.valid_steps == 0:
            _validate(run, valid, out_dir)
            losses.clear()
            last_s = time.monotonic()
        if run.step % config.save_steps == 0:
            run.save(out_dir / STATE_FILE)


def _validate(run: _Run, valid: Mapping[str, Sequence[Song]], out_dir: Path) -> None:
    """Measure the averaged weights on songs that were held out, and note the figures."""
    config = run.recipe.training
    separator = Separator(run.average, fingerprint={}, window_s=config.segment_s)
    entry: dict[str, Any] = {"step": run.step, "minutes": round(run.clock.elapsed_s() / 60, 2)}
    for name, songs in valid.items():
        folders = [song.path for song in songs]
        scores = evaluate_separator(separator, folders, max_duration_s=config.valid_s)
        entry[name] = {stem: round(value, 3) for stem, value in scores.items()}
        text = ", ".join(f"{stem} {value:.2f}" for stem, value in scores.items())
        log.info("step %d, SDR in dB on %d %s songs: %s", run.step, len(songs), name, text)
    run.history.append(entry)
    write_json(out_dir / HISTORY_FILE, run.history)


def _data_fingerprint(songs: Sequence[Song], root: Path) -> str:
    """Tell data sets apart by names and lengths: hashing hours of audio would take minutes."""
    return fingerprint([[str(s.path.relative_to(root)), s.num_samples] for s in songs])


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of returning it to the system.

    A step allocates and frees gigabytes in pieces so large that each would be mapped and zeroed
    anew, which costs a fifth of the step on the CPU. Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    m_trim_threshold, m_mmap_max, never = -1, -4, 2**31 - 1
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, never)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a training from the command line."""
    parser = argparse.ArgumentParser(description="Train a separator on songs with true stems.")
    parser.add_argument("--data", type=Path, required=True, help="songs in MUSDB18-HQ's layout")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and state")
    parser.add_argument("--config", type=Path, help="YAML recipe; laid over the default one")
    parser.add_argument("--minutes", type=float, help="overrides training.max_minutes")
    parser.add_argument("--steps", type=int, help="overrides training.max_steps")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--valid", action="append", default=[], metavar="NAME=DIR", help="more songs to validate on"
    )
    parser.add_argument("--initial", type=Path, help="checkpoint to start from")
    parser.add_argument("--initial-config", type=Path, help="its configuration")
    options = parser.parse_args(arguments)
    setup_logging()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    try:
        values = Recipe.load(options.config).to_values() if options.config else {}
        training = dict(values.get("training", {}))
        if options.minutes is not None:
            training["max_minutes"] = options.minutes
        if options.steps is not None:
            training["max_steps"] = options.steps
        extra = dict(text.partition("=")[::2] for text in options.valid)
        train_separator(
            options.data,
            options.out,
            Recipe.from_values({**values, "training": training}),
            device=options.device,
            extra_valid=extra,
            initial=options.initial,
            initial_config=options.initial_config,
        )
    except MixprintError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
