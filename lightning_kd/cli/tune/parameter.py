"""One parameter of a search space: what it may be, what it sets, and when it counts."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import Any, Protocol

from lightning_kd.cli.tune.expressions import Expression

KINDS = ("float", "int", "choices")
FIELDS = (*KINDS, "log", "step", "key", "set", "when")
Scalar = str | int | float | bool | None


class Suggests(Protocol):
    """What a parameter asks of a trial of Optuna's."""

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> float:
        """A number between two others."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int:
        """A whole number between two others."""

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Any:
        """One of several values."""


@dataclass(frozen=True)
class Parameter:
    """One entry of a search space, checked by itself.

    Attributes:
        name: How it is called in reports.
        kind: One of ``KINDS``.
        low: Least value of a number.
        high: Largest value of a number.
        step: Distance of two values of a number; None = any.
        log: Whether a number is drawn on a logarithmic scale.
        choices: What it may be, by name; where nothing is named, a value stands for itself.
        sets: What it sets: a constant, or an expression, by config key. Empty where each choice is a mapping of keys.
        when: Names of choice parameters, and the values of each with which this one counts.
    """

    name: str
    kind: str
    low: float
    high: float
    step: float | None
    log: bool
    choices: dict[Scalar, Any]
    sets: dict[str, Any]
    when: dict[str, list[Scalar]]

    @property
    def ends(self) -> list[Any]:
        """All choices, or the least and the largest number."""
        return list(self.choices) if self.kind == "choices" else [self.low, self.high]

    @property
    def keys(self) -> set[str]:
        """All config keys that it may set."""
        return set(self.sets) or {key for choice in self.choices.values() for key in choice}

    def plain(self) -> dict[str, Any]:
        """All of it as plain data."""
        sets = {key: getattr(value, "text", value) for key, value in self.sets.items()}
        choices = [[name, value] for name, value in self.choices.items()]
        return {**asdict(replace(self, choices={}, sets={})), "choices": choices, "sets": sets}

    def suggest(self, trial: Suggests) -> Any:
        """Let Optuna choose."""
        if self.kind == "float":
            return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)
        if self.kind == "int":
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_categorical(self.name, list(self.choices))

    def counts(self, values: Mapping[str, Any]) -> bool:
        """Whether it counts beside the values of the others."""
        return all(name in values and among(values[name], wanted) for name, wanted in self.when.items())

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What it sets, by config key.

        Args:
            values: Of all parameters that count, not the names of choices but what they stand for.

        Raises:
            ValueError: If an expression cannot be computed.
        """
        if not self.sets:
            return dict(values[self.name])
        try:
            return {key: value(values) if isinstance(value, Expression) else value for key, value in self.sets.items()}
        except ValueError as error:
            raise ValueError(f"parameter {self.name!r}: {error}") from error


def among(value: Any, wanted: list[Any]) -> bool:
    """Like ``in``, but True is not 1."""
    return any(type(value) is type(other) and value == other for other in wanted)


