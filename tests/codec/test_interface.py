import pytest
import torch

from mixprint.codec.interface import check_frames, num_frames, pooled


@pytest.mark.parametrize(("samples", "frames"), [(1, 2), (320, 2), (321, 3), (24_000, 76)])
def test_a_last_latent_ends_the_audio(samples: int, frames: int) -> None:
    assert num_frames(samples) == frames
    check_frames(torch.zeros(1, 3, frames), samples)
    with pytest.raises(ValueError, match=f"expected the {frames} latents of {samples} samples"):
        check_frames(torch.zeros(1, 3, frames + 1), samples)


def test_latents_are_pooled_over_time() -> None:
    z_BDN = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]])
    assert pooled(z_BDN).tolist() == [[2.0, 2.0, 1.0, 0.0]]
