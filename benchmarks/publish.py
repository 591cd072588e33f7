"""Publication of a benchmark's figures."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixprint.storage.atomic import atomic_path, write_json


def publish(out_dir: Path, name: str, values: Mapping[str, Any], text: str) -> None:
    """Write figures as `<name>.json`, their table as `<name>.md` beside it, and show the table."""
    write_json(out_dir / f"{name}.json", values)
    with atomic_path(out_dir / f"{name}.md") as temporary:
        temporary.write_text(text)
    sys.stdout.write("\n" + text)
