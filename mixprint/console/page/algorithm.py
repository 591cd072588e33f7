"""Numbers of the console's processors that its page needs, besides the settings."""

from typing import Any

from mixprint.dsp import compressor, drive, equaliser, loudness, room


def algorithm(sample_rate_hz: int) -> dict[str, Any]:
    """Return what `sound.js` computes with, by processor.

    Args:
        sample_rate_hz: of the audio in the page.

    Returns:
        values for JSON.
    """
    return {
        "block_samples": compressor.BLOCK_SAMPLES,
        "equaliser": {
            "q": equaliser.BUTTERWORTH_Q,
            "highest_frequency": equaliser.HIGHEST_FREQUENCY,
        },
        "compressor": {
            "floor_db": compressor.FLOOR_DB,
            "min_knee_db": compressor.MIN_KNEE_DB,
        },
        "drive": {
            "context": drive.CONTEXT_SAMPLES,
            "near": drive.NEAR,
            "between": drive.halfway_taps(drive.REACH).tolist(),
            "halving": drive.halfway_taps(2 * drive.REACH, width=2).tolist(),
        },
        "room": {
            "delays": room.line_delays(sample_rate_hz),
            "input_gain": room.INPUT_GAIN,
            "signs": room.SIGNS,
            "damping": room.damping_taps(sample_rate_hz),
            "low_hz": room.LOW_HZ,
            "high_hz": room.HIGH_HZ,
            "max_time_s": room.MAX_TIME_S,
            # Length of what is rendered, in reverb times.
            "rendered": room.RENDERED_DB / 60,
        },
        "loudness": {
            "filters": loudness.k_weighting_filters(sample_rate_hz),
            "offset_lu": loudness.CHANNEL_SUM_OFFSET_LU,
            "hop_s": loudness.HOP_S,
            "gates": {
                "absolute_lufs": loudness.SILENCE_LUFS,
                "relative_lu": loudness.INTEGRATED_GATE_LU,
            },
        },
    }
