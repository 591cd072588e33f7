"""Mixing of one voice: by a controller, by rule, or by settings that a person has made.

Shape suffixes: C channel, T sample.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mixprint.api.arrays import ARRAY_NAME, Audio, SongPath, is_path, stereo
from mixprint.api.mixing import excerpt_of, predict
from mixprint.api.models import controller_of
from mixprint.api.references import Reference, ReferenceAudio, read_reference
from mixprint.audio.files import probe, write_audio
from mixprint.console.rendering import render
from mixprint.console.results import check_mix_folder, write_mix
from mixprint.console.rules import vocal_by_rule
from mixprint.console.settings import Settings
from mixprint.console.spread import Spread
from mixprint.console.words import in_words
from mixprint.controller.checkpoint import Controller
from mixprint.controller.shipped import ships_controller
from mixprint.errors import ConfigError
from mixprint.machine.device import resolve_device
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.outputs import temporary_folder

log = logging.getLogger("mixprint")

# The one track of the settings.
VOICE = "vocals"
FALLBACK_NOTE = (
    "no controller is there: the settings are found by rule; train one with "
    "`make train-controller`, and name its folder"
)
SILENT_NOTE = "silent: returned as it was"
Way = Literal["controller", "rule", "settings", "nothing"]


@dataclass(frozen=True, eq=False)
class ProcessedVocal:
    """A voice as it is mixed, and what was done.

    Attributes:
        audio: the voice, float32 (2, samples), full scale at +-1, as long as it was.
        sample_rate_hz: its rate.
        settings: of one track, `vocals`; to be read, changed, saved and rendered again.
        way: how they were found: by a `controller`, by `rule`, or given as `settings`; `nothing` is
            done to silence.
        words: what was done, in words; by rule with the reasons, by a controller with the spread.
        spread: how sure a controller is of each setting; None otherwise.
        notes: what a person should know.
    """

    audio: NDArray[np.float32]
    sample_rate_hz: int
    settings: Settings
    way: Way
    words: tuple[str, ...]
    spread: Spread | None = None
    notes: tuple[str, ...] = ()


def process_vocal(
    vocal: Audio,
    *,
    sample_rate_hz: int | None = None,
    reference: ReferenceAudio | None = None,
    settings: Settings | None = None,
    out: SongPath | None = None,
    controller: Controller | SongPath | None = None,
    use_ml_model: bool = True,
    device: str = "auto",
    overwrite: bool = False,
) -> ProcessedVocal:
    """Mix one voice: find settings for it, and render it by them.

    Args:
        vocal: the dry voice: a file, or an array or tensor of shape (channels, samples) or
            (samples,), one channel or two, float, full scale at +-1.
        sample_rate_hz: rate of arrays, 44,100 when None; files state theirs, and keep it.
        reference: a mix that it is to sound like, see `mixprint.api.references.read_reference`; the
            controller makes a good mix of it when None.
        settings: of one track; nothing is looked for then.
        out: folder that receives mix, settings, sheet and page, as `mixprint console render` writes
            them.
        controller: a trained one, or its folder; the shipped one when None. Where none is shipped
            the settings are found by rule, with a note that says so.
        use_ml_model: False for settings by rule.
        device: where a controller computes: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        overwrite: an earlier mix in `out` may be replaced.

    Raises:
        ValueError: an array has another shape, or holds integers.
        AudioError: the file cannot be read, or audio is empty or holds NaN or infinities.
        ConfigError: settings are of several tracks, or a reference is given for the rules.
        CheckpointError: the controller is missing, broken or of another kind.
        DataError: `out` cannot be written, or holds something else; this is found out before any
            work.
    """
    if out is not None:
        tracks = {VOICE: Path(vocal)} if is_path(vocal) else {}
        others = [Path(reference)] if is_path(reference) else []
        check_mix_folder(Path(out), tracks, others=others, overwrite=overwrite)
    given_hz = SAMPLE_RATE_HZ if sample_rate_hz is None else sample_rate_hz
    rate_hz = probe(Path(vocal)).sample_rate_hz if is_path(vocal) else given_hz
    voice_CT = stereo(vocal, given_hz, wanted_hz=rate_hz, name=ARRAY_NAME)
    done = _processed(
        voice_CT,
        rate_hz,
        reference=reference,
        reference_hz=given_hz,
        settings=settings,
        controller=controller,
        use_ml_model=use_ml_model,
        device=device,
    )
    if out is not None:
        _write(vocal, voice_CT, done, Path(out), overwrite=overwrite)
    return done


class AudioProcessor:
    """Processor of single voices for an application: arrays in, arrays of the same kind out.

    What it needs is loaded once. It does to each voice what `process_vocal` does without a
    reference: by a controller, or by rule.

    Attributes:
        last: what was done to the last voice, with words and notes; None before the first.
    """

    def __init__(
        self,
        use_ml_model: bool = True,
        model_path: SongPath | None = None,
        device: str = "auto",
    ) -> None:
        """Load what is needed.

        Args:
            use_ml_model: by a controller; False, or where mixprint ships none and none is named:
                by rule.
            model_path: folder of a controller; the shipped one when None.
            device: where it computes: `auto`, `cpu`, `cuda` or `cuda:<index>`.

        Raises:
            CheckpointError: the controller that is named is missing, broken or of another kind.
            ConfigError: the device is not known or not there.
        """
        self._use_ml_model, self._device = use_ml_model, device
        self._controller: Controller | None = None
        if use_ml_model and (model_path is not None or ships_controller()):
            self._controller = controller_of(model_path, resolve_device(device))
        self.last: ProcessedVocal | None = None

    def process(self, audio: NDArray[Any], sample_rate_hz: int) -> NDArray[Any]:
        """Mix one voice.

        Args:
            audio: (samples,), (channels, samples) or (samples, channels), one channel or two;
                floats with full scale at +-1, or 16 or 32 bit integers.
            sample_rate_hz: its rate, 8000 to 384000.

        Returns:
            an array of the same shape and type; integers are clipped at their ends. Silence is
            returned as it was, with a note in `last`.

        Raises:
            ValueError: the array has another shape or type.
            AudioError: it is empty, or holds NaN or infinities.
            ConfigError: the rate is out of range.
        """
        layout = _Layout.of(audio)
        if not 8_000 <= sample_rate_hz <= 384_000:
            raise ConfigError(f"sample_rate_hz: expected 8000 to 384000, found {sample_rate_hz}")
        self.last = process_vocal(
            layout.floats(audio),
            sample_rate_hz=sample_rate_hz,
            controller=self._controller,
            use_ml_model=self._use_ml_model,
            device=self._device,
        )
        if self.last.way == "nothing":
            return audio.copy()
        return layout.restored(self.last.audio)


@dataclass(frozen=True)
class _Layout:
    """Shape and type of an application's array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    has_channels_last: bool

    @classmethod
    def of(cls, audio: NDArray[Any]) -> "_Layout":
        """Read them.

        Raises:
            ValueError: it is of another shape or type.
        """
        is_known = audio.dtype in (np.int16, np.int32) or np.issubdtype(audio.dtype, np.floating)
        channels = [size for size in audio.shape if size in (1, 2)] if audio.ndim == 2 else [1]
        if not is_known or audio.ndim not in (1, 2) or not channels:
            raise ValueError(
                f"{ARRAY_NAME}: expected floats or 16 or 32 bit integers of one or two channels, "
                f"(samples,), (channels, samples) or (samples, channels), got {audio.dtype} "
                f"{audio.shape}"
            )
        is_last = audio.ndim == 2 and audio.shape[0] not in (1, 2)
        return cls(audio.shape, audio.dtype, has_channels_last=is_last)

    def floats(self, audio: NDArray[Any]) -> NDArray[np.float32]:
        """Return the array as floats (channels, samples), full scale at +-1."""
        audio = audio.T if self.has_channels_last else audio
        if np.issubdtype(self.dtype, np.integer):
            return np.ascontiguousarray(audio / -float(np.iinfo(self.dtype).min), np.float32)
        return np.ascontiguousarray(audio, np.float32)

    def restored(self, audio_CT: NDArray[np.float32]) -> NDArray[Any]:
        """Return what was made of it in the shape and type of the array."""
        num_channels = self.shape[-1] if self.has_channels_last else self.shape[0]
        if len(self.shape) == 1 or num_channels == 1:
            audio_CT = audio_CT.mean(axis=0, keepdims=True)
        made = audio_CT.T if self.has_channels_last else audio_CT
        made = made.reshape(self.shape)
        if np.issubdtype(self.dtype, np.integer):
            limits = np.iinfo(self.dtype)
            scaled = np.rint(made.astype(np.float64) * -float(limits.min))
            return scaled.clip(limits.min, limits.max).astype(self.dtype)
        return made.astype(self.dtype)


