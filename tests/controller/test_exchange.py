from dataclasses import replace

import torch

from mixprint.controller.draws import DrawConfig, draw_style
from mixprint.controller.examples import Example, Origin
from mixprint.controller.exchange import exchangeable, exchanged
from mixprint.controller.measured import MeasuredExample, measure_batch
from mixprint.controller.measures import heard
from mixprint.controller.roles import ROLES
from mixprint.controller.segments import Segment
from mixprint.controller.targets import Targets
from mixprint.stems import SAMPLE_RATE_HZ

DRAWS = DrawConfig(
    wide_share=0.0,
    eq_probability=0.9,
    comp_probability=0.9,
    drive_probability=0.5,
    room_probability=0.7,
)


def example(seed: int, roles: tuple[str, ...]) -> tuple[Example, Segment]:
    """Return tracks of noise with a style of their own, and no reference."""
    generator = torch.Generator().manual_seed(seed)
    style = draw_style(generator, DRAWS)
    tracks_NCT = 0.1 * torch.randn(len(roles), 2, SAMPLE_RATE_HZ, generator=generator)
    tracks_NCT[..., :20_000] *= 0.03
    tracks_NCT[0] = tracks_NCT[0].cumsum(dim=-1) / 50
    names = tuple(f"{seed} {place}" for place in range(len(roles)))
    segment = Segment(tracks_NCT, names, roles)
    settings = style.settings(names, roles, segment.trims_db(), SAMPLE_RATE_HZ)
    whole = style.settings(ROLES, ROLES, [0.0] * len(ROLES), SAMPLE_RATE_HZ)
    made = Example(
        tracks_NCT=tracks_NCT,
        names=names,
        roles=roles,
        settings=settings,
        truth_NCT=None,
        reference_CT=None,
        stems_SCT=None,
        stems="",
        origin=Origin(whole, frozenset({"drums"})),
    )
    return made, segment


def measured(made: Example) -> MeasuredExample:
    (item,) = measure_batch([made], None)
    return item


def test_other_tracks_get_the_settings_of_the_style_and_weigh_as_if_measured() -> None:
    first, _ = example(1, ("vocals", "bass"))
    second, tracks = example(2, ("guitar", "drums", "guitar", "guitar", "vocals"))
    (found,) = exchanged([measured(first)], [measured(second)])
    style = draw_style(torch.Generator().manual_seed(1), DRAWS)
    settings = style.settings(tracks.names, tracks.roles, tracks.trims_db(), SAMPLE_RATE_HZ)
    targets = Targets.of(settings)
    torch.testing.assert_close(found.track_NK, targets.track_NK)
    torch.testing.assert_close(found.track_gate_NG, targets.track_gate_NG)
    weights = heard(tracks.tracks_NCT, settings, SAMPLE_RATE_HZ)
    torch.testing.assert_close(found.track_weight_NK, weights.track_NK, atol=1e-3, rtol=0)
    other = measured(second)
    for name in ("track_ND", "role_N", "trim_N"):
        assert torch.equal(getattr(found, name), getattr(other, name))
    assert torch.equal(found.master_K, measured(first).master_K)
    # What was measured stays as it is.
    again = exchanged([found], [other])[0]
    torch.testing.assert_close(again.track_NK, found.track_NK)


def test_tracks_are_exchanged_among_those_of_a_kind_whose_style_is_known() -> None:
    made, _ = example(1, ("vocals", "bass"))
    assert made.origin is not None
    all_apart = replace(made, origin=replace(made.origin, submixed=frozenset()))
    items = [measured(each) for each in (made, all_apart, replace(made, origin=None), made)]
    assert sorted(exchangeable(items).values()) == [[0, 3], [1]]
    assert exchanged([], []) == []
