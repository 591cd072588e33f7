"""Heads of a controller: from the token of a strip to its settings.

`SettingsHead` gives a mean and a spread of every setting and a gate for each group at once.
`ChainHead` writes a chain of processors, one after another with its parameters, until it ends: each
knows what was written before. A console has one of each processor, so none is written twice; what
is not written is neutral.

Shape suffixes: N strip, d width, K field, G gate, P processor, L place in a chain.

Source of the chain: predicting effects as a sequence, as StemFX does; here by a recurrent network
and with Gaussian parameters.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mixprint.controller.targets import Layout

# Surer than 0.5 % of a range, or less sure than all of it, no head can be.
_LEAST_LOG_SIGMA, _MOST_LOG_SIGMA = math.log(0.005), 0.0
_MIDDLE_LOG_SIGMA = (_MOST_LOG_SIGMA + _LEAST_LOG_SIGMA) / 2
_HALF_LOG_SIGMA = (_MOST_LOG_SIGMA - _LEAST_LOG_SIGMA) / 2
_FIRST_LOG_SIGMA = math.log(0.15)
_MOST_PART = 0.99  # of the way to these bounds, where a head is settled
# Of a chain, where a processor is written or not.
_WRITTEN_LOGIT = 6.0
_NOT_NEUTRAL = 1e-6
_LOG_SIGMA_OF_NEUTRAL = math.log(0.05)
_TABLE_RANGE, _OUT_RANGE = 0.5, 0.02


class StripPrediction(NamedTuple):
    """Predicted settings of some strips.

    Attributes:
        position_NK: means, in parts of the range.
        log_sigma_NK: natural logarithm of the spread, likewise.
        gate_logit_NG: above 0 where a group is in use.
    """

    position_NK: Tensor
    log_sigma_NK: Tensor
    gate_logit_NG: Tensor


class StripTarget(NamedTuple):
    """True settings of some strips.

    Attributes:
        position_NK: positions.
        gate_NG: 1 where a group is in use, else 0.
        weight_NK: how much each setting is heard, 0 to 1; a strip of which nothing is heard has
            gates that nobody can tell, either.
    """

    position_NK: Tensor
    gate_NG: Tensor
    weight_NK: Tensor

    def to(self, device: torch.device | str) -> "StripTarget":
        """Return it on a device."""
        return StripTarget(*(value.to(device) for value in self))

    def heard(self) -> Tensor:
        """Return is_heard_N: 1 where anything of a strip is heard, else 0."""
        return (self.weight_NK.amax(dim=-1) > 0).to(self.weight_NK)


def gaussian_nll(position: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Return the negative log likelihood of positions, without its constant, element by element."""
    return 0.5 * ((position - mean) * torch.exp(-log_sigma)).square() + log_sigma


class Table(nn.Module):
    """Table of learned vectors by number, as `nn.Embedding`.

    That one draws its beginning from normal numbers, which on the meta device imports PyTorch's
    compiler (see `mixprint.checkpoints.form.restored`).
    """

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.row_Rd = nn.Parameter(torch.empty(num_rows, width))
        nn.init.uniform_(self.row_Rd, -_TABLE_RANGE, _TABLE_RANGE)

    def forward(self, number_N: Tensor) -> Tensor:
        """Return the vectors of numbers of any shape."""
        return self.row_Rd[number_N]


