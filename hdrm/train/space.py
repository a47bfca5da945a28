"""What `hdrm tune` searches: fields of Config, and for each a range or choices, as text.

    LOW:HIGH    numbers between two; on a logarithmic scale where HIGH is ten times LOW or more
    a,b,c       one of these

A bound that ends in x is a multiple of the field's value in the settings that the search starts from.
A space is a dict from names to such texts without multiples: it goes into JSON and onto a command
line as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

from ..config import Config, Search, format_value, parse_assignments

STAGES = ("encoder", "diffusion")
LOG_FROM = 10  # HIGH/LOW from which a range is searched on a logarithmic scale
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
DIGITS = 4  # significant ones of what is drawn from a range, for a command line that can be read


def search_space(config: Config, wanted: Iterable[str] = ()) -> dict[str, str]:
    """The space that ``--search`` asks for; by default all that the encoder's stage reads.

    Args:
        config: the settings that are varied.
        wanted: each "name[,name]", of fields or of a stage, whose fields they are, or "field=values".

    Raises:
        ValueError: an unknown name, values that do not fit the field, a field that these settings do
            not read, or nothing to search.
        TypeError: a value of another type than the field's, or a field whose values are lists.
    """
    space = {}
    for text in wanted or (STAGES[0],):
        names, equals, values = text.partition("=")
        for name in [names] if equals else names.split(","):
            if name in STAGES and not equals:
                space |= {field: _resolved(config, field) for field in _of_stage(config, name)}
            else:
                space[name] = _resolved(config, name, values if equals else None)
    if not space:
        raise ValueError("these settings leave nothing to search; name fields with --search")
    return space


def of_encoder(config: Config, space: Iterable[str]) -> bool:
    """Whether the encoder's stage is known to read all fields of a space."""
    return all(_search(name) and "encoder" in _stages(config, name) for name in space)


def distributions(space: dict[str, str]) -> dict:
    """The space as Optuna's distributions."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found = {}
    for name, text in space.items():
        values = parse_values(name, text)
        if ":" not in text:
            found[name] = CategoricalDistribution(values)
            continue
        low, high = values
        kind = IntDistribution if isinstance(low, int) else FloatDistribution
        found[name] = kind(low, high, log=low > 0 and high >= LOG_FROM * low)
    return found


def combinations(space: dict[str, str], most: int) -> list[dict] | None:
    """All values of a space together; None if they are more than ``most``, or no finite number."""
    lists, count = [], 1
    for name, text in space.items():
        values = parse_values(name, text)
        if ":" in text:
            low, high = values
            if isinstance(low, float):
                return None
            values = range(low, high + 1)
        lists.append(values)
        count *= len(values)
    if count > most:
        return None
    return [dict(zip(space, values)) for values in itertools.product(*lists)]


def contains(space: dict[str, str], config: Config) -> bool:
    """Whether the space holds what the settings have in its fields."""
    for name, text in space.items():
        value, values = getattr(config, name), parse_values(name, text)
        inside = value in values if ":" not in text else values[0] <= value <= values[1]
        if not inside:
            return False
    return True


def shortened(space: dict[str, str], config: Config, values: dict) -> dict:
    """Drawn values with the floats of ranges shortened, but for the settings' own."""
    return {
        name: value if ":" not in space[name] or value == getattr(config, name) else _short(value)
        for name, value in values.items()
    }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def parse_values(name: str, text: str) -> list:
    """[LOW, HIGH] or the choices, typed by the field; ValueError or TypeError where they do not fit."""
    separator = ":" if ":" in text else ","
    return [parse_assignments((f"{name}={part}",))[name] for part in text.split(separator)]


def _of_stage(config: Config, stage: str) -> list[str]:
    """The fields searched for a stage: of the diffusion those that only it reads."""
    names = [field.name for field in dataclasses.fields(config)]
    names = [name for name in names if _search(name) and not _search(name).asked]
    return [name for name in names if _stages(config, name)[:1] == (stage,)]


def _resolved(config: Config, name: str, text: str | None = None) -> str:
    """The text of a field's values, checked and without multiples."""
    if name not in FIELDS:
        raise ValueError(
            f"cannot search {name!r}: it is neither a setting nor a stage ({', '.join(STAGES)}); "
            f"`hdrm info --preset NAME` lists the settings"
        )
    if isinstance(getattr(config, name), tuple):
        raise TypeError(f"cannot search {name}: its values are lists; --set NAME=VALUE fixes it")
    if _search(name) and not _stages(config, name):
        obstacles = (_obstacle(config, name, stage) for stage in _search(name).read)
        raise ValueError(f"cannot search {name}: {'; '.join(obstacles)}")
    if text is None:
        text = _default(name)
    values = _multiplied(config, name, text)
    for value in values:
        config.replace(**{name: value})  # raises where it does not fit the other settings
    if len(set(values)) < 2 or (":" in text and not _ascend(values)):
        raise ValueError(
            f"cannot search {name} in {text!r}: expected LOW:HIGH or two choices or more, a,b"
        )
    return (":" if ":" in text else ",").join(map(format_value, values))


def _default(name: str) -> str:
    field = FIELDS[name]
    if _search(name):
        return _search(name).values
    if "options" in field.metadata:
        return ",".join(field.metadata["options"])
    if isinstance(field.default, bool):
        return "false,true"
    raise ValueError(f"{name} has no range of its own; give one: --search {name}=LOW:HIGH")


def _multiplied(config: Config, name: str, text: str) -> list:
    """As parse_values, with multiples of the settings' value."""
    own = getattr(config, name)
    if ":" not in text or not isinstance(own, (int, float)) or isinstance(own, bool):
        return parse_values(name, text)
    parts = []
    for part in text.split(":"):
        if part.endswith("x"):
            try:
                number = _short(float(part[:-1]) * own)
            except ValueError:
                raise ValueError(
                    f"cannot search {name}: {part!r} is not a multiple as 5x"
                ) from None
            part = str(round(number) if isinstance(own, int) else number)
        parts.append(part)
    return parse_values(name, ":".join(parts))


def _ascend(values: list) -> bool:
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    return numbers and len(values) == 2 and values[0] < values[1]


def _search(name: str) -> Search | None:
    return FIELDS[name].metadata.get("search")


def _stages(config: Config, name: str) -> tuple[str, ...]:
    """The stages that read a field with these settings."""
    return tuple(stage for stage in _search(name).read if not _obstacle(config, name, stage))


def _obstacle(config: Config, name: str, stage: str) -> str:
    """Why a stage that can read a field does not; empty if it does."""
    if getattr(config, f"{stage}_epochs") == 0:
        return f"{stage}_epochs = 0"
    for key, allowed in _search(name).read[stage].items():
        if getattr(config, key) not in allowed.split("|"):
            return f"the {stage} reads it where {key} = {allowed}, not {getattr(config, key)}"
    return ""
