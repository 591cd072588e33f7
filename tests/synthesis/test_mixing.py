"""Settings of mixes, and mixes in other rooms."""

import json

import numpy as np
import pytest

from mixprint.errors import DataError
from mixprint.stems import STEMS
from mixprint.synthesis.exact import Rng
from mixprint.synthesis.mixing import MixSettings, mix, named_style


def test_settings_come_back_from_a_file_whatever_the_order_of_its_keys() -> None:
    settings = named_style("arena")
    read = json.loads(json.dumps(settings.to_values(), sort_keys=True))
    assert list(read["stems"]) != list(STEMS)
    found = MixSettings.from_values(read, "settings.json")
    assert found == settings
    assert list(found.stems) == list(STEMS)


def test_settings_of_other_stems_are_refused() -> None:
    values = named_style("arena").to_values()
    values["stems"]["horns"] = values["stems"].pop("other")
    with pytest.raises(DataError, match=r"settings\.json: expected settings of vocals.*horns"):
        MixSettings.from_values(values, "settings.json")
    del values["master"]
    with pytest.raises(DataError, match=r"settings\.json: .*master"):
        MixSettings.from_values(values, "settings.json")


def test_another_room_has_other_echoes_and_the_same_level() -> None:
    noise_CT = np.stack([Rng("noise", side).noise(44_100) for side in (0, 1)]) * 0.1
    dry = dict.fromkeys(STEMS, noise_CT)
    own, same, other = (mix(dry, named_style("arena"), *size) for size in ((), (1.0,), (1.4,)))
    for stem in STEMS:
        assert np.array_equal(own[stem], same[stem])
        ratio = np.mean(other[stem] ** 2) / np.mean(own[stem] ** 2)
        assert 10 * np.log10(ratio) == pytest.approx(0, abs=1)
    assert np.mean((other["drums"] - own["drums"]) ** 2) > 0.01 * np.mean(own["drums"] ** 2)
