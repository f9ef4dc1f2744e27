"""A search space: which config keys are tried with which values."""

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from lightning_kd.cli.tune.expressions import Expression
from lightning_kd.cli.tune.parameter import Parameter, Suggests, among, read_parameter

FIXED = {
    "seed_everything": "all trials have the same seeds; leave it out, --seeds says how many",
    "trainer.devices": "a trial trains on one device; leave it out, and start one process for each",
    "trainer.num_nodes": "a trial trains on one device; leave it out, and start one process for each",
}
"""Config keys that no parameter can set, and why."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads ``1e-5`` as a number, as configs do and YAML 1.1 does not, and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.append(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class Space:
    """The parameters of a study.

    Attributes:
        names: Of the parameters, in the order given.
        parameters: Those first on which others depend.

    Args:
        parameters: By name; at least one.

    Raises:
        ValueError: If a condition or an expression names what there is not, conditions go round in a circle, two
            parameters set the same key, or one sets what is the same for all trials.
    """

    def __init__(self, parameters: dict[str, Parameter]) -> None:
        if not parameters:
            raise ValueError("there is no parameter; add one, for instance model.warmup_ratio: {float: [0, 0.2]}")
        for parameter in parameters.values():
            _check_conditions(parameter, parameters)
        graph = {parameter.name: list(parameter.when) for parameter in parameters.values()}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            raise ValueError(f"when: {' -> '.join(error.args[1])} go round in a circle; leave one out") from error
        self.names = list(parameters)
        self.parameters: list[Parameter] = []
        for parameter in parameters.values():
            self._place(parameter, parameters)
        for parameter in self.parameters:
            _check_expressions(parameter, parameters)
            if fixed := [key for key in FIXED if key in parameter.keys]:
                raise ValueError(f"parameter {parameter.name!r}: {fixed[0]}: {FIXED[fixed[0]]}")
        for one, other in combinations(self.parameters, 2):
            if (both := one.keys & other.keys) and not _exclusive(one, other):
                raise ValueError(
                    f"parameter {other.name!r}: {min(both)} is also set by {one.name!r}; set it by one of them, or "
                    "give them conditions (when) that exclude each other"
                )

    def _place(self, parameter: Parameter, parameters: dict[str, Parameter]) -> None:
        for name in parameter.when:
            self._place(parameters[name], parameters)
        if parameter not in self.parameters:
            self.parameters.append(parameter)

    def plain(self) -> dict[str, Any]:
        """All of it as plain data, to tell whether another is the same."""
        return {parameter.name: parameter.plain() for parameter in self.parameters}

    @property
    def conditional(self) -> bool:
        """Whether some parameter counts only sometimes."""
        return any(parameter.when for parameter in self.parameters)

    def suggest(self, trial: Suggests) -> dict[str, Any]:
        """The values that Optuna proposes, of the parameters that count."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.counts(values):
                values[parameter.name] = parameter.suggest(trial)
        return values

    def settings(self, values: dict[str, Any]) -> dict[str, Any]:
        """What to set, by config key; whole objects before parts of them.

        Args:
            values: Of the parameters that count.

        Raises:
            ValueError: Names the parameter whose expression cannot be computed.
        """
        counting = [parameter for parameter in self.parameters if parameter.name in values]
        meant = {p.name: p.choices[values[p.name]] if p.choices else values[p.name] for p in counting}
        settings: dict[str, Any] = {}
        for parameter in counting:
            settings.update(parameter.settings(meant))
        return dict(sorted(settings.items(), key=lambda item: item[0].count(".")))

    def samples(self) -> Iterator[tuple[Parameter, dict[str, Any]]]:
        """Values to try the config with: each choice and both ends of each number occur, others at their first."""
        seen: list[dict[str, Any]] = []
        for parameter in self.parameters:
            for end in parameter.ends:
                wanted = {parameter.name: end, **self._conditions(parameter)}
                values: dict[str, Any] = {}
                for each in self.parameters:
                    if each.counts(values):
                        values[each.name] = wanted.get(each.name, each.ends[0])
                if parameter.name in values and values not in seen:
                    seen.append(values)
                    yield parameter, values

    def _conditions(self, parameter: Parameter) -> dict[str, Any]:
        """The first values of others with which a parameter counts."""
        needed: dict[str, Any] = {}
        by_name = {each.name: each for each in self.parameters}
        for name, wanted in parameter.when.items():
            needed |= {**self._conditions(by_name[name]), name: wanted[0]}
        return needed


def read_space(file: Path) -> Space:
    """Read a search space from YAML.

    Raises:
        ValueError: Names the file, the parameter, the value and the remedy.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except OSError as error:
        raise ValueError(f"--space: cannot read {str(file)!r} ({error.strerror}); name a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--space: {str(file)!r} is no YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"--space: {str(file)!r} must be a mapping of parameter names to what they may be")
    try:
        return Space({name: read_parameter(name, fields) for name, fields in content.items()})
    except ValueError as error:
        raise ValueError(f"--space: {str(file)!r}: {error}") from error


def _check_conditions(parameter: Parameter, parameters: dict[str, Parameter]) -> None:
    for name, wanted in parameter.when.items():
        where = f"parameter {parameter.name!r}: when"
        if name not in parameters:
            raise ValueError(f"{where}: there is no parameter {name!r}; known are {', '.join(parameters)}")
        if parameters[name].kind != "choices":
            raise ValueError(f"{where}: {name!r} is a number; only parameters with choices can be conditions")
        for value in wanted:
            if not among(value, list(parameters[name].choices)):
                choices = ", ".join(map(str, parameters[name].choices))
                raise ValueError(f"{where}: {name!r} is never {value!r}; its choices are {choices}")


def _check_expressions(parameter: Parameter, parameters: dict[str, Parameter]) -> None:
    for key, value in parameter.sets.items():
        for name in sorted(value.names) if isinstance(value, Expression) else []:
            where = f"parameter {parameter.name!r}: set: {key}"
            if name not in parameters:
                known = ", ".join(parameters)
                raise ValueError(f"{where}: there is no parameter {name!r}; known are {known}; for a text use choices")
            missing = {c: w for c, w in parameters[name].when.items() if parameter.when.get(c) != w}
            if name != parameter.name and missing:
                raise ValueError(f"{where}: {name!r} does not always count; give this parameter its conditions, too")


def _exclusive(one: Parameter, other: Parameter) -> bool:
    """Whether two parameters never count together."""
    return any(
        not any(among(value, other.when[name]) for value in wanted)
        for name, wanted in one.when.items()
        if name in other.when
    )
