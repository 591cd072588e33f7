"""Header of a WAV whose samples follow as a stream, so that nothing is filled in afterwards."""

import struct

from mixprint.audio.writing import MAX_WAV_BYTES
from mixprint.stems import NUM_CHANNELS


def float_wav_header(num_frames: int, sample_rate_hz: int) -> bytes:
    """Return what precedes the samples of a stereo float32 WAV.

    Args:
        num_frames: how many will follow, exactly; beyond 4 GiB it is an RF64.
        sample_rate_hz: of the audio.

    Source: Multimedia Programming Interface and Data Specifications 1.0; EBU Tech 3306 (RF64).
    """
    frame_bytes = NUM_CHANNELS * 4
    data_bytes = num_frames * frame_bytes
    form = (3, NUM_CHANNELS, sample_rate_hz, sample_rate_hz * frame_bytes, frame_bytes, 32, 0)
    head = b"WAVE"
    is_large = data_bytes > MAX_WAV_BYTES
    chunks = b"fmt " + struct.pack("<IHHIIHHH", 18, *form)
    chunks += b"fact" + struct.pack("<II", 4, 0xFFFFFFFF if is_large else num_frames)
    if is_large:
        # Sizes of the whole, of the data and in frames; no table of further chunks.
        riff_bytes = len(head) + 36 + len(chunks) + 8 + data_bytes
        head += b"ds64" + struct.pack("<IQQQI", 28, riff_bytes, data_bytes, num_frames, 0)
        return b"RF64\xff\xff\xff\xff" + head + chunks + b"data\xff\xff\xff\xff"
    riff_bytes = len(head) + len(chunks) + 8 + data_bytes
    size, data_size = struct.pack("<I", riff_bytes), struct.pack("<I", data_bytes)
    return b"RIFF" + size + head + chunks + b"data" + data_size
