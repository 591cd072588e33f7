"""Tasks that take milliseconds: what the engine promises is tested on them first.

Shape suffixes: B example of this rank, G example of all ranks, D dimension.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from mixprint.checkpoints.torchfile import write_tensors
from mixprint.storage.atomic import write_json
from mixprint.training.loading import derive_seed, rank_rows
from mixprint.training.ranks import rank_and_world
from mixprint.training.schedules import warmed_up_rate
from mixprint.training.task import Length, Plan, Task, Weights
from mixprint.training.updates import Update

DIM, BATCH_SIZE = 3, 5
STEPS, STEPS_PER_EPOCH = 6, 3


def plan(**changes: Any) -> Plan:
    values = {
        "length": Length(steps=STEPS),
        "valid_steps": STEPS_PER_EPOCH,
        "seed": 1,
        "max_grad_norm": 1.0,
        "save_steps": 2,
        "log_steps": 1,
        "keep_checkpoints": 1,
    }
    return Plan(**(values | changes))


class Points(Dataset[Tensor]):
    """Points around (1, 2, 3), of this rank."""

    def __getitem__(self, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed("toy", step))
        point_GD = torch.randn(BATCH_SIZE, DIM, generator=generator)
        point_GD += torch.arange(1.0, 1 + DIM)
        return point_GD[rank_rows(BATCH_SIZE, *rank_and_world())]


class Toy(Task[Tensor]):
    """What toys have in common."""

    highest_rate = 0.1

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rank, self.world_size = rank_and_world()

    def identity(self) -> Mapping[str, Any]:
        return {"toy": self.name, "seed": self.plan.seed, "rate": self.highest_rate}

    def optimizers(self) -> Mapping[str, Sequence[Optimizer]]:
        return {n: [torch.optim.Adam(p.parameters(), lr=1.0)] for n, p in self.parts.items()}

    def rate(self, part: str, step: int, done: float) -> float:
        return warmed_up_rate(step, STEPS, highest=self.highest_rate, warmup_fraction=0.2)

    def examples(self) -> Dataset[Tensor]:
        return Points()

    def describe(self, step: int, batch: Tensor) -> Sequence[str]:
        rows = rank_rows(BATCH_SIZE, self.rank, self.world_size)
        return [f"track {row} segment {step}" for row in range(rows.start, rows.stop)]

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (-metrics["distance"],)

    def export(self, folder: Path, weights: Weights, entry: Mapping[str, float]) -> None:
        flat = {f"{p}.{n}": v for p, named in weights.items() for n, v in named.items()}
        write_tensors(folder / "weights.safetensors", flat)
        write_json(folder / "config.json", {"epoch": entry["epoch"]})


class AveragedToy(Toy):
    """A network with dropout that says what it hears; an average of it is kept."""

    name = "averaged"
    on_xla = True
    averaged: Mapping[str, float] = {"net": 0.9}
    dropout = 0.3

    def __init__(self, plan: Plan, device: torch.device) -> None:
        super().__init__(plan)
        torch.manual_seed(plan.seed)
        hidden = (nn.Tanh(), nn.Dropout(self.dropout))
        net = nn.Sequential(nn.Linear(DIM, 4), *hidden, nn.Linear(4, DIM))
        self.parts = {"net": net.to(device)}

    def learn(self, step: int, batch: Tensor, update: Update) -> Mapping[str, float]:
        with update.autocast():
            heard_BD = self.parts["net"](batch)
        loss_B = (heard_BD.float() - batch).square().mean(dim=1)
        update.inspect(loss_B)
        update.backward(loss_B.sum() / BATCH_SIZE)
        return {"loss": update.step("net")}

    def validate(self, step: int, parts: Mapping[str, nn.Module]) -> Mapping[str, float]:
        point_GD = torch.arange(1.0, 1 + DIM).expand(2, DIM)
        return {"distance": float((parts["net"](point_GD) - point_GD).abs().mean())}


class AdversarialToy(Toy):
    """A generator against a discriminator: two parts, several backward passes before a step."""

    name = "adversarial"

    def __init__(self, plan: Plan, device: torch.device) -> None:
        super().__init__(plan)
        torch.manual_seed(plan.seed)
        self.generator = nn.Linear(DIM, DIM).to(device)
        self.discriminator = nn.Sequential(nn.Linear(DIM, 4), nn.Tanh(), nn.Linear(4, 1))
        self.parts = {
            "generator": self.generator,
            "discriminator": self.discriminator.to(device),
        }

    def learn(self, step: int, batch: Tensor, update: Update) -> Mapping[str, float]:
        seed = derive_seed("noise", step)
        noise_GD = torch.randn(BATCH_SIZE, DIM, generator=torch.Generator().manual_seed(seed))
        noise_BD = noise_GD[rank_rows(BATCH_SIZE, self.rank, self.world_size)]
        # One example after the other: ranks call it as often as they have examples.
        for point_D, noise_D in zip(batch, noise_BD, strict=True):
            made_D = self.generator(noise_D).detach()
            margin = self.discriminator(made_D) - self.discriminator(point_D)
            update.backward(margin.exp().sum() / BATCH_SIZE, "discriminator")
        judged = update.step("discriminator")
        for noise_D in noise_BD:
            with update.autocast():
                judged_1 = self.discriminator(self.generator(noise_D))
            update.backward((-judged_1.float()).exp().sum() / BATCH_SIZE, "generator")
        return {"loss": update.step("generator"), "judged": judged}

    def validate(self, step: int, parts: Mapping[str, nn.Module]) -> Mapping[str, float]:
        made_D = parts["generator"](torch.zeros(DIM))
        return {"distance": math.dist(made_D.tolist(), (1.0, 2.0, 3.0))}


TOYS = {"averaged": AveragedToy, "adversarial": AdversarialToy}
