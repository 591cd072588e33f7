import json
import time
from pathlib import Path

from mixprint.training.measured import own_share
from tests.processes import start_ranks
from tests.training.trials import as_rank

NUM_PARTS = 7


def measure(rank: int, folder: str) -> None:
    """Measure what is missing, where the second rank looks for it a moment later."""
    made = Path(folder) / "made"
    with as_rank(rank, folder):
        time.sleep(0.3 * rank)
        own = own_share(n for n in range(NUM_PARTS) if not (made / str(n)).exists())
        for number in own:
            (made / str(number)).touch()
    (Path(folder) / f"rank{rank}.json").write_text(json.dumps(own))


def test_ranks_that_look_at_other_times_divide_the_same(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "2").touch()
    start_ranks(measure, str(tmp_path))
    shares = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert shares == [[0, 3, 5], [1, 4, 6]]
    assert len(list((tmp_path / "made").iterdir())) == NUM_PARTS


def test_one_process_measures_all() -> None:
    assert own_share([3, 1, 4]) == [3, 1, 4]
