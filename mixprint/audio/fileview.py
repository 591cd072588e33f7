"""A file as it should be: with bytes replaced, inserted or left out, and without a copy on disk.

Decoders believe headers. Where a header is wrong and the right one is known, a decoder is given a
view of the file with the right header in place of the other.
"""

import io
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Bytes as they are, or a range of the file's bytes.
Piece = bytes | range


class FileView(io.RawIOBase):
    """Pieces of a file and other bytes, one behind the other, for reading.

    It has what `soundfile.SoundFile` asks of a file-like object. Closing it closes the file.
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        """Keep the pieces; nothing is read yet.

        Args:
            file: an unbuffered or buffered file, opened for reading bytes.
            pieces: bytes, or ranges of step 1 within the file.
        """
        self._file = file
        self._pieces = [piece for piece in pieces if len(piece)]
        self._ends = list(accumulate(len(piece) for piece in self._pieces))
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte of the view, which may lie behind its end."""
        size = self._ends[-1] if self._ends else 0
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        """Return the position in the view."""
        return self._position

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Fill a buffer, with less only at the end of the view."""
        target = memoryview(buffer).cast("B")
        filled = 0
        index = bisect_right(self._ends, self._position)
        while filled < len(target) and index < len(self._pieces):
            piece = self._pieces[index]
            offset = self._position - (self._ends[index] - len(piece))
            wanted = min(len(target) - filled, len(piece) - offset)
            if isinstance(piece, bytes):
                target[filled : filled + wanted] = piece[offset : offset + wanted]
                num_read = wanted
            else:
                self._file.seek(piece[offset])
                content = self._file.read(wanted)
                num_read = len(content)
                target[filled : filled + num_read] = content
            filled += num_read
            self._position += num_read
            if num_read < wanted:
                break
            index = bisect_right(self._ends, self._position)
        return filled

    def close(self) -> None:
        """Close the file, too."""
        self._file.close()
        super().close()
