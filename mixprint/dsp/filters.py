"""Recursive filters of any order on many signals at once, exact and without a loop over samples.

A cascade of second-order sections is one linear system with a state. In blocks of `BLOCK_SAMPLES`
its output is a product of the block with a matrix, plus a product of the state before the block
with another one; the states themselves follow from block to block by a recurrence that is solved
by doubling. Nothing wraps around, nothing is cut off, and the cost hardly depends on the order.

Each section is realised as the state-variable filter of trapezoidal integrators (Zavalishin, The
Art of VA Filter Design, 2018; Simper 2013), whose state is well scaled for low frequencies, where
the direct forms are not: products in single precision suffice.

Shape suffixes: B signal, C channel, K section, 3 coefficients, T sample, J block, L sample of a
block, D state; R row of blocks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mixprint.dsp.equaliser import Sections
from mixprint.dsp.pieces import padded, pieces

BLOCK_SAMPLES = 64
# Powers of a system that are below this are no longer heard.
_DIED_AWAY = 1e-7
_TRACE = 1e-20


def filtered(audio_BCT: Tensor, sections: Sections) -> Tensor:
    """Filter signals, each by its own sections, from rest.

    Args:
        audio_BCT: of any length from one sample on.
        sections: stable ones, float64, as many rows as signals.

    Returns:
        audio_BCT of the same length.
    """
    return BlockFilters.of(sections, audio_BCT.dtype).apply(audio_BCT)


@dataclass(frozen=True)
class _System:
    """A linear system s' = s A + x b, y = s c + x d, with states as rows; float64."""

    a_BDD: Tensor
    b_BD: Tensor
    c_BD: Tensor
    d_B: Tensor

    @classmethod
    def of(cls, sections: Sections) -> "_System":
        """Realise sections, one behind the other."""
        num_sections = sections.b_BK3.shape[1]
        system = cls._of_one(sections.b_BK3[:, 0], sections.a_BK3[:, 0])
        for k in range(1, num_sections):
            system = system._before(cls._of_one(sections.b_BK3[:, k], sections.a_BK3[:, k]))
        return system

    @classmethod
    def _of_one(cls, b_B3: Tensor, a_B3: Tensor) -> "_System":
        """Realise one section as a state-variable filter.

        Its low-pass, band-pass and high-pass have the numerators g^2 (1 + z)^2, g (1 - z^2) and
        (1 - z)^2 over (1 + g k + g^2) a(z), z the delay. Values of b and a at z = 1 and -1 and
        their outer differences therefore give g, k and what of each output is wanted.
        """
        b_B3, a_B3 = b_B3.double(), a_B3.double()
        (b_low_B, b_band_B, b_high_B), (low_B, band_B, high_B) = _at_ends(b_B3), _at_ends(a_B3)
        g_B = (low_B / high_B).sqrt()
        k_B = band_B / (g_B * high_B)
        high_gain_B, low_gain_B = b_high_B / high_B, b_low_B / low_B
        band_gain_B = b_band_B / (g_B * high_B)
        # The high-pass is the input less k times the band-pass and less the low-pass.
        of_band_B, of_low_B = band_gain_B - k_B * high_gain_B, low_gain_B - high_gain_B
        first_B = 1 / (1 + g_B * (g_B + k_B))
        second_B = g_B * first_B
        third_B = g_B * second_B
        rows = [
            torch.stack([2 * first_B - 1, 2 * second_B], dim=-1),
            torch.stack([-2 * second_B, 1 - 2 * third_B], dim=-1),
        ]
        return cls(
            torch.stack(rows, dim=1),
            torch.stack([2 * second_B, 2 * third_B], dim=-1),
            torch.stack(
                [
                    of_band_B * first_B + of_low_B * second_B,
                    of_low_B * (1 - third_B) - of_band_B * second_B,
                ],
                dim=-1,
            ),
            high_gain_B + of_band_B * second_B + of_low_B * third_B,
        )

    def _before(self, other: "_System") -> "_System":
        """Put another system behind this one."""
        upper_BDD = torch.cat([self.a_BDD, self.c_BD[:, :, None] * other.b_BD[:, None]], dim=-1)
        lower_BDD = functional.pad(other.a_BDD, (self.a_BDD.shape[-1], 0))
        return _System(
            torch.cat([upper_BDD, lower_BDD], dim=1),
            torch.cat([self.b_BD, self.d_B[:, None] * other.b_BD], dim=-1),
            torch.cat([self.c_BD * other.d_B[:, None], other.c_BD], dim=-1),
            self.d_B * other.d_B,
        )


