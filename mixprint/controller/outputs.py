"""Names of what the training of a controller leaves in its folder."""

from pathlib import Path

from mixprint.checkpoints.form import CheckpointFiles
from mixprint.errors import ConfigError
from mixprint.text import shown
from mixprint.training.outputs import BEST_FOLDER, FINAL_FOLDER, LOGS_FOLDER

FILES = tuple(path.name for path in CheckpointFiles.in_folder(Path()))
OUTPUTS = (*FILES, BEST_FOLDER, FINAL_FOLDER, LOGS_FOLDER)
# Of a training from pairs also the fits, and what became of each pair.
FITS_FOLDER, PAIRS_NAME = "fits", "pairs.json"


def check_initial(initial: Path, out_dir: Path) -> None:
    """Refuse a controller to start from where the training would replace it.

    Args:
        initial: its folder.
        out_dir: of the training.

    Raises:
        ConfigError: it lies there.
    """
    if out_dir.resolve() in (initial.resolve(), *initial.resolve().parents):
        raise ConfigError(
            f"initial: expected a controller outside of {shown(out_dir)}, where the training "
            f"replaces it, found {shown(initial)}; move it to another folder"
        )