class StripHead(nn.Module):
    """Head of the strips of one layout: what all kinds have in common."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, token_Nd: Tensor, base_K: Tensor) -> StripPrediction:
        """Predict settings.

        Args:
            token_Nd: of the strips.
            base_K: positions that the network departs from.
        """
        raise NotImplementedError

    def loss(
        self, token_Nd: Tensor, base_K: Tensor, target: StripTarget, gate_weight: float
    ) -> Tensor:
        """Return the negative log likelihood of the truth, loss_N, in nats a setting."""
        raise NotImplementedError


class SettingsHead(StripHead):
    """Head that predicts all settings at once."""

    def __init__(self, layout: Layout, width: int) -> None:
        """Build it; it starts at the base."""
        super().__init__(layout)
        num_fields, num_gates = len(layout.fields), len(layout.gates)
        self.hidden = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out = nn.Linear(width, 2 * num_fields + num_gates)
        self._sizes = [num_fields, num_fields, num_gates]
        _start_small(self.out)

    def forward(self, token_Nd: Tensor, base_K: Tensor) -> StripPrediction:
        """See `StripHead`."""
        offset_NK, log_sigma_NK, gate_NG = self.out(self.hidden(token_Nd)).split(self._sizes, -1)
        return StripPrediction(base_K + offset_NK, _log_sigma(log_sigma_NK), gate_NG)

    def loss(
        self, token_Nd: Tensor, base_K: Tensor, target: StripTarget, gate_weight: float
    ) -> Tensor:
        """See `StripHead`."""
        found = self(token_Nd, base_K)
        nll_NK = gaussian_nll(target.position_NK, found.position_NK, found.log_sigma_NK)
        settings_N = (target.weight_NK * nll_NK).mean(dim=-1)
        gates_NG = functional.binary_cross_entropy_with_logits(
            found.gate_logit_NG, target.gate_NG, reduction="none"
        )
        return settings_N + gate_weight * target.heard() * gates_NG.mean(dim=-1)

    @torch.no_grad()
    def settle(self, token_Nd: Tensor, base_K: Tensor, wanted: StripPrediction) -> None:
        """Fit the last layer to predictions that are wanted for some tokens, as far as they differ.

        Args:
            token_Nd: of strips.
            base_K: positions that the network departs from.
            wanted: predictions for these tokens.
        """
        number_NK = _number(wanted.log_sigma_NK)
        wanted_NO = torch.cat(
            [wanted.position_NK - base_K, number_NK, wanted.gate_logit_NG], dim=-1
        ).double()
        hidden_Nd = self.hidden(token_Nd).double()
        mean_d, mean_O = hidden_Nd.mean(dim=0), wanted_NO.mean(dim=0)
        # The least weights that will do; those along which the tokens do not differ are zero.
        weight_dO = torch.linalg.pinv(hidden_Nd - mean_d) @ (wanted_NO - mean_O)
        self.out.weight.copy_(weight_dO.T)
        self.out.bias.copy_(mean_O - mean_d @ weight_dO)


class ChainHead(StripHead):
    """Head that writes one processor after another."""

    is_of_PK: Tensor

    def __init__(self, layout: Layout, width: int) -> None:
        """Build it."""
        super().__init__(layout)
        self._end = len(layout.processors)
        num_fields = len(layout.fields)
        self.start = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.Tanh())
        self.kinds = Table(self._end + 1, width)  # the last: nothing yet
        self.written = nn.Linear(num_fields, width)
        self.cell = nn.GRUCell(width, width)
        self.next_kind = nn.Linear(width, self._end + 1)  # the last: the end
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.GELU())
        self.out = nn.Linear(width, 2 * num_fields)
        _start_small(self.out)
        is_of_PK = torch.zeros(self._end, num_fields)
        for number, processor in enumerate(layout.processors):
            is_of_PK[number, list(processor.places)] = 1.0
        self.register_buffer("is_of_PK", is_of_PK, persistent=False)

    def forward(self, token_Nd: Tensor, base_K: Tensor) -> StripPrediction:
        """Write chains, the likeliest processor at each place; see `StripHead`."""
        return self._written(token_Nd, base_K)[0]

    def chains(self, token_Nd: Tensor, base_K: Tensor) -> list[list[str]]:
        """Return the names of the processors in the order in which they are written."""
        kind_NL = self._written(token_Nd, base_K)[1]
        names = [processor.name for processor in self.layout.processors]
        return [[names[kind] for kind in row if kind < self._end] for row in kind_NL.tolist()]

    def loss(
        self, token_Nd: Tensor, base_K: Tensor, target: StripTarget, gate_weight: float
    ) -> Tensor:
        """See `StripHead`; the chain is told what the truth has before."""
        kind_NL, length_N = self._true_chains(target)
        num_strips, num_fields = target.position_NK.shape
        state_Nd = self.start(token_Nd)
        kind_N = torch.full_like(length_N, self._end)
        written_NK = torch.zeros_like(target.position_NK)
        kinds_N = token_Nd.new_zeros(num_strips)
        settings_N = token_Nd.new_zeros(num_strips)
        for place in range(self._end + 1):
            state_Nd = self.cell(self.kinds(kind_N) + self.written(written_NK), state_Nd)
            is_read_N = (place <= length_N).to(token_Nd)
            kind_N = kind_NL[:, place]
            logit_NP = self.next_kind(state_Nd)
            error_N = functional.cross_entropy(logit_NP, kind_N, reduction="none")
            kinds_N = kinds_N + is_read_N * error_N
            if place == self._end:
                break
            is_of_NK = self._is_of(kind_N)
            mean_NK, log_sigma_NK = self._processor(state_Nd, kind_N, base_K)
            nll_NK = gaussian_nll(target.position_NK, mean_NK, log_sigma_NK)
            weight_NK = is_of_NK * target.weight_NK
            settings_N = settings_N + (weight_NK * nll_NK).sum(dim=-1)
            written_NK = is_of_NK * target.position_NK
        kinds_N = gate_weight * target.heard() * kinds_N / (self._end + 1)
        return settings_N / num_fields + kinds_N

    def _is_of(self, kind_N: Tensor) -> Tensor:
        """Mark the fields of processors; the end has none."""
        is_of_NK = self.is_of_PK[kind_N.clamp_max(self._end - 1)]
        return is_of_NK * (kind_N < self._end)[:, None]

    def _processor(self, state_Nd: Tensor, kind_N: Tensor, base_K: Tensor) -> tuple[Tensor, Tensor]:
        offset_NK, log_sigma_NK = self.out(self.hidden(state_Nd + self.kinds(kind_N))).chunk(2, -1)
        return base_K + offset_NK, _log_sigma(log_sigma_NK)

    def _true_chains(self, target: StripTarget) -> tuple[Tensor, Tensor]:
        """Return kind_NL of the true chains, in the console's order, and their lengths."""
        own = [
            next(p for p in each.places if self.layout.fields[p].name == each.name)
            for each in self.layout.processors
        ]
        own_P = torch.tensor(own, device=target.position_NK.device)
        gated_NK = self.layout.gated(target.position_NK, target.gate_NG)
        neutral_K = self.layout.neutral_K.to(gated_NK)
        is_on_NP = ((gated_NK - neutral_K).abs() > _NOT_NEUTRAL)[:, own_P]
        length_N = is_on_NP.sum(dim=-1)
        order_NP = torch.argsort((~is_on_NP).long(), dim=-1, stable=True)
        place_P = torch.arange(self._end, device=order_NP.device)
        kind_NP = torch.where(place_P < length_N[:, None], order_NP, self._end)
        return functional.pad(kind_NP, (0, 1), value=self._end), length_N

    def _written(self, token_Nd: Tensor, base_K: Tensor) -> tuple[StripPrediction, Tensor]:
        num_strips, layout = len(token_Nd), self.layout
        neutral_K = layout.neutral_K.to(token_Nd)
        position_NK = neutral_K.repeat(num_strips, 1)
        sigma_NK = torch.full_like(position_NK, _LOG_SIGMA_OF_NEUTRAL)
        state_Nd = self.start(token_Nd)
        kind_N = torch.full((num_strips,), self._end, device=token_Nd.device)
        written_NK = torch.zeros_like(position_NK)
        is_used_NP = torch.zeros(
            num_strips, self._end + 1, dtype=torch.bool, device=token_Nd.device
        )
        has_ended_N = is_used_NP[:, 0].clone()
        kinds = []
        for _ in range(self._end):
            state_Nd = self.cell(self.kinds(kind_N) + self.written(written_NK), state_Nd)
            logit_NP = self.next_kind(state_Nd).masked_fill(is_used_NP, -torch.inf)
            kind_N = logit_NP.argmax(dim=-1).masked_fill(has_ended_N, self._end)
            has_ended_N = kind_N == self._end
            kinds.append(kind_N)
            is_of_NK = self._is_of(kind_N)
            mean_NK, log_sigma_NK = self._processor(state_Nd, kind_N, base_K)
            written_NK = is_of_NK * mean_NK
            position_NK = torch.where(is_of_NK > 0, mean_NK, position_NK)
            sigma_NK = torch.where(is_of_NK > 0, log_sigma_NK, sigma_NK)
            is_chosen_NP = functional.one_hot(kind_N, self._end + 1).bool()
            is_chosen_NP[:, self._end] = False
            is_used_NP = is_used_NP | is_chosen_NP
        gates_NG = self._gates(is_used_NP[:, : self._end])
        return StripPrediction(position_NK, sigma_NK, gates_NG), torch.stack(kinds, dim=-1)

    def _gates(self, is_used_NP: Tensor) -> Tensor:
        """Open the gates of the groups of which a processor is written."""
        is_group_PG = torch.tensor(
            [
                [self.layout.fields[each.places[0]].group == gate for gate in self.layout.gates]
                for each in self.layout.processors
            ],
            device=is_used_NP.device,
        )
        is_open_NG = (is_used_NP[:, :, None] & is_group_PG).any(dim=1)
        return _WRITTEN_LOGIT * (2.0 * is_open_NG - 1.0)


def _log_sigma(number: Tensor) -> Tensor:
    """Make a spread of what a head says: between its bounds, with a gradient everywhere."""
    part = (number + _FIRST_LOG_SIGMA - _MIDDLE_LOG_SIGMA) / _HALF_LOG_SIGMA
    return _MIDDLE_LOG_SIGMA + _HALF_LOG_SIGMA * torch.tanh(part)


def _number(log_sigma: Tensor) -> Tensor:
    """Undo `_log_sigma`, within its bounds."""
    part = (log_sigma - _MIDDLE_LOG_SIGMA) / _HALF_LOG_SIGMA
    inner = torch.atanh(part.clamp(-_MOST_PART, _MOST_PART))
    return _MIDDLE_LOG_SIGMA + _HALF_LOG_SIGMA * inner - _FIRST_LOG_SIGMA


def _start_small(out: nn.Linear) -> None:
    """Let a head start near its base, equally sure of all."""
    nn.init.uniform_(out.weight, -_OUT_RANGE, _OUT_RANGE)
    nn.init.zeros_(out.bias)


def build_head(kind: str, layout: Layout, width: int) -> StripHead:
    """Build a head by its name in the settings."""
    return ChainHead(layout, width) if kind == "chain" else SettingsHead(layout, width)
