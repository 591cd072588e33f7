"""Effects that chains are made of, by name, and those that are held out from training."""

from collections.abc import Mapping, Sequence

from mixprint.chains.effect import Effect
from mixprint.chains.families import (
    delays,
    distortion,
    dynamics,
    filters,
    modulation,
    reverb,
    stereo,
)

# Each family is a module of `mixprint.chains.families` with a tuple `EFFECTS`.
FAMILIES: Sequence[tuple[Effect, ...]] = (
    filters.EFFECTS,
    delays.EFFECTS,
    modulation.EFFECTS,
    distortion.EFFECTS,
    dynamics.EFFECTS,
    reverb.EFFECTS,
    stereo.EFFECTS,
)


def _by_name(families: Sequence[tuple[Effect, ...]]) -> dict[str, Effect]:
    effects: dict[str, Effect] = {}
    for effect in (effect for family in families for effect in family):
        if effect.name in effects:
            raise ValueError(f"two effects are called {effect.name}")
        effects[effect.name] = effect
    return effects


EFFECTS: Mapping[str, Effect] = _by_name(FAMILIES)
HELD_OUT = frozenset(name for name, effect in EFFECTS.items() if effect.is_held_out)
TRAINED = tuple(name for name in EFFECTS if name not in HELD_OUT)
MAX_PARAMETERS = max(len(effect.parameters) for effect in EFFECTS.values())


def table() -> str:
    """Describe all effects as a Markdown table: family, name, parameters and their ranges."""
    lines = ["| family | effect | parameters |", "| --- | --- | --- |"]
    for name, effect in EFFECTS.items():
        ranges = ", ".join(
            f"{each.name} {each.low:g} to {each.high:g} {each.unit}".rstrip()
            for each in effect.parameters
        )
        held_out = " (held out)" if effect.is_held_out else ""
        lines.append(f"| {effect.family} | {name}{held_out} | {ranges} |")
    return "\n".join(lines)