def read_parameter(name: Any, fields: Any) -> Parameter:
    """Read an entry of a search space.

    Raises:
        ValueError: Names the parameter, the value and the remedy.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"parameter {name!r}: the name must be a text; put it in quotes")
    where = f"parameter {name!r}"
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: must be a mapping such as {{float: [0, 1], key: ...}}, got {fields!r}")
    if unknown := [field for field in fields if field not in FIELDS]:
        raise ValueError(f"{where}: {unknown[0]!r} is not known; use {', '.join(FIELDS)}")
    kinds = [kind for kind in KINDS if kind in fields]
    if len(kinds) != 1:
        raise ValueError(f"{where}: give exactly one of {', '.join(KINDS)}, got {', '.join(kinds) or 'none'}")
    kind = kinds[0]
    low, high, step, log = _numbers(where, kind, fields)
    choices = _choices(where, fields["choices"]) if kind == "choices" else {}
    sets = _sets(where, name, fields, choices)
    return Parameter(name, kind, low, high, step, log, choices, sets, _when(where, fields.get("when", {})))


def _numbers(where: str, kind: str, fields: dict[str, Any]) -> tuple[float, float, float | None, bool]:
    log, step = fields.get("log", False), fields.get("step")
    if kind == "choices":
        if "log" in fields or "step" in fields:
            raise ValueError(f"{where}: log and step belong to float and int; leave them out of choices")
        return 0, 0, None, False
    bounds = fields[kind]
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise ValueError(f"{where}: {kind} must be two numbers, [least, largest], got {bounds!r}")
    for number in bounds if step is None else [*bounds, step]:
        whole = type(number) is int
        if not (whole if kind == "int" else whole or (type(number) is float and math.isfinite(number))):
            raise ValueError(f"{where}: {number!r} is no {'whole' if kind == 'int' else 'finite'} number")
    low, high = bounds
    if low >= high:
        raise ValueError(f"{where}: {kind}: [{low}, {high}] is empty; write the smaller bound first")
    if not isinstance(log, bool):
        raise ValueError(f"{where}: log must be true or false, got {log!r}")
    if log and low <= 0:
        raise ValueError(f"{where}: log needs a least value above 0, got {low}; raise it, or leave log out")
    if log and step is not None:
        raise ValueError(f"{where}: log and step exclude each other; leave one out")
    if step is not None and not 0 < step <= high - low:
        raise ValueError(f"{where}: step must be above 0 and at most {high - low}, got {step}")
    if step is not None and (last := _last_step(low, high, step)) != high:
        raise ValueError(f"{where}: {high} is no whole number of steps of {step} above {low}; write [{low}, {last}]")
    return low, high, step, log


def _last_step(low: float, high: float, step: float) -> float:
    """The largest value that is proposed; in decimal arithmetic, as three steps of 0.1 are no 0.3 otherwise."""
    least, distance = Decimal(str(low)), Decimal(str(step))
    last = least + (Decimal(str(high)) - least) // distance * distance
    return int(last) if type(low) is type(step) is int else float(last)


def _choices(where: str, given: Any) -> dict[Scalar, Any]:
    if isinstance(given, dict):
        named = given
    elif isinstance(given, list):
        if nested := [value for value in given if isinstance(value, (dict, list))]:
            raise ValueError(f"{where}: the choice {nested[0]!r} needs a name; write choices: {{name: value, ...}}")
        if any(among(value, given[:place]) for place, value in enumerate(given)):
            raise ValueError(f"{where}: a choice is named twice in {given!r}; leave it out once")
        if len(set(given)) < len(given):
            raise ValueError(f"{where}: {given!r} mixes numbers and truth values; name them: {{name: value, ...}}")
        named = {value: value for value in given}
    else:
        raise ValueError(f"{where}: choices must be a list, or a mapping of names to values, got {given!r}")
    if len(named) < 2:
        raise ValueError(f"{where}: choices needs at least two values, got {len(named)}; put one alone into the config")
    return named


def _sets(where: str, name: str, fields: dict[str, Any], choices: dict[Scalar, Any]) -> dict[str, Any]:
    if "key" in fields and "set" in fields:
        raise ValueError(f"{where}: give key (one config key) or set (several), not both")
    if "key" in fields:
        if not isinstance(fields["key"], str) or not fields["key"]:
            raise ValueError(f"{where}: key must be a config key such as model.warmup_ratio, got {fields['key']!r}")
        return {fields["key"]: _Itself(name)}
    if "set" in fields:
        given = fields["set"]
        if not isinstance(given, dict) or not given or not all(isinstance(key, str) for key in given):
            raise ValueError(f"{where}: set must be a mapping of config keys to expressions, got {given!r}")
        try:
            return {key: Expression(value) if isinstance(value, str) else value for key, value in given.items()}
        except ValueError as error:
            raise ValueError(f"{where}: set: {error}") from error
    if choices and all(isinstance(choice, dict) for choice in choices.values()) and "." not in name:
        if any(not isinstance(key, str) for choice in choices.values() for key in choice):
            raise ValueError(f"{where}: without key and set, each choice is a mapping of config keys to values")
        return {}
    if "." not in name:
        raise ValueError(f"{where}: sets nothing; add key: <config key>, or set: {{<config key>: <expression>, ...}}")
    return {name: _Itself(name)}


class _Itself(Expression):
    """A parameter's own value, also where its name is no word of an expression."""

    def __init__(self, name: str) -> None:
        self.text = name
        self.names = frozenset({name})

    def __call__(self, values: Mapping[str, Any]) -> Any:
        return values[self.text]


def _when(where: str, given: Any) -> dict[str, list[Scalar]]:
    if not isinstance(given, dict):
        raise ValueError(f"{where}: when must be a mapping such as {{optimizer: sgd}}, got {given!r}")
    if empty := [name for name, wanted in given.items() if wanted == []]:
        raise ValueError(f"{where}: when: {empty[0]!r} has no value; name at least one, or leave the condition out")
    return {name: wanted if isinstance(wanted, list) else [wanted] for name, wanted in given.items()}
