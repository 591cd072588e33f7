"""What the framing of compressed files tells: the streams in them, and what is wrong with them."""

from dataclasses import dataclass

from mixprint.fileview import Piece


@dataclass(frozen=True)
class Link:
    """One stream of a file, as the decoder is to be given it.

    Attributes:
        pieces: the stream's bytes: ranges of the file, and bytes that replace some of it.
        num_frames: frames that it holds, where the framing tells; the decoder must find no fewer.
    """

    pieces: tuple[Piece, ...]
    num_frames: int | None = None


class StreamError(Exception):
    """A file in which audio is missing, or that no decoder here reads whole."""

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason apart.

        Args:
            reason: as `mixprint.errors.AudioError` has it.
            detail: what was expected and found, without the file, which the caller names.
        """
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
