"""The form of our own checkpoints, whatever is in them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mixprint.checkpoints.form import CheckpointFiles, Form
from mixprint.errors import CheckpointError
from mixprint.fingerprint import file_sha256
from mixprint.storage.atomic import read_json, write_json

FORM = Form("toy", version=2, unstated={"format_version": 2})


def network() -> nn.Linear:
    return nn.Linear(3, 2)


@pytest.fixture(params=["folder", "beside others"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointFiles:
    if request.param == "folder":
        return CheckpointFiles.in_folder(tmp_path / "toy")
    return CheckpointFiles.named(tmp_path, "toy")


def test_a_network_comes_back(files: CheckpointFiles) -> None:
    made = network()
    FORM.write(files, made.state_dict(), {"colour": "red", "format": "ours is stated"})
    assert read_json(files.description) == {
        "colour": "red",
        "format": "toy",
        "format_version": 2,
        "weights_sha256": file_sha256(files.weights),
    }
    assert sorted(files.weights.parent.iterdir()) == sorted(files)
    checkpoint = FORM.read(files)
    assert checkpoint.weights_sha256 == file_sha256(files.weights)
    assert torch.equal(checkpoint.restored(network).weight, made.weight)


def test_the_fingerprint_is_that_of_weights_and_chosen_values(files: CheckpointFiles) -> None:
    made = network()

    def of(colour: str) -> str:
        FORM.write(files, made.state_dict(), {"colour": colour, "when": colour})
        return FORM.read(files).fingerprint("colour")

    red = of("red")
    assert of("blue") != red
    assert of("red") == red
    write_json(files.description, read_json(files.description) | {"when": "later"})
    assert FORM.read(files).fingerprint("colour") == red
    made = network()
    assert of("red") != red


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "expected the description of a toy, found 'other'"),
        ({"format_version": 1}, "expected format version 2, found 1"),
        ({"weights_sha256": 3}, "weights_sha256: expected str"),
        ({"weights_sha256": "0" * 64}, "not of one export"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    files: CheckpointFiles, changes: dict[str, object], message: str
) -> None:
    FORM.write(files, network().state_dict(), {})
    write_json(files.description, read_json(files.description) | changes)
    with pytest.raises(CheckpointError, match=message):
        FORM.read(files).restored(network)


def test_an_older_description_says_less(files: CheckpointFiles) -> None:
    FORM.write(files, network().state_dict(), {})
    values = read_json(files.description)
    write_json(files.description, {k: v for k, v in values.items() if k != "format_version"})
    FORM.read(files).restored(network)
    write_json(files.description, {k: v for k, v in values.items() if k != "weights_sha256"})
    with pytest.raises(CheckpointError, match="missing keys"):
        FORM.read(files)


def test_weights_are_stored_as_asked_and_finite(files: CheckpointFiles) -> None:
    made = network()
    FORM.write(files, made.state_dict(), {}, dtype=torch.float16)
    found = FORM.read(files).restored(network).weight
    assert torch.equal(found, made.weight.half().float())
    with torch.no_grad():
        made.bias[0] = 1e6
    with pytest.raises(CheckpointError, match=r"finite as torch\.float16, found \['bias'\]"):
        FORM.write(files, made.state_dict(), {}, dtype=torch.float16)
    assert torch.equal(FORM.read(files).restored(network).weight, found), "the older one stays"


def test_weights_that_are_not_finite_are_refused(files: CheckpointFiles) -> None:
    FORM.write(files, network().state_dict(), {})
    save_file({"weight": torch.full((2, 3), torch.nan), "bias": torch.zeros(2)}, files.weights)
    hashed = read_json(files.description) | {"weights_sha256": file_sha256(files.weights)}
    write_json(files.description, hashed)
    with pytest.raises(CheckpointError, match=r"finite weights.*\['weight'\]"):
        FORM.read(files).restored(network)


def test_networks_are_loaded_without_pytorchs_compiler() -> None:
    """It takes two seconds to import, in each process; only what trains needs it."""
    lines = (
        "import sys",
        "from mixprint.encoder.checkpoint import load_checkpoint",
        "from mixprint.separation import load_separator",
        "from mixprint.weights import SHIPPED_ENCODER",
        "from mixprint.zero_shot.checkpoint import load_zero_shot",
        "load_separator(), load_checkpoint(SHIPPED_ENCODER), load_zero_shot()",
        "assert 'torch._dynamo' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
