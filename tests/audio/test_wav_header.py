"""Header of a WAV that is streamed."""

import io

import soundfile as sf
import torch

from mixprint.audio.wav_header import float_wav_header
from mixprint.audio.writing import MAX_WAV_BYTES


def test_a_stream_of_samples_has_a_header_that_counts_them() -> None:
    samples_CT = torch.linspace(-1, 1, 20).reshape(2, 10)
    content = float_wav_header(10, 44_100) + samples_CT.T.contiguous().numpy().tobytes()
    audio_TC, rate_hz = sf.read(io.BytesIO(content), dtype="float32")
    assert rate_hz == 44_100
    assert torch.equal(torch.from_numpy(audio_TC.T), samples_CT)
    # Beyond 4 GiB the sizes are those of the chunk ds64; the samples need not be there to see it.
    num_frames = MAX_WAV_BYTES // 8 + 1
    with sf.SoundFile(io.BytesIO(float_wav_header(num_frames, 44_100) + bytes(80))) as file:
        assert (file.format, file.channels) == ("RF64", 2)
    header = float_wav_header(num_frames, 44_100)
    riff_bytes, data_bytes = (int.from_bytes(header[n : n + 8], "little") for n in (20, 28))
    assert (data_bytes, riff_bytes) == (8 * num_frames, len(header) - 8 + 8 * num_frames)
