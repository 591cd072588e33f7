"""A singer: speech of a text-to-speech program, sung on a melody.

Speech is taken apart into what the mouth does (a smooth spectral envelope and where the voice
sounds) and what the vocal folds do (the pitch, which is thrown away). The envelope, slowed down
where it is voiced, then shapes a new source that follows the melody. So there are real consonants
and the transitions between sounds, which formant tables do not give.

The speech comes from `flite` and `espeak-ng`, both Debian packages.

Shape suffixes: T sample, N frame, F frequency row.

Source: source-filter analysis with the true envelope, Roebel and Rodet, "Efficient spectral
envelope estimation and its application to pitch shifting and envelope preservation", DAFx 2005.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, rfft
from scipy.signal import istft, stft

from mixprint.stems import SAMPLE_RATE_HZ
from mixprint.synthesis.compose import Syllable
from mixprint.synthesis.exact import Rng, Signal, midi_hz, samples
from mixprint.synthesis.programs import written_audio

PROGRAMS = ("flite", "espeak-ng")
FLITE_VOICES = ("kal16", "awb", "rms", "slt")
# Male and female variants, then languages, whose sounds differ.
ESPEAK_VOICES = (
    "en-us+m1", "en-us+f1", "en-us+m2", "en-us+f2", "en-us+m3", "en-us+f3", "en-us+m4",
    "en-us+f4", "en-us+m6", "en-us+f5", "en-us+m7", "de+f2", "it+m3", "es+f4", "sv+m1",
    "fr-fr+f1", "pt+m4", "pl+f3", "hu+m2", "ja+f4", "sw+m5", "id+f5",
)  # fmt: skip
VOICES = (*(f"flite:{name}" for name in FLITE_VOICES), *(f"espeak:{v}" for v in ESPEAK_VOICES))

_TEXT = (
    "love night you river fire baby never light home away tonight dancing shadow heart falling "
    "sky rain summer follow me running through broken glass and silver streets hold on to every "
    "golden moment why should I believe in all those promises take my hand we could be strangers "
    "shine again remember how it feels ocean under thunder little wonder waiting for a sign yeah "
    "oh no more lies just give me one last chance to breathe faster higher deeper somewhere over"
)
_SPEECH_F0_HZ = 95.0  # low, so that many harmonics show the envelope
_HOP_S = 0.005
_WINDOW_S = 0.032
_ENVELOPE_PASSES = 6
_NUM_BINS = 257  # rows of a stored envelope, up to half the rate of the speech
_SYNTHESIS_WINDOW, _SYNTHESIS_HOP = 1024, 256
_PHRASE_GAP_S = 0.3
_LONGEST_SPEECH_WORDS = 45


@dataclass(frozen=True)
class Speech:
    """Speech taken apart.

    Attributes:
        envelope_NF: log amplitude, from 0 Hz to half the rate.
        voiced_N: 0 unvoiced to 1 voiced.
        rate_hz: sampling rate of the speech.
    """

    envelope_NF: NDArray[np.float32]
    voiced_N: NDArray[np.float32]
    rate_hz: int


def sing(
    speech: Speech,
    syllables: tuple[Syllable, ...],
    duration_s: float,
    rng: Rng,
    *,
    interval_semitones: float = 0.0,
    formant_scale: float = 1.0,
) -> Signal:
    """Sing a melody with the mouth of a speaker.

    Args:
        speech: see `speak`.
        syllables: the melody.
        duration_s: length of the result.
        rng: draws vibrato, glides, breath and what is sung.
        interval_semitones: transposition.
        formant_scale: above 1 a smaller mouth.

    Returns:
        signal_T.
    """
    num_frames = samples(duration_s) // _SYNTHESIS_HOP + 1
    time_N = np.arange(num_frames, dtype=np.float64) * (_SYNTHESIS_HOP / SAMPLE_RATE_HZ)
    f0_N, level_N, source_N = np.zeros(num_frames), np.zeros(num_frames), np.zeros(num_frames)
    slowness = rng.uniform(1.6, 3.2)
    glide_s = rng.uniform(0.02, 0.08)
    ends_N = _sung_time(speech, slowness)
    for phrase in _phrases(syllables):
        start_s, stop_s = phrase[0].start_s, phrase[-1].start_s + phrase[-1].length_s
        low, high = np.searchsorted(time_N, (start_s, stop_s))
        if high - low < 4:
            continue
        inside_N = time_N[low:high]
        offset_s = rng.uniform(0.0, max(0.0, ends_N[-1] - (stop_s - start_s)))
        source_N[low:high] = np.searchsorted(ends_N, offset_s + inside_N - start_s)
        starts = np.array([s.start_s for s in phrase])
        index_N = np.clip(np.searchsorted(starts, inside_N, side="right") - 1, 0, len(phrase) - 1)
        hz = np.array([midi_hz(s.pitch + interval_semitones) for s in phrase])
        before_N = hz[np.maximum(index_N - 1, 0)]
        share_N = np.clip((inside_N - starts[index_N]) / glide_s, 0.0, 1.0)
        f0_N[low:high] = before_N * (hz[index_N] / before_N) ** (share_N**2 * (3 - 2 * share_N))
        velocity_N = np.array([s.velocity for s in phrase])[index_N]
        edge_N = np.minimum(inside_N - start_s, stop_s - inside_N) / 0.03
        level_N[low:high] = velocity_N * np.clip(edge_N, 0.0, 1.0)
    f0_N *= 1.0 + _vibrato(time_N, rng)
    frame_N = np.minimum(source_N, len(speech.voiced_N) - 1).astype(np.int64)
    return _shaped(speech, frame_N, f0_N, level_N, samples(duration_s), rng, formant_scale)


@lru_cache(maxsize=8)
def speak(voice: str, text_number: int) -> Speech:
    """Let a speaker say words, and take the speech apart.

    Args:
        voice: one of `VOICES`.
        text_number: which words.

    Raises:
        DataError: the program failed.
    """
    rng = Rng(voice, text_number, "text")
    words = _TEXT.split()
    text = " ".join(rng.choice(words) for _ in range(_LONGEST_SPEECH_WORDS))
    program, _, name = voice.partition(":")
    with TemporaryDirectory(prefix="mixprint-") as folder:
        path = Path(folder) / "speech.wav"
        if program == "flite":
            command = ["flite", "-voice", name, "--setf", f"int_f0_target_mean={_SPEECH_F0_HZ}"]
            command += ["--setf", "int_f0_target_stddev=2", "-t", text, "-o", str(path)]
        else:
            pitch = 5 if "+m" in name else 10  # of 99: low
            command = [
                "espeak-ng",
                "-v",
                name,
                "-s",
                "130",
                "-p",
                str(pitch),
                "-w",
                str(path),
                text,
            ]
        speech_TC, rate_hz = written_audio(command, path)
    return _take_apart(speech_TC[:, 0], rate_hz)


def _take_apart(speech_T: Signal, rate_hz: int) -> Speech:
    """Estimate envelope and voicing frame by frame; pauses are left out."""
    hop, window = round(_HOP_S * rate_hz), round(_WINDOW_S * rate_hz)
    size = 1 << (2 * window - 1).bit_length()
    num_frames = (len(speech_T) - window) // hop
    index_NT = np.arange(num_frames)[:, None] * hop + np.arange(window)
    frames_NT = speech_T[index_NT] * np.hanning(window)
    power_N = np.mean(frames_NT**2, axis=1)
    frames_NT = frames_NT[power_N > 1e-4 * power_N.max()]

    spectrum_NF = rfft(frames_NT, size, axis=1)
    # Voicing: how well a frame agrees with itself one period later.
    correlation_NT = irfft(np.abs(spectrum_NF) ** 2, axis=1)[:, :window]
    correlation_NT /= correlation_NT[:, :1] * (1.0 - np.arange(window) / window)[None].clip(0.1)
    shortest, longest = round(rate_hz / 300), min(round(rate_hz / 60), window * 3 // 4)
    periodicity_N = correlation_NT[:, shortest:longest].max(axis=1)
    voiced_N = np.clip((periodicity_N - 0.35) / 0.25, 0.0, 1.0)

    log_NF = np.log(np.abs(spectrum_NF) + 1e-6)
    lifter_T = np.zeros(size)
    order = round(0.45 * rate_hz / _SPEECH_F0_HZ)
    lifter_T[:order] = lifter_T[-order + 1 :] = 1.0
    envelope_NF = log_NF
    for _ in range(_ENVELOPE_PASSES):
        smooth_NF = rfft(irfft(np.maximum(log_NF, envelope_NF), axis=1) * lifter_T, axis=1).real
        envelope_NF = smooth_NF
    rows = np.linspace(0, envelope_NF.shape[1] - 1, _NUM_BINS).round().astype(int)
    envelope_NF = envelope_NF[:, rows]
    return Speech(envelope_NF.astype(np.float32), voiced_N.astype(np.float32), rate_hz)


def _sung_time(speech: Speech, slowness: float) -> Signal:
    """Return the times at which frames of the speech end when sung: vowels last longer."""
    ends_N: Signal = np.cumsum(_HOP_S * (1.0 + (slowness - 1.0) * speech.voiced_N))
    return ends_N


def _phrases(syllables: tuple[Syllable, ...]) -> list[list[Syllable]]:
    """Join syllables that follow each other without a breath."""
    phrases: list[list[Syllable]] = []
    for s in syllables:
        last = phrases[-1][-1] if phrases else None
        if last is not None and s.start_s - last.start_s - last.length_s < _PHRASE_GAP_S:
            phrases[-1].append(s)
        else:
            phrases.append([s])
    return phrases


def _vibrato(time_N: Signal, rng: Rng) -> Signal:
    """Return the relative deviation of the pitch: vibrato that comes and goes, and unsteadiness."""
    depth, rate_hz = rng.uniform(0.0, 0.015), rng.uniform(4.5, 6.5)
    presence_N = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.15, 0.4) * time_N)
    steps = max(2, int(time_N[-1] * 9))
    wander_N = np.interp(
        time_N, np.linspace(0.0, time_N[-1], steps), rng.noise(steps) * rng.uniform(0.002, 0.007)
    )
    return depth * presence_N * np.sin(2 * np.pi * rate_hz * time_N) + wander_N


def _shaped(
    speech: Speech,
    source_N: NDArray[np.int64],
    f0_N: Signal,
    level_N: Signal,
    num_samples: int,
    rng: Rng,
    formant_scale: float,
) -> Signal:
    """Make the source and give it the spectral envelope, frame by frame."""
    hop = _SYNTHESIS_HOP
    padded = len(f0_N) * hop
    f0_T = np.interp(np.arange(padded) / hop, np.arange(len(f0_N)), np.where(f0_N > 0, f0_N, 100.0))
    turns_T = np.cumsum(f0_T / SAMPLE_RATE_HZ) + rng.uniform()
    # A train of pulses with all harmonics below half the rate: the Dirichlet kernel.
    harmonics_T = 2.0 * np.floor(0.45 * SAMPLE_RATE_HZ / f0_T) + 1.0
    sine_T = np.sin(np.pi * turns_T)
    safe_T = np.where(np.abs(sine_T) < 1e-9, 1.0, sine_T)
    pulses_T = np.where(
        np.abs(sine_T) < 1e-9, 1.0, np.sin(np.pi * harmonics_T * turns_T) / (harmonics_T * safe_T)
    )
    pulses_T *= np.sqrt(SAMPLE_RATE_HZ / f0_T)  # as loud as the noise, whatever the pitch
    noise_T = rng.noise(padded) * 3**0.5

    def spectrum(x_T: Signal) -> NDArray[np.complex128]:
        rows: NDArray[np.complex128] = stft(
            x_T, nperseg=_SYNTHESIS_WINDOW, noverlap=_SYNTHESIS_WINDOW - hop
        )[2][:, : len(f0_N)]
        return rows

    pulses_FN, noise_FN = spectrum(pulses_T), spectrum(noise_T)
    num_frames = min(pulses_FN.shape[1], len(f0_N))
    chosen_N = source_N[:num_frames]
    voiced_N = speech.voiced_N[chosen_N]
    hz_F = np.linspace(0.0, SAMPLE_RATE_HZ / 2, pulses_FN.shape[0])
    top_hz = 0.87 * speech.rate_hz / 2
    position_F = np.minimum(hz_F / formant_scale, top_hz) / (speech.rate_hz / 2) * (_NUM_BINS - 1)
    left_F = np.minimum(position_F.astype(int), _NUM_BINS - 2)
    share_F = position_F - left_F
    envelope_NF = speech.envelope_NF[chosen_N]
    log_FN = ((1 - share_F) * envelope_NF[:, left_F] + share_F * envelope_NF[:, left_F + 1]).T
    # Speech programs stop at 8 or 11 kHz; above, sibilants fall off slowly and vowels fast.
    octaves_F = np.log2(np.maximum(hz_F / formant_scale / top_hz, 1.0))
    slope_N = -0.8 - rng.uniform(0.4, 1.6) * voiced_N
    log_FN = log_FN + octaves_F[:, None] * slope_N
    breath = rng.uniform(0.02, 0.12)
    breathy_F = breath + (0.7 - breath) * np.clip((hz_F - 3500.0) / 6000.0, 0.0, 1.0)
    noisy_FN = 1.0 - voiced_N * (1.0 - breathy_F[:, None])
    mixed_FN = pulses_FN[:, :num_frames] * np.sqrt(1.0 - noisy_FN**2)
    mixed_FN += noise_FN[:, :num_frames] * noisy_FN
    mixed_FN *= np.exp(log_FN) * level_N[:num_frames]
    voice_T = istft(mixed_FN, nperseg=_SYNTHESIS_WINDOW, noverlap=_SYNTHESIS_WINDOW - hop)[1]
    result_T = np.zeros(num_samples)
    length = min(num_samples, len(voice_T))
    result_T[:length] = voice_T[:length]
    return result_T
