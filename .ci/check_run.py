"""Look at what a run of the pipeline left: `python .ci/check_run.py results/tiny`."""

import sys
from pathlib import Path

from mixprint.audio.files import read_audio
from mixprint.collection.catalogue import read_catalogue
from mixprint.collection.shards import read_index
from mixprint.features import FEATURE_NAMES
from mixprint.features.table import read_features
from mixprint.storage.atomic import read_json


def main() -> None:
    """Check every step's results; an assertion that fails names what it found."""
    root = Path(sys.argv[1])
    tracks = read_catalogue(root / "catalogue")
    assert len(tracks) >= 24, len(tracks)
    segments = read_index(root / "stems")
    assert {s.track_id for s in segments} == {t.track_id for t in tracks}
    features = read_features(root / "features" / "features.parquet")
    assert features.features_BD.shape == (len(segments), len(FEATURE_NAMES))
    metrics = read_json(root / "evaluation" / "metrics.json")
    for task in ("chain", "song", "style"):
        recall = metrics[f"{task}_recall_at_1"]
        chance = metrics[f"{task}_retrieval"]["chance"]["recall_at_1"]
        print(f"{task} recall@1 {recall:.3f}, chance {chance:.3f}")
        assert 0 <= recall <= 1, recall
    report = (root / "evaluation" / "report.html").read_text()
    assert "<audio" in report
    assert "http://" not in report, "the report is not self-contained"
    promotion = read_json(root / "promotion.json")
    assert promotion["decision"] in {"promoted", "refused"}, promotion
    summary = read_json(root / "transfer" / "summary.json")
    assert summary["num_transfers"] >= 1, summary
    for row in summary["transfers"]:
        audio_CT = read_audio(root / "transfer" / row["folder"] / "output_transferred.wav")
        assert 1e-3 < audio_CT.abs().max() <= 1, row["folder"]
        before, after = row["initial_feature_distance"], row["final_feature_distance"]
        print(f"{row['folder']}: feature distance {before:.3f} -> {after:.3f}")
        assert after < before, row
    print("checked", root)


if __name__ == "__main__":
    main()
