"""docs/console.md: its tables are those of the schema, and its commands work as written."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from mixprint.audio.files import write_audio
from mixprint.cli import app
from mixprint.cli.application import CONSOLE_COMMANDS
from mixprint.console.schema import MASTER_FIELDS, TRACK_FIELDS, VERSION, Field
from tests.console.test_files import RATE_HZ, write_noise

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "console.md").read_text()
# What these commands take long for, and what is tested elsewhere.
SHORTER = {"recover": ["--num_steps", "1"]}
TESTED_ELSEWHERE = ("demo", "fit", "mix")


def settings_table(fields: Sequence[Field]) -> str:
    """A table of settings as the page has it."""
    rows = ["| setting | unit | range | neutral | scale | depends on |", f"|{' --- |' * 6}"]
    for each in fields:
        unit = "" if each.unit == "1" else each.unit
        by = f"`{each.weighed_by}`" if each.weighed_by else ""
        row = (
            f"| `{each.name}` | {unit} | {each.low:g} to {each.high:g} | {each.neutral:g} | "
            f"{each.scale} | {by} |"
        )
        rows.append(row.replace("|  |", "| |").replace("|  |", "| |"))
    return "\n".join(rows)


@pytest.mark.parametrize("fields", [TRACK_FIELDS, MASTER_FIELDS], ids=["track", "master"])
def test_the_tables_are_those_of_the_schema(fields: Sequence[Field]) -> None:
    table = settings_table(fields)
    assert f"\n\n{table}\n\n" in PAGE, table
    assert f"version {VERSION}" in PAGE


def commands() -> list[list[str]]:
    """The commands of the page, in its order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith("mixprint ")]


def test_every_command_is_there() -> None:
    named = {words[1] for words in commands() if words[0] == "console"}
    assert named == {command.__name__.rstrip("_").replace("_", "-") for command in CONSOLE_COMMANDS}


def test_the_commands_work_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    for seed, name in enumerate(("bass", "drums", "vocals")):
        parts.append(write_noise(tmp_path / "song" / f"{name}.wav", 1.2, seed=seed))
        write_noise(tmp_path / "raw" / f"{name}.wav", 1.2, seed=seed)
        write_audio(tmp_path / "mixed" / f"{name}.wav", 0.5 * parts[-1], RATE_HZ, subtype="FLOAT")
    mix_CT = torch.stack(parts).sum(dim=0)
    write_audio(tmp_path / "mix.wav", mix_CT, RATE_HZ, subtype="FLOAT")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for words in commands():
        if words[1] in TESTED_ELSEWHERE:
            continue
        result = CliRunner().invoke(app, [*words, *SHORTER.get(words[1], [])])
        assert result.exit_code == 0, f"{words}: {result.output}"
        ran += 1
    assert ran >= len(CONSOLE_COMMANDS) - len(TESTED_ELSEWHERE)
