"""Makefile: what is given on the command line reaches the programs as it is, to the byte."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

# Each is a name that a file may have, and means something to make or to a shell.
VALUES = {
    "dollar": "A$AP Rocky.wav",
    "two_dollars": "a$$b.wav",
    "call_of_make": "$(shell touch made-by-make).wav",
    "shell_variable": "${HOME}/`id`.wav",
    "hash": "Song #1.wav",
    "percent": "100%.wav",
    "backslash": "a\\b.wav\\",
    "quotes": 'it\'s "so".wav',
    "semicolon": "a; exit 1 & b|c.wav",
    "pattern": "*?[a].wav",
    "new_line": "a\nb.wav",
    "not_utf8": os.fsdecode(b"caf\xe9 \xff.wav"),
    "equals": "a=b:=c.wav",
    "comma": "a,b (live).wav",
}
TARGETS = {
    "transfer": ("INPUT", "TARGET", "OUT", "CHECKPOINT", "METHOD", "STEPS", "LR", "APPLY_TO"),
    "pipeline-run": ("DATA", "MIXED", "NAME", "ROOT", "SET", "PROFILE", "NETWORK"),
    "pipeline-submit": ("KFP_HOST", "DATA", "SOURCE", "MIXED", "ROOT", "NAME", "SET"),
    "join-encoders": ("BANDS", "DESCRIPTORS", "OUT", "SHARE"),
    "train-diffusion": ("SONGS", "INITIAL", "CONFIG"),
    "train-controller": ("INITIAL", "REFERENCES", "CONFIG", "PAIRS", "MIXED"),
    "train-encoder": ("ROOT", "PROFILE", "CONFIG"),
    "train-separator": ("SONGS", "RECIPE", "INITIAL", "CONFIG"),
    "train-zero-shot": ("ROOT", "CONFIG"),
    "promote": ("VERSION", "MODEL"),
    "dvc-remote": ("URL",),
    "containers": ("IMAGE",),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the Makefile where every program prints its arguments, and nothing is set up."""
    folder = tmp_path_factory.mktemp("make")
    shutil.copy(REPOSITORY / "Makefile", folder)
    program = "#!/bin/sh\nprintf '%s\\0' \"$@\"\n"
    for name in (".venv/bin/python", ".venv/bin/mixprint", ".venv/bin/dvc", "containers/build.sh"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(program)
        path.chmod(0o755)
    return folder


def make(folder: Path, target: str, values: dict[str, str], *, exported: bool = False) -> list[str]:
    """Run a target, with values on the command line or in the environment."""
    # Of this process's environment just the path: `make test` exports the variables of its targets.
    environment = {"PATH": os.environ["PATH"], "SOURCE": "folder", **(values if exported else {})}
    given = [] if exported else [f"{name}={value}" for name, value in values.items()]
    old = ["--old-file=.venv/.installed", "--old-file=.venv/.installed-dev"]
    done = subprocess.run(
        ["make", "--silent", *old, target, *given],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert not (folder / "made-by-make").exists(), "the value was run"
    return os.fsdecode(done.stdout).split("\0")


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_name_with_signs_of_make_and_shell_reaches_the_command_unchanged(
    folder: Path, value: str
) -> None:
    values = {"INPUT": value, "TARGET": f"other {value}"}

    found = make(folder, "transfer", values)

    assert found[found.index("--input_audio") + 1] == value
    assert found[found.index("--target_audio") + 1] == f"other {value}"
    assert make(folder, "transfer", values, exported=True) == found


@pytest.mark.parametrize("target", TARGETS)
def test_every_variable_of_a_target_takes_a_dollar(folder: Path, target: str) -> None:
    values = {name: f"{name} $a $$b $(c)" for name in TARGETS[target]}

    found = make(folder, target, values)

    assert set(values.values()) <= set(found)


def test_what_is_not_given_keeps_its_default_on_a_cluster(folder: Path) -> None:
    found = make(folder, "pipeline-submit", {"KFP_HOST": "http://x"})

    assert "--source" in found, "it is in the environment here"
    assert "--data" not in found


def test_a_training_takes_several_values(folder: Path) -> None:
    found = make(folder, "train-zero-shot", {"SET": "zero_shot.seed=2 train.seed=3"})

    assert found[:4] == ["-m", "components.train", "--task", "zero-shot"]
    assert found[6:10] == ["--set", "zero_shot.seed=2", "--set", "train.seed=3"]


@pytest.mark.parametrize("name", ["separator", "diffusion"])
def test_songs_are_downloaded_on_request_alone(folder: Path, name: str) -> None:
    found = make(folder, f"train-{name}", {"SONGS": "songs", "MINUTES": "9"})
    assert found[:4] == ["-m", "components.train", "--task", name]
    assert {f"results/{name}", "training.max_minutes=9"} < set(found)
    assert "--download" not in found
    assert "--download" in make(folder, f"train-{name}", {"SONGS": "songs", "DOWNLOAD": "1"})
