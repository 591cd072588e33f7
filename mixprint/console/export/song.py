"""Songs to be exported, as each format gets them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mixprint.console.settings import Settings

# What a project for REAPER is made of: the console's own plug-ins, which compute exactly what it
# does, or REAPER's, which need no files beside the project.
Plugins = Literal["jsfx", "stock"]


@dataclass(frozen=True, kw_only=True)
class Export:
    """A song that is exported.

    Attributes:
        settings: what is done; their sample rate is that of the audio.
        stems: track -> its dry audio inside `out_dir`; empty where no format needs audio.
        out_dir: receives the files.
        title: of the song.
        tempo_bpm: if it is known.
        plugins: of a project for REAPER.
    """

    settings: "Settings"
    stems: Mapping[str, Path]
    out_dir: Path
    title: str
    tempo_bpm: float | None = None
    plugins: Plugins = "jsfx"
