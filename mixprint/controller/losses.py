"""Losses of a controller's training, beside the likelihood of the settings.

- how far the levels of tracks and mix lie from the true ones, as estimated without any audio
  (`level_loss`);
- the distance to the truth of what the console makes of the predicted settings (`truth_loss`);
- where there is no truth, the distance of audio features to a reference of other music
  (`reference_loss`), with the distance from the prior.

Gates are half open while it learns: a setting that a gate of 0.5 lets through is half way to
neutral. The ratios of a room's times in low and high bands, which cost more than they change, are
neutral here, and learned by their likelihood alone.

Shape suffixes: B song, N track, C channel, T sample, D number of a descriptor, K field, G gate.
"""

import torch
from torch import Tensor

from mixprint.console.mixing import Console, Values
from mixprint.controller.audio_features import audio_feature_terms
from mixprint.controller.heads import StripTarget
from mixprint.controller.levels import Levels, estimated_levels, level_distance, true_levels
from mixprint.controller.model import ControllerNetwork, Inputs, Outputs
from mixprint.controller.targets import MASTER, TRACK, Targets
from mixprint.dsp.spectral_distance import FEW_FRAMES_PER_WINDOW, multi_resolution_stft
from mixprint.stems import SAMPLE_RATE_HZ

# Rooms are heard for so long.
ROOM_S = 1.5
# A group that no track uses with more than this probability is left out, which saves its cost.
_LEAST_GATE = 0.05
_RATIOS = {each.name: each.neutral for each in TRACK.fields if not each.is_fitted}


def soft_targets(found: Outputs) -> Targets:
    """Return predicted settings of one song, with gates between closed and open."""
    gate_NG = torch.sigmoid(found.track.gate_logit_NG)
    is_used_G = gate_NG.amax(dim=0) > _LEAST_GATE
    return Targets(
        found.track.position_NK,
        torch.where(is_used_G, gate_NG, torch.zeros_like(gate_NG)),
        found.master.position_NK[0],
        torch.sigmoid(found.master.gate_logit_NG[0]),
    )


def console_mix(
    tracks_NCT: Tensor, targets: Targets, trim_db_N: Tensor, sample_rate_hz: int
) -> Tensor:
    """Mix tracks with predicted settings, differentiable.

    Args:
        tracks_NCT: dry, two channels.
        targets: settings.
        trim_db_N: what brings each track to the working level.
        sample_rate_hz: of the audio.

    Returns:
        mixed_NCT: the tracks as they sound in the mix.
    """
    values = targets.values(trim_db_N, sample_rate_hz)
    track_N = {
        name: torch.full_like(value_N, _RATIOS[name], requires_grad=False)
        if name in _RATIOS
        else value_N
        for name, value_N in values.track_N.items()
    }
    is_closed_G = targets.track_gate_NG.amax(dim=0) == 0
    for number, gate in enumerate(TRACK.gates):
        if is_closed_G[number]:
            track_N |= {
                each.name: track_N[each.name].detach()
                for each in TRACK.fields
                if each.group == gate
            }
    settings = Values(track_N, values.master_1, values.rooms, sample_rate_hz)
    return Console(tracks_NCT, ROOM_S)(settings)


def truth_loss(
    mixed_NCT: Tensor, truth_NCT: Tensor, resolution: int, track_weight: float
) -> Tensor:
    """Return the spectral distance of a mix to the true one, and of its tracks.

    Args:
        mixed_NCT: tracks as they sound in the mix.
        truth_NCT: the true ones.
        resolution: window in samples.
        track_weight: of the tracks' mean distance beside the mix's; 0: they are not compared.
    """

    def distance(a_CT: Tensor, b_CT: Tensor) -> Tensor:
        return multi_resolution_stft(a_CT, b_CT, (resolution,), FEW_FRAMES_PER_WINDOW)

    loss = distance(mixed_NCT.sum(dim=0), truth_NCT.sum(dim=0))
    if track_weight > 0:
        loss = loss + track_weight * distance(mixed_NCT, truth_NCT).mean()
    return loss


def reference_loss(mixed_NCT: Tensor, reference_CT: Tensor, sample_rate_hz: int) -> Tensor:
    """Return the distance of audio features of a mix to a reference of other music."""
    terms = audio_feature_terms(mixed_NCT.sum(dim=0)[None], reference_CT[None], sample_rate_hz)
    return torch.stack(list(terms.values())).sum()


def level_loss(
    found: Outputs,
    inputs: Inputs,
    track: StripTarget,
    master: StripTarget,
    truth_BND: Tensor,
    has_truth_B: Tensor,
) -> Tensor:
    """Return by how much levels under predicted settings differ from the true ones, loss_B in dB.

    The true levels are those under the true settings, or as the truth was described.

    Args:
        found: predicted settings.
        inputs: of the songs.
        track: the true settings of all rows B x N, padding included.
        master: the true settings of the masters.
        truth_BND: descriptors of the tracks as they shall sound.
        has_truth_B: in which songs these are known.
    """
    num_songs, num_tracks = inputs.is_track_BN.shape
    place_N = inputs.is_track_BN.flatten().nonzero()[:, 0]
    song_N = place_N // num_tracks
    descriptor_ND = inputs.track_BND.flatten(0, 1)[place_N]

    def levels(
        track_NK: Tensor, track_gate_NG: Tensor, master_BK: Tensor, master_gate_BG: Tensor
    ) -> Levels:
        values = Values(
            TRACK.values(TRACK.gated(track_NK[place_N], track_gate_NG[place_N])),
            MASTER.values(MASTER.gated(master_BK, master_gate_BG)),
            "inserts",
            SAMPLE_RATE_HZ,
        )
        return estimated_levels(descriptor_ND, values, song_N, num_songs)

    predicted = levels(
        found.track.position_NK,
        torch.sigmoid(found.track.gate_logit_NG),
        found.master.position_NK,
        torch.sigmoid(found.master.gate_logit_NG),
    )
    with torch.no_grad():
        set_so = levels(track.position_NK, track.gate_NG, master.position_NK, master.gate_NG)
        described = true_levels(truth_BND.flatten(0, 1)[place_N])
        is_described_N = has_truth_B[song_N]
        true = Levels(
            *(
                torch.where(is_described_N.view(-1, *[1] * (one.ndim - 1)), one, other)
                for one, other in zip(described, set_so, strict=True)
            )
        )
    return level_distance(predicted, true, song_N, num_songs)


def prior_loss(network: ControllerNetwork, targets: Targets, role_N: Tensor) -> Tensor:
    """Return how unlikely settings are of one song: squared distances from the prior's means.

    Gates take part: what is turned off is as far as its neutral settings are.
    """
    gated = targets.gated()
    tracks = network.prior.distance(gated.track_NK, role_N).mean()
    none_1 = torch.zeros(1, dtype=torch.long, device=role_N.device)
    return tracks + network.master_prior.distance(gated.master_K[None], none_1).mean()
