"""One parameter of a search space in YAML."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import FloatDistribution, IntDistribution

from lightning_kd.cli.tune.expressions import Expression

KINDS = ("float", "int", "choices")
FIELDS = (*KINDS, "log", "step", "key", "set")


@dataclass(frozen=True)
class Parameter:
    """One entry of a search space.

    Attributes:
        name: Name of the parameter in Optuna and in the results.
        kind: One of ``KINDS``.
        bounds: Smallest and largest value of a number.
        options: Arguments ``log`` and ``step`` of Optuna's ``suggest_float`` or ``suggest_int``.
        choices: The values to choose from, by the name that is passed to Optuna.
        targets: A constant or an expression for each config key. Empty if each choice is a mapping of config keys.
    """

    name: str
    kind: str
    bounds: list[Any]
    options: dict[str, Any]
    choices: dict[Any, Any]
    targets: dict[str, Any]

    def suggest(self, trial: Any) -> Any:
        """Return the value that an ``optuna.Trial`` suggests; of named choices, the value that the name stands for."""
        if self.kind == "choices":
            return self.choices[trial.suggest_categorical(self.name, list(self.choices))]
        suggest = trial.suggest_float if self.kind == "float" else trial.suggest_int
        return suggest(self.name, *self.bounds, **self.options)

    def overrides(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value of each config key that the parameter sets.

        Args:
            values: Value of each parameter of the space by name.

        Raises:
            ValueError: If an expression cannot be computed.
        """
        if not self.targets:
            return dict(values[self.name])
        try:
            return {k: value(values) if callable(value) else value for k, value in self.targets.items()}
        except ValueError as error:
            raise ValueError(f"parameter {self.name!r}: {error}") from error


def read_parameter(name: Any, fields: Any, names: Collection[str]) -> Parameter:
    """Read one entry of a search space.

    Args:
        name: Key of the entry.
        fields: Value of the entry, with ``FIELDS``.
        names: Names of all parameters of the space.

    Raises:
        ValueError: If the entry is malformed; the message names the parameter, the value and the remedy.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"parameter {name!r}: the name must be a string; put it in quotes")
    try:
        return _read_fields(name, fields, names)
    except ValueError as error:
        raise ValueError(f"parameter {name!r}: {error}") from error


def _read_fields(name: str, fields: Any, names: Collection[str]) -> Parameter:
    if not isinstance(fields, dict):
        raise ValueError(f"must be a mapping such as {{float: [0, 1], key: ...}}, got {fields!r}")
    if "when" in fields:
        raise ValueError("conditions need a Python function; see --search_space my_space.py:space")
    if unknown := [field for field in fields if field not in FIELDS]:
        raise ValueError(f"unknown field {unknown[0]!r}; use {', '.join(FIELDS)}")
    kinds = [kind for kind in KINDS if kind in fields]
    if len(kinds) != 1:
        raise ValueError(f"give exactly one of {', '.join(KINDS)}, got {', '.join(kinds) or 'none'}")
    kind, options = kinds[0], {field: fields[field] for field in ("log", "step") if field in fields}
    if kind == "choices":
        if options:
            raise ValueError("log and step apply to float and int only; remove them")
        bounds, choices = [], _read_choices(fields["choices"])
    else:
        bounds, choices = _read_bounds(kind, fields[kind], options), {}
    return Parameter(name, kind, bounds, options, choices, _read_targets(name, fields, choices, names))


def _read_bounds(kind: str, bounds: Any, options: dict[str, Any]) -> list[Any]:
    """Return the bounds; Optuna checks their order, ``log`` and ``step``."""
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise ValueError(f"{kind} must be two numbers, [low, high], got {bounds!r}")
    step = options.get("step")
    for number in bounds if step is None else (*bounds, step):
        is_number = type(number) is int or (kind == "float" and type(number) is float and math.isfinite(number))
        if not is_number:
            raise ValueError(f"{number!r} is not {'an integer' if kind == 'int' else 'a finite number'}")
    if not isinstance(options.get("log", False), bool):
        raise ValueError(f"log must be true or false, got {options['log']!r}")
    distribution = FloatDistribution if kind == "float" else IntDistribution
    distribution(*bounds, **options)
    return bounds


def _read_choices(choices: Any) -> dict[Any, Any]:
    if isinstance(choices, list):
        if nested := [value for value in choices if isinstance(value, (dict, list))]:
            raise ValueError(f"the choice {nested[0]!r} needs a name; write choices: {{name: value, ...}}")
        if len(set(choices)) < len(choices):  # 1 and true are equal in Python
            raise ValueError(f"{choices!r} has equal choices; remove one, or name them: {{name: value, ...}}")
        choices = {value: value for value in choices}
    if not isinstance(choices, dict):
        raise ValueError(f"choices must be a list, or a mapping of names to values, got {choices!r}")
    if len(choices) < 2:
        raise ValueError(f"choices needs at least two values, got {len(choices)}; put a single value into the config")
    return choices


def _read_targets(name: str, fields: dict[str, Any], choices: dict[Any, Any], names: Collection[str]) -> dict[str, Any]:
    if "key" in fields and "set" in fields:
        raise ValueError("give key (one config key) or set (several), not both")
    if "set" in fields:
        targets = fields["set"]
        if not isinstance(targets, dict) or not targets or not all(isinstance(key, str) for key in targets):
            raise ValueError(f"set must be a mapping of config keys to expressions, got {targets!r}")
        return {key: Expression(value, names) if isinstance(value, str) else value for key, value in targets.items()}
    if "key" not in fields and "." not in name:
        if choices and all(isinstance(choice, dict) and all(map(_is_key, choice)) for choice in choices.values()):
            return {}
        raise ValueError("sets nothing; add key: <config key>, or set: {<config key>: <expression>, ...}")
    key = fields.get("key", name)
    if not _is_key(key):
        raise ValueError(f"key must be a config key such as model.warmup_ratio, got {key!r}")
    return {key: lambda values: values[name]}


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and bool(key)
