"""Source separation: networks of several kinds, and overlap-add over long audio."""

from mixprint.separation.loading import load_separator
from mixprint.separation.scnet.architecture import SCNetConfig
from mixprint.separation.scnet.checkpoint import export_separator
from mixprint.separation.scnet.model import SCNet, build_scnet
from mixprint.separation.separator import Separator

__all__ = [
    "SCNet",
    "SCNetConfig",
    "Separator",
    "build_scnet",
    "export_separator",
    "load_separator",
]
