"""Generated multitrack songs with known mixes: composed, played and mixed by mixprint itself."""

from mixprint.synthesis.dataset import DataConfig, generate
from mixprint.synthesis.mixing import STYLE_NAMES

__all__ = ["STYLE_NAMES", "DataConfig", "generate"]
