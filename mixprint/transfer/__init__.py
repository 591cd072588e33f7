"""Give one song the mixing style of another."""

from mixprint.transfer.optimise import Iteration, TransferResult, transfer_style
from mixprint.transfer.tcn import TCN

__all__ = ["TCN", "Iteration", "TransferResult", "transfer_style"]
