"""Give one song the mixing style of another."""

from mixprint.transfer.effect import Effect, FittedChain, apply_to_blocks
from mixprint.transfer.methods.fitting import Iteration, TransferResult, fit_style, transfer_style
from mixprint.transfer.methods.tcn import TCN
from mixprint.transfer.style import Style

__all__ = [
    "TCN",
    "Effect",
    "FittedChain",
    "Iteration",
    "Style",
    "TransferResult",
    "apply_to_blocks",
    "fit_style",
    "transfer_style",
]
