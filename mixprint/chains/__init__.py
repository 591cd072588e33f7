"""Random chains of many effects, drawn, applied to stems and described.

`python -m mixprint.chains` prints all effects with their parameters and ranges.
"""

from mixprint.chains.applying import apply_chains
from mixprint.chains.describing import described, description_names
from mixprint.chains.drawing import MAX_LENGTH, Chains, draw_chains
from mixprint.chains.effect import Effect, Parameter
from mixprint.chains.registry import EFFECTS, HELD_OUT, TRAINED

__all__ = [
    "EFFECTS",
    "HELD_OUT",
    "MAX_LENGTH",
    "TRAINED",
    "Chains",
    "Effect",
    "Parameter",
    "apply_chains",
    "described",
    "description_names",
    "draw_chains",
]
