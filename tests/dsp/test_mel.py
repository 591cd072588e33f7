import pytest
import torch

from mixprint.dsp.mel import mel_filterbank


@pytest.mark.parametrize(("num_mels", "n_fft"), [(128, 1024), (80, 2048), (24, 512)])
def test_no_mel_filter_is_empty_and_each_is_a_mean(num_mels: int, n_fft: int) -> None:
    filters = mel_filterbank(num_mels, n_fft, 44_100)
    assert filters.shape == (num_mels, n_fft // 2 + 1)
    torch.testing.assert_close(filters.sum(dim=1), torch.ones(num_mels))
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float32)
    assert ((filters @ bins).diff() > 0).all()  # the centres of mass rise
