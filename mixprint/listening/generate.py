"""Make a listening test from transferred pairs.

    <out>/index.html     the test, opened from the disk; nothing is loaded from anywhere else
    <out>/audio/         the stimuli, FLAC wrapped as scripts, because a page on a disk may load
                         scripts but no sounds; their names tell nothing
    <out>/test.json      what was asked of whom: trials, conditions, gains, fingerprint

The method is MUSHRA (ITU-R BS.1534-3). A trial is an input and a target with every output that is
there for them. Where a pair's folder holds `truth.wav`, the true answer, it is the reference, and
the question is MUSHRA's own. Elsewhere the target is the reference, although it is another song,
and the question is how well each condition has its mixing style. In both cases the conditions
are the outputs, the reference itself (hidden), the input as it was, and the anchor: what the
answer should be at best (the truth, or the input), through a low-pass of 3.5 kHz. A hidden
reference that is another song is easily known, but it gives the scale its upper end and shows
who did not listen.

All stimuli of a trial are equally loud, within -1 dBTP.

Shape suffixes: C channel, T sample, F frequency bin.
"""

import base64
import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from mixprint.audio.files import probe, read_audio
from mixprint.errors import ConfigError, DataError
from mixprint.fingerprint import code_version, file_sha256, fingerprint
from mixprint.pages.clips import encode_flac, faded
from mixprint.pages.matching import match_levels
from mixprint.pages.page import write_page
from mixprint.schema import Range, WithOthers, as_record
from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.storage.atomic import atomic_path, read_json, write_json
from mixprint.storage.outputs import (
    Kind,
    check_folder,
    check_place,
    remove_result,
    reserved,
    result_in,
)
from mixprint.text import shown
from mixprint.transfer.report.page import pair_title

log = logging.getLogger("mixprint.listening")

TEST_VERSION = 1
TEST_NAME = "test.json"
PAGE_NAME = "index.html"
METRICS_NAME = "metrics.json"
INPUT_NAME = "input_original.wav"
TARGET_NAME = "target_original.wav"
OUTPUT_NAME = "output_transferred.wav"
TRUTH_NAME = "truth.wav"
STIMULUS_DIGITS = 12
LISTENING_TEST = Kind(
    noun="a listening test",
    marker=TEST_NAME,
    keys=frozenset({"version", "seed", "trials", "fingerprint"}),
    names=(PAGE_NAME, f"audio/{'[0-9a-f]' * STIMULUS_DIGITS}.js"),
)

REFERENCE = "hidden reference"
ANCHOR = "anchor 3.5 kHz"
UNCHANGED = "input unchanged"
ANCHOR_HZ = 3500.0
# The standard asks for 25 dB at 4 kHz and 50 dB at 4.5 kHz; from here on nothing is left at all.
ANCHOR_STOP_HZ = 4000.0
# BS.1534-3: longer excerpts than this tire, and are not kept in mind.
MAX_EXCERPT_S = 12.0
# BS.1534-3: no more than 12 stimuli at once, the reference included.
MAX_CONDITIONS = 12


@dataclass(frozen=True)
class Trial:
    """A question: files to be compared.

    Attributes:
        title: the pair, for the analysis; the listener does not see it.
        input: the song as it was.
        reference: what is aimed at.
        has_truth: the reference is the true answer, not another song.
        outputs: condition -> file.
        start_s: where the excerpt begins in files that are longer than it.
    """

    title: str
    input: Path
    reference: Path
    has_truth: bool
    outputs: Mapping[str, Path] = field(default_factory=dict)
    start_s: float = 0.0

    def files(self) -> dict[str, Path]:
        """Return the file of each condition that is read."""
        return {UNCHANGED: self.input, REFERENCE: self.reference, **self.outputs}


def find_trials(batch_dir: Path) -> list[Trial]:
    """Find what can be asked: results for the same input and target are one trial.

    Args:
        batch_dir: holds folders with `metrics.json` at any depth.

    Returns:
        the trials, by title.

    Raises:
        DataError: there is no result, a metrics.json is broken, or two results of a trial have
            the same method and settings and lie in folders of the same name.
    """
    results: dict[tuple[str, str, str], list[tuple[Path, Mapping[str, Any]]]] = {}
    for metrics_path in sorted(batch_dir.rglob(METRICS_NAME)):
        folder = metrics_path.parent
        if not (folder / OUTPUT_NAME).is_file():
            continue
        metrics = read_json(metrics_path)
        as_record(metrics, f"{metrics_path}: expected the metrics of a transfer", _Known)
        key = (
            file_sha256(folder / INPUT_NAME),
            file_sha256(folder / TARGET_NAME),
            file_sha256(folder / TRUTH_NAME) if (folder / TRUTH_NAME).is_file() else "",
        )
        results.setdefault(key, []).append((folder, metrics))
    if not results:
        raise DataError(f"{batch_dir}: expected folders with {METRICS_NAME}, found none")
    trials = [_trial(batch_dir, found) for found in results.values()]
    return sorted(trials, key=lambda trial: trial.title)


