from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from mixprint.checkpoints import torchfile
from mixprint.checkpoints.torchfile import read_tensors, write_tensors
from mixprint.errors import DataError


def test_tensors_survive_their_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.safetensors", {"w": torch.arange(3.0)})
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["w"], torch.arange(3.0))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("I/O error: No space left on device (os error 28)", r"disk full \(ENOSPC\)"),
        ("I/O error: Permission denied (os error 13)", r"Permission denied \(EACCES\)"),
    ],
)
def test_what_the_system_says_inside_safetensors_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, message: str
) -> None:
    def refuse(*_: Any) -> None:
        raise SafetensorError(told)

    monkeypatch.setattr(torchfile, "save_file", refuse)
    with pytest.raises(DataError, match=rf"a\.safetensors: .*{message}"):
        write_tensors(tmp_path / "a.safetensors", {})
    assert list(tmp_path.iterdir()) == []