def _processed(
    voice_CT: Tensor,
    rate_hz: int,
    *,
    reference: ReferenceAudio | None,
    reference_hz: int,
    settings: Settings | None,
    controller: Controller | SongPath | None,
    use_ml_model: bool,
    device: str,
) -> ProcessedVocal:
    spread: Spread | None = None
    words: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    way: Way
    if settings is not None:
        found, way = _of_one_voice(settings), "settings"
    elif not bool(voice_CT.any()):
        found, way, notes = Settings.neutral([VOICE]), "nothing", (SILENT_NOTE,)
    elif use_ml_model and (controller is not None or reference is not None or ships_controller()):
        where = resolve_device(device)
        used = controller_of(controller, where)
        wanted: Reference | None = None
        if reference is not None:
            wanted = read_reference(reference, where, sample_rate_hz=reference_hz)
        found, spread = predict(
            used, excerpt_of(voice_CT[None], rate_hz), [VOICE], wanted, device=where
        )
        way = "controller"
    else:
        if reference is not None:
            raise ConfigError(
                "reference: expected none for settings by rule, which follow no reference; leave "
                "it out, or use a controller"
            )
        by_rule = vocal_by_rule(voice_CT, rate_hz, name=VOICE)
        found, way, words = by_rule.settings, "rule", by_rule.reasons
        if use_ml_model:
            notes = (FALLBACK_NOTE,)
            log.warning("%s", FALLBACK_NOTE)
    found = replace(found, sample_rate_hz=rate_hz)
    (audio_CT,) = render(voice_CT[None], found, rate_hz)
    if words is None:
        words = tuple(
            phrase if name == VOICE else f"{name}: {phrase}"
            for name, phrases in in_words(found, spread).items()
            for phrase in phrases
        )
    return ProcessedVocal(audio_CT.float().numpy(), rate_hz, found, way, words, spread, notes)


def _of_one_voice(settings: Settings) -> Settings:
    """Return settings whose one track is called as the voice."""
    if len(settings.tracks) != 1:
        raise ConfigError(f"settings: expected those of one track, found {len(settings.tracks)}")
    (strip,) = settings.tracks.values()
    return replace(settings, tracks={VOICE: strip})


def _write(
    vocal: Audio, voice_CT: Tensor, done: ProcessedVocal, out: Path, *, overwrite: bool
) -> None:
    """Write the folder of a mix; an array is dry audio in a file meanwhile."""
    why = {"Why": done.words} if done.way == "rule" else {}
    notes = why | ({"Notes": done.notes} if done.notes else {})
    with temporary_folder() as folder:
        if is_path(vocal):
            path = Path(vocal)
        else:
            path = folder / f"{VOICE}.wav"
            write_audio(path, voice_CT, done.sample_rate_hz, subtype="FLOAT")
        write_mix(
            {VOICE: path}, done.settings, out, spread=done.spread, notes=notes, overwrite=overwrite
        )
