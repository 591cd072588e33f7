"""Long signals handled in pieces are what they are in one piece."""

import pytest
import torch

from mixprint.dsp import filter_designs as designs
from mixprint.dsp import pieces
from mixprint.dsp.delays import read_back, repeated
from mixprint.dsp.filters import filtered
from mixprint.dsp.pieces import in_pieces, padded


def test_pieces_cover_an_axis_once() -> None:
    audio = torch.zeros(2, 2, 10)
    assert [len(audio[0, 0, piece]) for piece in pieces.pieces(audio)] == [10]
    for empty in (torch.zeros(2, 0), torch.zeros(0, 2)):
        assert sum(piece.stop - piece.start for piece in pieces.pieces(empty)) == empty.shape[1]


def test_a_piece_knows_what_lies_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    noise_NCT = torch.randn(2, 2, 2_000, generator=torch.Generator().manual_seed(0))
    turn_N1T = torch.linspace(0, 1, 2_000).expand(2, 1, -1)
    delay_N, feedback_N = torch.tensor([7.0, 300.0]), torch.tensor([0.9, -0.7])
    sections = designs.butterworth(torch.tensor([50.0, 4_000.0]), 4, 44_100)

    def results() -> list[torch.Tensor]:
        return [
            filtered(noise_NCT, sections),
            repeated(noise_NCT, delay_N, feedback_N),
            read_back(noise_NCT, turn_N1T, lambda turn_N1T: 30 * turn_N1T.square(), 30),
            in_pieces(torch.mul, noise_NCT, turn_N1T),
        ]

    whole = results()
    monkeypatch.setattr(pieces, "_PIECE_VALUES", 500)
    assert len(list(pieces.pieces(noise_NCT))) == 16
    for one, other in zip(whole, results(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_padding_is_silence() -> None:
    assert padded(torch.ones(1, 2), 1, 2).tolist() == [[0, 1, 1, 0, 0]]
