"""Training of a separator on songs with true stems: what all kinds of separators have in common.

Every random choice is derived from the seed, the step and the number of the example in the batch:
a training that is resumed goes on as an undisturbed one would have, and several processes learn
together what one would have learned.
"""

import copy
import logging
import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mixprint.checkpoints.form import CheckpointFiles
from mixprint.errors import CheckpointError, ConfigError
from mixprint.machine import xla
from mixprint.separation.material.pool import MadePool
from mixprint.separation.material.remix import Remixer
from mixprint.separation.material.sources import Material
from mixprint.separation.training.settings import SongTrainConfig
from mixprint.separation.training.validation import SongValidation, described, mean_score
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.training.muon import Muon, split_parameters
from mixprint.training.outputs import (
    BEST_FOLDER,
    FINAL_FOLDER,
    HISTORY_NAME,
    LOGS_FOLDER,
    known_identities,
)
from mixprint.training.pool import MakingAhead
from mixprint.training.ranks import of_first_rank, rank_and_world
from mixprint.training.task import Length, Plan, Task, Weights

log = logging.getLogger("mixprint.separation.training")

SONGS_FOLDER = "songs"
NETWORK = "network"  # the only part of these tasks

# stems_BSCT and gain_BSF of one rank.
Batch = tuple[Tensor, Tensor]
_Network = TypeVar("_Network", bound=nn.Module)


def last_name(name: str) -> str:
    """Name the weights of the last step, beside those of the best validation."""
    return f"{name}-last"


def model_files(name: str) -> tuple[str, ...]:
    """List the files of a finished training that are worth keeping.

    Args:
        name: of the weights of the best validation.
    """
    return (
        *map(str, CheckpointFiles.named(Path(), name)),
        *map(str, CheckpointFiles.named(Path(), last_name(name))),
        HISTORY_NAME,
    )


def all_outputs(name: str) -> tuple[str, ...]:
    """List what a training writes beside its states; see `model_files`."""
    return (*model_files(name), SONGS_FOLDER, BEST_FOLDER, FINAL_FOLDER, LOGS_FOLDER)


def identities_of_states(out_dir: Path, device: torch.device) -> list[dict[str, Any]]:
    """Return the identities of trainings in a folder, as the first rank finds them."""
    known = known_identities(out_dir) if rank_and_world()[0] == 0 else {}
    return of_first_rank([dict(each) for each in known.values()], device)


