"""The weights that mixprint ships."""

from pathlib import Path

_FOLDER = Path(__file__).parent
SHIPPED_ENCODER = _FOLDER / "encoder"
SHIPPED_STANDARDISATION = _FOLDER / "standardisation.json"
# Without these no command works.
SHIPPED = (
    _FOLDER / "separator.safetensors",
    _FOLDER / "diffusion.safetensors",
    SHIPPED_ENCODER / "weights.safetensors",
    SHIPPED_STANDARDISATION,
)