@dataclass(frozen=True, kw_only=True)
class _Target(WithOthers):
    title: str


@dataclass(frozen=True, kw_only=True)
class _Hyperparameters(WithOthers):
    segment_duration: Annotated[float, Range(0.0)] = MAX_EXCERPT_S
    segment_offset: Annotated[float, Range(0.0)] = 0.0


@dataclass(frozen=True, kw_only=True)
class _Known(WithOthers):
    """Part of a transfer's metrics that is read."""

    input_title: str
    targets: tuple[_Target, ...]
    method: str = ""
    optimize_target: str = ""
    hyperparameters: _Hyperparameters = _Hyperparameters()


def _trial(batch_dir: Path, found: Sequence[tuple[Path, Mapping[str, Any]]]) -> Trial:
    """Gather the results of one pair."""
    folder, metrics = found[0]
    names = [_condition(values) for _, values in found]
    outputs: dict[str, Path] = {}
    for (result, _), name in zip(found, names, strict=True):
        # The same method twice: the folder above tells them apart, as in a sweep.
        unique = name if names.count(name) == 1 else f"{name} ({_place(batch_dir, result)})"
        if unique in outputs:
            raise DataError(
                f"{result}: expected another method than {outputs[unique].parent}, found {unique}"
            )
        outputs[unique] = result / OUTPUT_NAME
    has_truth = (folder / TRUTH_NAME).is_file()
    settings = metrics.get("hyperparameters", {})
    longest_s = settings.get("segment_duration", MAX_EXCERPT_S)
    offset_s = settings.get("segment_offset", 0.0)
    is_song = probe(folder / INPUT_NAME).duration_s > offset_s + longest_s
    return Trial(
        title=f"{pair_title(metrics)} ({folder.name})",
        input=folder / INPUT_NAME,
        reference=folder / (TRUTH_NAME if has_truth else TARGET_NAME),
        has_truth=has_truth,
        outputs=outputs,
        start_s=offset_s if is_song else 0.0,
    )


def _condition(metrics: Mapping[str, Any]) -> str:
    """Name what made an output, alike in all pairs."""
    return f"{metrics.get('method', 'transfer')}, {metrics.get('optimize_target', '')}".strip(", ")


def _place(batch_dir: Path, folder: Path) -> str:
    parent = folder.parent.relative_to(batch_dir).as_posix()
    return folder.name if parent == "." else parent


def make_test(
    batch_dir: Path, out_dir: Path, *, max_trials: int, seed: int, overwrite: bool = True
) -> dict[str, Any]:
    """Write a listening test, unless the very same lies there.

    Args:
        batch_dir: see `find_trials`.
        out_dir: receives the test.
        max_trials: more are left out at random.
        seed: of that choice, and with a listener's name of their order.
        overwrite: replace another test there; nothing else is ever replaced.

    Returns:
        what test.json holds.

    Raises:
        ConfigError: max_trials is below 1.
        DataError: see `find_trials`; a trial has more conditions than MUSHRA allows; the folder
            cannot be written, or holds something that is not to be replaced.
        AudioError: a file cannot be read.
    """
    if max_trials < 1:
        raise ConfigError(f"max_trials: expected 1 or more, got {max_trials}")
    check_place(out_dir, is_folder=True)
    trials = find_trials(batch_dir)
    if len(trials) > max_trials:
        log.info("%d of %d trials are left out", len(trials) - max_trials, len(trials))
        chosen = sorted(random.Random(seed).sample(range(len(trials)), max_trials))
        trials = [trials[index] for index in chosen]
    made_of = _made_of(trials, seed)
    with reserved(out_dir, f"a listening test of {shown(batch_dir)}"):
        if (earlier := _same_test(out_dir, made_of)) is not None:
            log.info("%s: the same test was there already", shown(out_dir))
            return earlier
        inputs = [path for trial in trials for path in trial.files().values()]
        check_folder(out_dir, LISTENING_TEST, inputs=inputs, overwrite=overwrite)
        remove_result(out_dir, LISTENING_TEST)
        with result_in(out_dir, LISTENING_TEST):
            return _write_test(out_dir, trials, seed, made_of)


def _made_of(trials: Sequence[Trial], seed: int) -> str:
    """Hash what a test follows from."""
    return fingerprint(
        {
            "seed": seed,
            "trials": [
                {
                    "title": trial.title,
                    "start_s": trial.start_s,
                    "files": {name: file_sha256(path) for name, path in trial.files().items()},
                }
                for trial in trials
            ],
            "code": code_version(__name__),
        }
    )