class SongTask(Task[Batch], Generic[_Network]):
    """A separator that learns from songs; a kind's own task is a subclass.

    Attributes:
        export_name: of the averaged weights of the best validation; see `last_name`.
        kept: what a resumption may not change of the parameters, beside the optimiser.
        validation: of the kind.
        scored: figures that validations are compared by, see `mean_score`.
    """

    export_name: ClassVar[str]
    kept: ClassVar[tuple[str, ...]]
    validation: ClassVar[type[SongValidation]]
    scored: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        config: SongTrainConfig,
        network: _Network,
        material: Material,
        extra_valid: Mapping[str, str | Path],
    ) -> None:
        """Prepare it; songs to validate on are found, or made, on the first rank.

        Args:
            config: parameters.
            network: on the device of this rank.
            material: songs.
            extra_valid: name -> folder of more songs to validate on.

        Raises:
            ConfigError: the batch cannot be divided among the ranks.
        """
        self._config, self._training = config, config.training
        self._network, self._material = network, material
        self.rank, self.world_size = rank_and_world()
        size, left = divmod(self._training.batch_size, self.world_size)
        if left:
            raise ConfigError(
                f"training.batch_size: expected a multiple of {self.world_size} processes, found "
                f"{self._training.batch_size}"
            )
        self._rows = range(self.rank * size, (self.rank + 1) * size)
        self._remixer = Remixer(
            material.pool,
            config.remix,
            num_samples=round(self._training.segment_s * SAMPLE_RATE_HZ),
            seed=self._training.seed,
            max_bad_fraction=self._training.max_bad_fraction,
        )
        self.parts = {NETWORK: network}
        self.averaged = {NETWORK: self._training.ema_decay}
        self.plan = Plan(
            length=Length(
                steps=max(self._training.max_steps, 0),
                minutes=self._training.max_minutes,
                patience=self._training.patience,
            ),
            valid_steps=self._training.valid_steps,
            seed=self._training.seed,
            max_grad_norm=self._training.max_grad_norm,
            save_steps=self._training.save_steps,
            log_steps=self._training.log_steps,
            num_workers=self._training.num_workers,
            precision=self._training.precision,
        )
        self._ahead: MakingAhead | None = None
        self._validation: SongValidation | None = None
        if self.rank == 0:
            self._validation = self.validation(material.held_out(), extra_valid, self._training)
        self._validated_step = 0

    @abstractmethod
    def _measured(self, network: nn.Module) -> Mapping[str, float]:
        """Measure the averaged network, where there is a validation."""

    @abstractmethod
    def _write(self, network: _Network, folder: Path, name: str, training: dict[str, Any]) -> None:
        """Export a network.

        Args:
            network: with the weights to write.
            folder: takes it.
            name: of the files.
            training: what is known of the training.
        """

    def identity(self) -> Mapping[str, Any]:
        """See `Task`; length, rates and songs may change between runs."""
        values = self._config.identity()
        kept = {name: values[name] for name in self.kept}
        return {**kept, "optimiser": self._training.optimiser}

    def optimizers(self) -> Mapping[str, Sequence[Optimizer]]:
        """See `Task`; Muon comes first where it takes part."""
        config = self._training
        matrices: list[dict[str, Any]] = []
        others = list(self._network.parameters())
        if config.optimiser == "muon":
            matrices, others = split_parameters(self._network)
        decay = config.weight_decay
        adamw = torch.optim.AdamW(
            self._rated(others),
            lr=1.0,
            betas=config.betas,
            weight_decay=decay,
            fused=not xla.is_xla(others[0].device),
        )
        muon = [Muon(matrices, lr=config.muon_factor, weight_decay=decay)] if matrices else []
        return {NETWORK: [*muon, adamw]}

    def _rated(self, parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """Group parameters by AdamW's rate for them, as a factor of all rates."""
        return [{"params": parameters}]

    def rate(self, part: str, step: int, done: float) -> float:
        """See `Task`: a linear rise, then half a cosine."""
        del part
        config = self._training
        rise = min((step + 1) / max(config.warmup_steps, 1), 1.0)
        fall = (1 + math.cos(math.pi * min(done, 1.0))) / 2
        rate = rise * (config.final_fraction + (1 - config.final_fraction) * fall)
        return rate * config.learning_rate

    def validate(self, step: int, parts: Mapping[str, nn.Module]) -> Mapping[str, float]:
        """See `Task`; the first rank does it."""
        self._validated_step = step
        if self._validation is None:
            return {}
        return self._measured(xla.on_host(parts[NETWORK]))

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...] | None:
        """See `Task`; of equal ones the later is better."""
        mean = mean_score(metrics, self.scored)
        return None if mean is None else (mean, float(self._validated_step))

    def basis(self) -> str:
        """See `Task`."""
        return "" if self._validation is None else self._validation.basis

    def describe(self, step: int, batch: Batch) -> Sequence[str]:
        """See `Task`."""
        del batch
        return [self._remixer.describe(step, row) for row in self._rows]

    def export(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        """See `Task`."""
        self._export(folder, self.export_name, weights, entry)

    def export_last(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        """See `Task`."""
        self._export(folder, last_name(self.export_name), weights, entry)

    def _export(
        self, folder: Path, name: str, weights: Weights, entry: Mapping[str, float]
    ) -> None:
        network = copy.deepcopy(xla.on_host(self._network))
        network.load_state_dict(weights[NETWORK])
        training = {
            "recipe": self._config.identity(),
            "steps": entry["step"],
            "minutes": entry["minutes"],
            "songs": self._material.num_songs,
            "data_fingerprint": self._material.fingerprint,
            "validation": described(entry),
        }
        self._write(network, folder, name, training)

    def _made_up_to(self, step: int) -> None:
        """Tell what makes songs ahead how far the training is."""
        if self._ahead is not None:
            self._ahead.reached(step)

    @contextmanager
    def running(self, step: int) -> Iterator[None]:
        """See `Task`; on each machine processes make songs ahead, where songs are made."""
        pool, number = self._material.pool, self._config.songs.num_generators
        if not isinstance(pool, MadePool) or not number or os.environ.get("LOCAL_RANK", "0") != "0":
            yield
            return
        with MakingAhead(pool, number, step) as self._ahead:
            yield

    def saved(self, oldest_step: int) -> None:
        """See `Task`."""
        if isinstance(self._material.pool, MadePool):
            self._material.pool.forget_before(oldest_step)

    def memory(self) -> Mapping[str, Any]:
        """See `Task`."""
        return {"data": self._material.fingerprint}

    def recall(self, memory: Mapping[str, Any]) -> None:
        """See `Task`."""
        if memory["data"] != self._material.fingerprint:
            log.warning(
                "the songs are others than before: it goes on, but not as an undisturbed "
                "training would have"
            )

    def replace(self, others: Mapping[Path, Mapping[str, Any]]) -> None:
        """See `Task`; a training of hours is never replaced.

        Raises:
            CheckpointError: there is another one.
        """
        for folder, known in others.items():
            for name, expected in self.identity().items():
                if known.get(name) != expected:
                    raise CheckpointError(
                        f"{folder}: expected a state of {name} {expected}, found {known.get(name)}"
                    )
