"""Rendering of tracks by a console: exact, in blocks, in memory that does not grow with the song.

What is neutral passes its track on to the bit.

Shape suffixes: N track, C channel, T sample.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mixprint.console.mixing import Values, as_stereo, louder_channel, stereo_matrix
from mixprint.console.settings import Settings, Strip
from mixprint.dsp.compressor import BLOCK_SAMPLES, StreamedCompressors
from mixprint.dsp.decibels import amplitude
from mixprint.dsp.drive import StreamedDrive
from mixprint.dsp.equaliser import Sections, StreamedEqualiser
from mixprint.dsp.room import Rooms, StreamedRooms

# What is computed at once: long beside a room, whose tail each block computes anew.
WINDOW_S = 10.0


def render(tracks_NCT: Tensor, settings: Settings, sample_rate_hz: int) -> Tensor:
    """Render tracks of any length that fits into memory.

    Args:
        tracks_NCT: in the order of the settings' tracks, one or two channels, full scale at +-1.
        settings: what is done.
        sample_rate_hz: of the audio.

    Returns:
        mixed_NCT, float64: the tracks as they sound in the mix, which is their sum.
    """
    return torch.cat(list(render_blocks([tracks_NCT], settings, sample_rate_hz)), dim=-1)


def render_blocks(
    blocks: Iterable[Tensor], settings: Settings, sample_rate_hz: int
) -> Iterator[Tensor]:
    """Render tracks that come in blocks.

    Args:
        blocks: tracks_NCT of any lengths; together the song. See `render`.
        settings: what is done.
        sample_rate_hz: of the audio.

    Yields:
        mixed_NCT, float64; together as long as the song.
    """
    renderer = Renderer(settings, sample_rate_hz)
    window = round(WINDOW_S * sample_rate_hz) // BLOCK_SAMPLES * BLOCK_SAMPLES
    for block_NCT in blocks:
        for part_NCT in block_NCT.split(window, dim=-1):
            yield from renderer.add(part_NCT)
    yield from renderer.finish()


class Renderer:
    """Renderer of tracks that come in blocks, with the state of all effects."""

    def __init__(self, settings: Settings, sample_rate_hz: int) -> None:
        """Begin in silence; see `render_blocks` for the arguments."""
        values = Values.of(settings, sample_rate_hz)
        strips = list(settings.tracks.values())
        self._trim_N11 = amplitude(values.track_N["trim_db"])[:, None, None]
        self._output = amplitude(values.master_1["output_db"])
        self._equaliser = _Equaliser(values.track_sections(), strips)
        self._drive = (
            StreamedDrive(values.track_N["drive.drive_db"], values.track_N["drive.mix"], 2)
            if any(not strip.is_neutral("drive.mix") for strip in strips)
            else None
        )
        self._compressors = StreamedCompressors(values.compressors(values.track_N), sample_rate_hz)
        self._rooms = _Rooms(values)
        self._rooms_come_last = settings.rooms == "sends"
        self._matrix_NCC = stereo_matrix(values)
        # One equaliser for every track of the mix: the state is each track's own.
        master = values.master_sections()
        num_tracks = len(strips)
        everywhere = Sections(
            master.b_BK3.expand(num_tracks, -1, -1), master.a_BK3.expand(num_tracks, -1, -1)
        )
        self._master_equaliser = _Equaliser(everywhere, [settings.master] * num_tracks)
        self._master_compressor = StreamedCompressors(
            values.compressors(values.master_1), sample_rate_hz
        )
        self._held_NCT = torch.zeros(num_tracks, 2, 0, dtype=torch.float64)

    def add(self, block_NCT: Tensor) -> Iterator[Tensor]:
        """Render the next block, and return what is finished."""
        audio_NCT = self._equaliser.add(self._trim_N11 * as_stereo(block_NCT.double()))
        if self._drive is not None:
            audio_NCT = self._drive.add(audio_NCT)
        yield from self._compress(audio_NCT, is_last=False)

    def finish(self) -> Iterator[Tensor]:
        """Return the last samples."""
        rest_NCT = self._held_NCT[..., :0] if self._drive is None else self._drive.finish()
        yield from self._compress(rest_NCT, is_last=True)

    def _compress(self, audio_NCT: Tensor, *, is_last: bool) -> Iterator[Tensor]:
        """Go on from the compressors, which take whole blocks of their own."""
        audio_NCT = torch.cat([self._held_NCT, audio_NCT], dim=-1)
        num_samples = audio_NCT.shape[-1]
        num_whole = num_samples if is_last else num_samples // BLOCK_SAMPLES * BLOCK_SAMPLES
        self._held_NCT = audio_NCT[..., num_whole:].clone()
        if num_whole == 0:
            return
        audio_NCT = audio_NCT[..., :num_whole]
        audio_NCT = audio_NCT * self._compressors.add(louder_channel(audio_NCT))[:, None]
        if not self._rooms_come_last:
            audio_NCT = self._rooms.add(audio_NCT)
        audio_NCT = self._matrix_NCC @ audio_NCT
        if self._rooms_come_last:
            audio_NCT = self._rooms.add(audio_NCT)
        audio_NCT = self._master_equaliser.add(audio_NCT)
        mix_1CT = audio_NCT.sum(dim=0, keepdim=True)
        yield self._output * (
            audio_NCT * self._master_compressor.add(louder_channel(mix_1CT))[:, None]
        )


class _Equaliser:
    """Equalisers of the tracks that have one."""

    def __init__(self, sections: Sections, strips: list[Strip]) -> None:
        is_on = [
            any(f.group == "eq" and not strip.is_neutral(f.name) for f in strip.fields)
            for strip in strips
        ]
        self._tracks = torch.tensor(is_on).nonzero()[:, 0]
        self._stream = StreamedEqualiser(
            Sections(sections.b_BK3[self._tracks], sections.a_BK3[self._tracks]), 2
        )

    def add(self, audio_NCT: Tensor) -> Tensor:
        if len(self._tracks) == 0:
            return audio_NCT
        filtered = self._stream.add(audio_NCT[self._tracks].numpy())
        return audio_NCT.index_copy(0, self._tracks, torch.from_numpy(filtered))


class _Rooms:
    """Rooms of the tracks that have one."""

    def __init__(self, values: Values) -> None:
        self._tracks = values.sends().nonzero()[:, 0]
        rooms = values.track_rooms()
        own = [
            None if value_N is None else value_N[self._tracks]
            for value_N in (rooms.send_db_B, rooms.time_s_B, rooms.low_ratio_B, rooms.high_ratio_B)
        ]
        send_db_N, time_s_N, low_N, high_N = own
        assert send_db_N is not None
        assert time_s_N is not None
        self._stream = (
            StreamedRooms(Rooms(send_db_N, time_s_N, low_N, high_N), values.sample_rate_hz)
            if len(self._tracks)
            else None
        )

    def add(self, audio_NCT: Tensor) -> Tensor:
        if self._stream is None:
            return audio_NCT
        wet_NCT = self._stream.add(audio_NCT[self._tracks].mean(dim=1))
        return audio_NCT.index_add(0, self._tracks, wet_NCT)