def _at_ends(x_B3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a polynomial of the delay at 1, twice its outer difference, and its value at -1."""
    outer_B = x_B3[:, 0] + x_B3[:, 2]
    return outer_B + x_B3[:, 1], 2 * (x_B3[:, 0] - x_B3[:, 2]), outer_B - x_B3[:, 1]


@dataclass(frozen=True)
class BlockFilters:
    """Matrices of filters for a block: to the state behind it, and to the output.

    Attributes:
        into_state_BLD: from the block.
        to_output_BLL: from the block.
        out_of_state_BDL: to the output, from the state before it.
        step_BDD: from that state to the one behind it, float64.
    """

    into_state_BLD: Tensor
    to_output_BLL: Tensor
    out_of_state_BDL: Tensor
    step_BDD: Tensor

    @classmethod
    def of(cls, sections: Sections, dtype: torch.dtype) -> "BlockFilters":
        """Compute the matrices for audio of a type."""
        system = _System.of(sections)
        # x_l has passed the system L - 1 - l times at the end of the block.
        arrived_BLD, step_BDD = _passed(system.b_BD, system.a_BDD)
        left_BLD, _ = _passed(system.c_BD, system.a_BDD.mT)
        later_BL = torch.einsum("bld,bd->bl", arrived_BLD[:, :-1], system.c_BD)
        impulse_BL = _without_traces(torch.cat([system.d_B[:, None], later_BL], dim=1), dtype)
        shifted_BLL = functional.pad(impulse_BL, (BLOCK_SAMPLES - 1, 0)).unfold(
            -1, BLOCK_SAMPLES, 1
        )
        return cls(
            _without_traces(arrived_BLD, dtype).flip(1),
            shifted_BLL.flip(1),
            _without_traces(left_BLD, dtype).mT.contiguous(),
            step_BDD,
        )

    def take(self, rows: slice) -> "BlockFilters":
        """Return some of the filters."""
        return BlockFilters(
            self.into_state_BLD[rows],
            self.to_output_BLL[rows],
            self.out_of_state_BDL[rows],
            self.step_BDD[rows],
        )

    def apply(self, audio_BCT: Tensor) -> Tensor:
        """Filter signals from rest: see `filtered`."""
        num_signals, num_channels, num_samples = audio_BCT.shape
        num_rest = num_samples % BLOCK_SAMPLES
        # Rows of blocks R: signals where their channels follow each other, else channels.
        filters = self if num_rest == 0 else self._per_channel(num_channels)
        result_BCT = torch.empty_like(audio_BCT, memory_format=torch.contiguous_format)
        blocks_RJL, result_RJL = (
            x_BCT[..., : num_samples - num_rest]
            .unflatten(-1, (-1, BLOCK_SAMPLES))
            .flatten(*((1, 2) if num_rest == 0 else (0, 1)))
            for x_BCT in (audio_BCT, result_BCT)
        )
        driven_RJD = blocks_RJL @ filters.into_state_BLD
        driven_BCJD = driven_RJD.view(num_signals, num_channels, -1, driven_RJD.shape[-1])
        before_BCJD = _states_before(driven_BCJD, self.step_BDD)
        before_RJD = before_BCJD[:, :, :-1].reshape(driven_RJD.shape)
        for piece in pieces(blocks_RJL, axis=1):
            result_RJL[:, piece] = filters._output(blocks_RJL[:, piece], before_RJD[:, piece])
        if num_rest:
            rest_R1L = padded(audio_BCT[..., -num_rest:], 0, BLOCK_SAMPLES - num_rest).view(
                len(blocks_RJL), 1, BLOCK_SAMPLES
            )
            output_R1L = filters._output(rest_R1L, before_BCJD[:, :, -1:].flatten(0, 1))
            result_BCT[..., -num_rest:] = output_R1L[..., :num_rest].view(
                num_signals, num_channels, num_rest
            )
        return result_BCT

    def _per_channel(self, num_channels: int) -> "BlockFilters":
        return BlockFilters(
            *(
                matrix.repeat_interleave(num_channels, dim=0)
                for matrix in (
                    self.into_state_BLD,
                    self.to_output_BLL,
                    self.out_of_state_BDL,
                    self.step_BDD,
                )
            )
        )

    def _output(self, blocks_RJL: Tensor, before_RJD: Tensor) -> Tensor:
        output_RJL = blocks_RJL @ self.to_output_BLL
        return output_RJL.baddbmm_(before_RJD, self.out_of_state_BDL)


def _without_traces(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Set what is next to nothing to 0: below the normal numbers, products take long."""
    return functional.threshold(matrix.abs(), _TRACE, 0.0).copysign_(matrix).to(dtype)


def _passed(row_BD: Tensor, a_BDD: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply rows by the powers 0 to L - 1 of matrices, and return power L, too."""
    passed_BLD = row_BD[:, None]
    while passed_BLD.shape[1] < BLOCK_SAMPLES:
        passed_BLD = torch.cat([passed_BLD, passed_BLD @ a_BDD], dim=1)
        a_BDD = a_BDD @ a_BDD
    return passed_BLD, a_BDD


def _states_before(driven_BCJD: Tensor, step_BDD: Tensor) -> Tensor:
    """Solve the recurrence of the states by doubling: after each pass one covers twice the blocks.

    Returns:
        before_BCJD: the state at the start of each block, and behind the last one.
    """
    state_BCJD = functional.pad(driven_BCJD, (0, 0, 1, 0))
    reach = 1
    while reach < state_BCJD.shape[2]:
        step_B1DD = _without_traces(step_BDD, state_BCJD.dtype)[:, None]
        state_BCJD[..., reach:, :] += state_BCJD[..., :-reach, :] @ step_B1DD
        step_BDD = step_BDD @ step_BDD
        if float(step_BDD.abs().amax()) < _DIED_AWAY:
            break
        reach *= 2
    return state_BCJD
