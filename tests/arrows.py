"""Arrows between the rooms of the library: which package imports which.

`python -m tests.arrows [FOLDER]` prints what they come to, of this tree or another one.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# The files in the library's own folder, which all may import.
GROUND = "ground"
# From the bottom up: what a room imports lies below it.
ORDER = (
    *(
        GROUND,
        "machine",
        "weights",
        "storage",
        "dsp",
        "chains",
        "audio",
        "checkpoints",
        "collection",
        "pages",
    ),
    *(
        "training",
        "features",
        "synthesis",
        "console",
        "encoder",
        "controller",
        "zero_shot",
        "separation",
        "codec",
        "cascade",
    ),
    "transfer",
    *("evaluation", "listening", "api", "cli"),
)


def imported(path: Path) -> Iterator[str]:
    """List every dotted name that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_arrows(repository: Path) -> dict[str, set[str]]:
    """Read for each module of the library which others it imports.

    Its two doors are left out: `__init__`, of which others take the version, and `__main__`.
    """
    folder = repository / "mixprint"
    files = {
        ".".join(path.relative_to(repository).with_suffix("").parts).removesuffix(".__init__"): path
        for path in folder.rglob("*.py")
    }
    for door in ("mixprint", "mixprint.__main__"):
        files.pop(door, None)

    def target(name: str) -> str:
        while name not in files and "." in name:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {target(name) for name in imported(path)} & files.keys() - {module}
        for module, path in files.items()
    }


def room(module: str, repository: Path) -> str:
    """Name the room that a module lies in."""
    name = module.split(".")[1]
    return name if (repository / "mixprint" / name).is_dir() else GROUND


def room_arrows(repository: Path) -> dict[str, dict[str, set[str]]]:
    """Read which room imports which: room -> room -> the modules that do it."""
    arrows: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, targets in module_arrows(repository).items():
        here = room(module, repository)
        for there in {room(target, repository) for target in targets} - {here}:
            arrows[here][there].add(module)
    return arrows


def circles(arrows: Mapping[str, Set[str]]) -> list[set[str]]:
    """Find the groups of nodes that can all be reached from each other."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            for node in arrows.get(waiting.pop(), set()) - found:
                found.add(node)
                waiting.append(node)
        return found

    behind = {node: reached(node) for node in arrows}
    groups = {
        frozenset(other for other in behind[node] if node in behind.get(other, set()))
        for node in arrows
        if node in behind[node]
    }
    return [set(group) for group in groups]


def upward_arrows(arrows: Mapping[str, Mapping[str, Set[str]]]) -> list[str]:
    """List the arrows that do not lead down, with the modules that draw them."""
    return [
        f"{here} -> {there}: {', '.join(sorted(modules))}"
        for here, targets in sorted(arrows.items())
        for there, modules in sorted(targets.items())
        if ORDER.index(there) >= ORDER.index(here)
    ]


def main() -> None:
    """Print the measures of a tree."""
    repository = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY
    arrows = room_arrows(repository)
    rooms = set(arrows) | {there for targets in arrows.values() for there in targets}
    upward = upward_arrows(arrows)
    print(f"modules: {len(module_arrows(repository))}, in {len(rooms)} rooms")
    print(f"arrows between rooms: {sum(map(len, arrows.values()))}, upward: {len(upward)}")
    print(*(f"  {line}" for line in upward), sep="\n")
    for name, found in (
        ("rooms", circles({here: set(targets) for here, targets in arrows.items()})),
        ("modules", circles(module_arrows(repository))),
    ):
        print(f"circles of {name}: {len(found)}")
        print(*(f"  {', '.join(sorted(group))}" for group in found), sep="\n")


if __name__ == "__main__":
    main()