def _same_test(out_dir: Path, made_of: str) -> dict[str, Any] | None:
    """Read the test that a folder holds, if it is whole and of the same."""
    if not LISTENING_TEST.is_whole(out_dir) or not (out_dir / PAGE_NAME).is_file():
        return None
    test: dict[str, Any] = read_json(out_dir / TEST_NAME)
    if test.get("made_of") != made_of:
        return None
    stimuli = (c["stimulus"] for trial in test["trials"] for c in trial["conditions"].values())
    return test if all((out_dir / "audio" / f"{s}.js").is_file() for s in stimuli) else None


def _write_test(out_dir: Path, trials: Sequence[Trial], seed: int, made_of: str) -> dict[str, Any]:
    made = []
    for index, trial in enumerate(trials):
        made.append(_write_trial(out_dir, f"t{index + 1:02d}", trial))
        log.info("trial %d/%d: %d conditions", index + 1, len(trials), len(made[-1]["conditions"]))
    test: dict[str, Any] = {"version": TEST_VERSION, "seed": seed, "trials": made}
    test["fingerprint"] = fingerprint(test)
    write_page(
        out_dir / PAGE_NAME,
        "listening/test.html",
        "Listening test",
        test={**test, "reference": REFERENCE},
    )
    test["made_of"] = made_of
    write_json(out_dir / TEST_NAME, test)
    return test


def _write_trial(out_dir: Path, name: str, trial: Trial) -> dict[str, Any]:
    """Write the stimuli of a trial; give its part of test.json."""
    sounds = {name: _excerpt(path, trial.start_s) for name, path in trial.files().items()}
    sounds[ANCHOR] = low_pass(sounds[REFERENCE if trial.has_truth else UNCHANGED], SAMPLE_RATE_HZ)
    if len(sounds) > MAX_CONDITIONS:
        raise DataError(
            f"{trial.title}: expected at most {MAX_CONDITIONS} conditions, found {sorted(sounds)}"
        )
    levels = match_levels(sounds, SAMPLE_RATE_HZ)
    conditions = {}
    for condition in sorted(sounds):
        gain_db = levels.gain_db[condition]
        # Faded at both ends, for the loop.
        sound_CT = faded(10 ** (gain_db / 20) * sounds[condition], SAMPLE_RATE_HZ)
        data = encode_flac(sound_CT.clamp(-1, 1), SAMPLE_RATE_HZ)
        # From the content and the trial, for a name that gives nothing away.
        digest = hashlib.sha256(name.encode() + condition.encode() + data).hexdigest()[
            :STIMULUS_DIGITS
        ]
        text = base64.b64encode(data).decode("ascii")
        with atomic_path(out_dir / "audio" / f"{digest}.js") as temporary:
            temporary.write_text(f'stimulus("{digest}", "{text}");\n', encoding="ascii")
        conditions[condition] = {"stimulus": digest, "gain_db": round(gain_db, 3)}
    return {
        "trial": name,
        "title": trial.title,
        "has_truth": trial.has_truth,
        "loudness_lufs": round(levels.loudness_lufs, 2),
        "conditions": conditions,
    }


def _excerpt(path: Path, start_s: float) -> Tensor:
    """Read what is heard of a file."""
    duration_s = probe(path).duration_s
    begin_s = start_s if duration_s > start_s + MAX_EXCERPT_S else 0.0
    return read_audio(path, start_s=begin_s, duration_s=min(MAX_EXCERPT_S, duration_s - begin_s))


def low_pass(audio_CT: Tensor, sample_rate_hz: int) -> Tensor:
    """Take out what lies above 3.5 kHz, with linear phase and no delay.

    The gain falls from 1 to 0 between 3.5 and 4 kHz, by half a cosine.

    Source: ITU-R BS.1534-3 (low-range anchor).
    """
    num_samples = audio_CT.shape[-1]
    # Silence behind the end, so that the end does not ring into the beginning.
    length = next_fast_len(num_samples + sample_rate_hz // 10, real=True)
    bins_hz_F = torch.fft.rfftfreq(length, 1 / sample_rate_hz)
    fall_F = ((bins_hz_F - ANCHOR_HZ) / (ANCHOR_STOP_HZ - ANCHOR_HZ)).clamp(0, 1)
    spectrum_CF = torch.fft.rfft(audio_CT, n=length)
    filtered_CF = spectrum_CF * (0.5 + 0.5 * torch.cos(torch.pi * fall_F))
    return torch.fft.irfft(filtered_CF, n=length)[..., :num_samples]
