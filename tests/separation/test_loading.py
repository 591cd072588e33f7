"""Kinds of separators: chosen by the checkpoint, and no business of whoever runs them."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import soundfile as sf
import torch
from torch import Tensor, nn

from mixprint.checkpoints.form import Checkpoint, CheckpointFiles
from mixprint.errors import CheckpointError
from mixprint.schema import WithOthers
from mixprint.separation import export_separator, load_separator, loading
from mixprint.separation.batch import SeparationJob, SeparatorSource, separate_files
from mixprint.separation.files import FileSettings
from mixprint.separation.network import FORM
from mixprint.separation.report import REPORT_NAME
from mixprint.separation.scnet.model import build_scnet
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.atomic import read_json, write_json
from tests.separation.networks import ToyNetwork

GAIN = 0.5
TINY = {"dims": [4, 8, 8], "nfft": 512, "hop_size": 128, "win_size": 512, "num_dplayer": 2}


class Gain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))


class MidSideSplitter(ToyNetwork):
    """Takes the middle for the vocals and the sides, at the gain that was learned, for the rest."""

    def __init__(self, gain: float, window_s: float) -> None:
        super().__init__(stems=("other", "drums", "bass", "vocals"), window_s=window_s)
        self.gain = gain

    def __call__(self, audio_BCT: Tensor, starts_B: Tensor) -> Tensor:
        middle_BCT = audio_BCT.mean(dim=1, keepdim=True).expand_as(audio_BCT)
        silence_BCT = torch.zeros_like(audio_BCT)
        sides_BCT = self.gain * (audio_BCT - middle_BCT)
        return torch.stack([sides_BCT, silence_BCT, silence_BCT, middle_BCT], dim=1)


@dataclass(frozen=True, kw_only=True)
class _Description(WithOthers):
    window_s: float


def load_splitter(checkpoint: Checkpoint) -> MidSideSplitter:
    gain = checkpoint.restored(Gain).gain.item()
    return MidSideSplitter(gain, checkpoint.described(_Description).window_s)


@pytest.fixture
def splitter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointFiles:
    files = CheckpointFiles.named(tmp_path / "weights", "splitter")
    FORM.write(files, {"gain": torch.tensor(GAIN)}, {"kind": "mid-side", "window_s": 0.25})
    monkeypatch.setitem(loading.KINDS, "mid-side", load_splitter)
    return files


def test_another_kind_of_separator_separates_files(
    tmp_path: Path, splitter: CheckpointFiles
) -> None:
    audio_TC = 0.1 * torch.randn(SAMPLE_RATE_HZ, 2, generator=torch.Generator().manual_seed(0))
    sf.write(tmp_path / "song.wav", audio_TC.numpy(), SAMPLE_RATE_HZ, subtype="FLOAT")
    jobs = [SeparationJob(tmp_path / "song.wav", tmp_path / "out")]
    source = SeparatorSource(str(splitter.weights), None, "cpu", compile=True)
    [outcome] = separate_files(jobs, source, FileSettings())
    assert outcome.status == "separated"
    middle_TC = audio_TC.mean(dim=1, keepdim=True).expand_as(audio_TC)
    expected = {"vocals": middle_TC, "other": GAIN * (audio_TC - middle_TC)}
    for stem in ("vocals", "bass", "drums", "other"):
        found_TC = torch.from_numpy(sf.read(tmp_path / "out" / f"{stem}.wav", dtype="float32")[0])
        wanted_TC = expected.get(stem, torch.zeros_like(audio_TC))
        torch.testing.assert_close(found_TC, wanted_TC, rtol=0, atol=1e-6)
    assert read_json(tmp_path / "out" / REPORT_NAME)["separator"]["model"] == "toy"


def test_an_unknown_kind_is_refused_by_name(splitter: CheckpointFiles) -> None:
    write_json(splitter.description, read_json(splitter.description) | {"kind": "tarot"})
    message = r"splitter\.json: kind: expected one of scnet, diffusion, mid-side, found 'tarot'"
    with pytest.raises(CheckpointError, match=message):
        load_separator(splitter.weights)


def test_an_export_from_before_there_were_kinds_is_an_scnet(tmp_path: Path) -> None:
    path = export_separator(build_scnet(TINY, "plain"), tmp_path, window_s=1.0)
    before = load_separator(path).fingerprint
    values = read_json(path.with_suffix(".json"))
    older = {k: v for k, v in values.items() if k not in {"kind", "format", "format_version"}}
    write_json(path.with_suffix(".json"), {**older, "schema_version": 1})
    assert load_separator(path).fingerprint == before
