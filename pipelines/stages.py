"""The dependencies of the stages in `dvc.yaml`: the code that their results follow from.

`python -m pipelines.stages` writes them; a test holds the file equal.
"""

import importlib
import re
from itertools import pairwise
from pathlib import Path

from mixprint.fingerprint import code_files

STAGES_FILE = Path(__file__).parents[1] / "dvc.yaml"
_STAGE = re.compile(r"^  (?=\w+:$)", re.MULTILINE)
_MODULE = re.compile(r"^    cmd: \S+ -m (\S+)", re.MULTILINE)
_CODE = re.compile(r"^      - (?:components|mixprint)/(?!weights/(?!\S+\.py\n))\S+\n", re.MULTILINE)
_PARAMS = re.compile(r"^    params:", re.MULTILINE)


def stage_code(module: str) -> list[str]:
    """List the sources that a stage depends on.

    Args:
        module: the step's, as its command names it; its `CODE` names what makes the results.
    """
    roots = importlib.import_module(module).CODE
    return sorted({*code_files(*roots), f"{module.replace('.', '/')}.py"})


def with_code(stages: str) -> str:
    """Return the text of `dvc.yaml` in which each stage depends on its code."""
    return "".join(_with_code(part) if _MODULE.search(part) else part for part in _split(stages))


def _split(stages: str) -> list[str]:
    """Cut the file before each stage; joined, the parts are the file."""
    starts = [0, *(match.start() for match in _STAGE.finditer(stages)), len(stages)]
    return [stages[a:b] for a, b in pairwise(starts)]


def _with_code(stage: str) -> str:
    command = _MODULE.search(stage)
    assert command is not None
    lines = "".join(f"      - {name}\n" for name in stage_code(command[1]))
    return _PARAMS.sub(lambda match: f"{lines}{match[0]}", _CODE.sub("", stage), count=1)


def main() -> None:
    """Write the file."""
    STAGES_FILE.write_text(with_code(STAGES_FILE.read_text()))


if __name__ == "__main__":
    main()
