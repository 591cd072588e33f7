"""Put two trained encoders side by side: `python -m components.train.join --help`.

Each of them is trained by a training of its own, of `train.backbone: bands` and `descriptors`.
"""

import argparse
import logging
from pathlib import Path

from components.step import clear_errors
from mixprint.encoder.checkpoint import load_checkpoint, save_checkpoint
from mixprint.encoder.joined_model import join
from mixprint.fingerprint import fingerprint
from mixprint.log import setup_logging

log = logging.getLogger("mixprint.train")

# What is said of an encoder's training for all of it, not of one of its networks.
_DATA, _EFFECTS = "data_fingerprint", "effects"


def run(*, bands: Path, descriptors: Path, share: float, out_dir: Path) -> None:
    """Write the encoder that holds two others.

    Args:
        bands: folder of an encoder of the backbone `bands`.
        descriptors: folder of one of the backbone `descriptors`.
        share: its part in the similarity of two embeddings, between 0 and 1.
        out_dir: receives the checkpoint.

    Raises:
        CheckpointError: an encoder cannot be read, is of another backbone, or does not fit the
            other.
        ConfigError: the share is out of range.
    """
    parts = {"bands": load_checkpoint(bands), "descriptors": load_checkpoint(descriptors)}
    model = join(parts["bands"].model, parts["descriptors"].model, share)
    told = {name: encoder.metadata for name, encoder in parts.items()}
    metadata = {
        _DATA: fingerprint({name: values.get(_DATA) for name, values in told.items()}),
        _EFFECTS: sorted({e for values in told.values() for e in values.get(_EFFECTS, ())}),
        **told,
    }
    save_checkpoint(out_dir, model, parts["bands"].standardisation, metadata)
    log.info("joined two encoders in %s", out_dir)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bands", type=Path, required=True, help="an encoder of this backbone")
    parser.add_argument("--descriptors", type=Path, required=True, help="one of this backbone")
    parser.add_argument(
        "--share",
        type=float,
        default=0.6,
        help="part of the descriptors in the similarity of two embeddings (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the joined encoder")
    args = parser.parse_args()
    setup_logging()
    with clear_errors():
        run(bands=args.bands, descriptors=args.descriptors, share=args.share, out_dir=args.out)


if __name__ == "__main__":
    main()
