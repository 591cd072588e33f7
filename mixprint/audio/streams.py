"""Framing of compressed files: the streams in them, and what is wrong with them."""

from dataclasses import dataclass

from mixprint.audio.fileview import Piece

# So much less than declared is no missing audio: encoders count frames differently, and
# libsndfile estimates the length of some files to within a few frames of 1152.
LENGTH_TOLERANCE_S = 0.1
# The way out, for a file that is refused although something in it can be heard.
CONVERT = "get the file anew, or keep what is left of it: ffmpeg -i FILE COPY.wav"


@dataclass(frozen=True)
class Link:
    """One stream of a file, as the decoder is to be given it.

    Attributes:
        pieces: the stream's bytes: ranges of the file, and bytes that replace some of it.
        num_frames: frames that it holds, where the framing tells; the decoder must find no fewer.
        inexact_frames: frames at its end among which the decoder does not find the right one.
    """

    pieces: tuple[Piece, ...]
    num_frames: int | None = None
    inexact_frames: int = 0


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
