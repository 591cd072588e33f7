"""Chains on segments of white noise: there the mean spectrum tells the chain, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mixprint.chains import EFFECTS
from mixprint.collection.shards import SeparatorFingerprint, read_index, shard_name, write_shard
from mixprint.errors import ConfigError
from mixprint.evaluation import held_out_chains
from mixprint.evaluation.baselines import log_mel_mean
from mixprint.evaluation.chain_retrieval import draw_pair_chains
from mixprint.evaluation.embedding import DISTANCE_OF, ENCODER, FEATURES, LOG_MEL, UNTRAINED
from mixprint.evaluation.held_out_chains import ChainRetrieval, ChainTest, retrieve_chains

RATE_HZ = 44_100
TEST = ChainTest(num_chains=4, lengths=(1, 2), segment_s=0.25, seed=1)
SONGS = ["a", "a", "b", "c"]
HEARD: list[int] = []


def blind(stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
    HEARD.append(stems_BSCT.shape[-1])
    return torch.ones(len(stems_BSCT), 2)


def level(stems_BSCT: Tensor, sample_rate_hz: int) -> Tensor:
    return stems_BSCT.square().mean((-2, -1)).sqrt()


def retrieve(root: Path, test: ChainTest) -> ChainRetrieval:
    generator = torch.Generator().manual_seed(0)
    if not root.exists():
        with write_shard(
            root / shard_name(0, 1),
            fingerprint="x",
            sample_rate_hz=RATE_HZ,
            separator=SeparatorFingerprint("true_stems", "", "x"),
        ) as writer:
            for number, song in enumerate(SONGS):
                noise_SCT = 0.02 * torch.randn(4, 2, RATE_HZ // 2, generator=generator)
                writer.write(f"{song}{number}", 0, 0.0, noise_SCT)
    return retrieve_chains(
        read_index(root),
        SONGS,
        [""] * len(SONGS),
        {ENCODER: log_mel_mean, FEATURES: level, LOG_MEL: level, UNTRAINED: blind},
        test,
        device="cpu",
        num_bootstrap=5,
    )


@pytest.fixture(autouse=True)
def _known_effects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out_chains, "HELD_OUT", frozenset({"bell", "low_shelf"}))


def test_partners_are_found_by_what_the_chain_did(tmp_path: Path) -> None:
    HEARD.clear()
    found = retrieve(tmp_path / "stems", TEST)
    values = found.values
    assert values["encoder"]["recall_at_1"]["value"] == 1
    assert values["untrained"]["recall_at_1"]["value"] == 0
    assert set(values["by_length"]) == {"1", "2"}
    assert values["by_length"]["2"]["encoder"]["mrr"] == {"value": 1, "low": 1, "high": 1}
    assert values["chance"]["recall_at_1"] == pytest.approx(1 / TEST.num_chains)
    assert set(DISTANCE_OF) <= values.keys()
    assert (values["pool_size"], values["num_songs"]) == (4, 3)
    # A quarter of a second of each segment is heard.
    assert set(HEARD) == {RATE_HZ // 4}
    scores = found.scores["recall_at_1"]
    assert len(scores) == 2 * TEST.num_chains
    assert np.mean(list(scores.values())) == values["encoder"]["recall_at_1"]["value"]


def test_query_and_partner_share_their_chain_but_for_phases() -> None:
    chains = draw_pair_chains(4, 1, ["pumping"], TEST.seed)
    query, partner = (chains.take(torch.arange(4) + first) for first in (0, 4))
    assert query.effect_BSL.equal(partner.effect_BSL)
    assert query.level_db_BSL.equal(partner.level_db_BSL)
    is_phase_P = torch.tensor([each.name == "phase" for each in EFFECTS["pumping"].parameters])
    is_other_BSP = (query.position_BSLP != partner.position_BSLP)[:, :, 0, : len(is_phase_P)]
    assert is_other_BSP.equal(is_phase_P.expand_as(is_other_BSP))


def test_figures_are_comparable_where_the_test_was_the_same(tmp_path: Path) -> None:
    small = ChainTest(num_chains=2, lengths=(1,), segment_s=0.25, seed=1)
    assert small.identity() != TEST.identity()
    first, second = (retrieve(tmp_path / "stems", small) for _ in range(2))
    assert first.values == second.values
    assert first.values["test_fingerprint"] == small.identity()


def test_why_there_is_no_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = ChainTest(num_chains=0, lengths=(1,), segment_s=0.5, seed=1)
    found = retrieve(tmp_path / "stems", off)
    assert "evaluate.num_chains" in found.values["absent"]
    assert found.scores == {}
    monkeypatch.setattr("tests.evaluation.test_held_out_chains.SONGS", ["a"])
    assert "at least 2 songs, found 1" in retrieve(tmp_path / "one", TEST).values["absent"]
    long = ChainTest(num_chains=6, lengths=(3,), segment_s=0.5, seed=1)
    with pytest.raises(ConfigError, match=r"chain_effects must be 1 to 2 effects, got \[3\]"):
        retrieve(tmp_path / "stems", long)
