"""Search spaces: the config keys to vary and the values to try."""

import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lightning_kd.cli.errors import describe_error
from lightning_kd.cli.tune.parameter import read_parameter
from lightning_kd.cli.yaml_keys import check_unique_keys

T = TypeVar("T")

FIXED_KEYS = {
    "seed_everything": "all trials share the same seeds; use --seeds for their number",
    "trainer.devices": "a trial trains on one device; start one process for each device",
    "trainer.num_nodes": "a trial trains on one device; start one process for each device",
}
"""Config keys that no search space can set, and the reason."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Read ``1e-5`` as a number, as configs do and YAML 1.1 does not."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


@dataclass(frozen=True)
class SearchSpace:
    """A function that asks a trial for values and returns config overrides.

    Attributes:
        function: Takes an ``optuna.Trial``, returns a value for each config key.
        definition: The text that defines the space; studies with different definitions are kept apart.
    """

    function: Callable[[Any], Any]
    definition: Any

    def overrides(self, trial: Any) -> dict[str, Any]:
        """Return a value for each config key, whole objects before their parts.

        Args:
            trial: An ``optuna.Trial``, or ``optuna.trial.FixedTrial(params)`` to repeat known parameters.

        Raises:
            ValueError: If the result is not a mapping of config keys, or sets a key of ``FIXED_KEYS``.
        """
        overrides = self.function(trial)
        if not isinstance(overrides, dict) or not overrides or not all(isinstance(key, str) for key in overrides):
            raise ValueError(f"must return a mapping of config keys to values, got {overrides!r}")
        if fixed := [key for key in FIXED_KEYS if key in overrides]:
            raise ValueError(f"{fixed[0]}: {FIXED_KEYS[fixed[0]]}")
        return dict(sorted(overrides.items(), key=lambda item: item[0].count(".")))

    def check(self, build: Callable[[dict[str, Any]], T]) -> list[T]:
        """Try overrides such that each choice and both ends of each number occur.

        Args:
            build: Called with the overrides; raises if they are invalid.

        Returns:
            What ``build`` returned.

        Raises:
            ValueError: If the function or ``build`` raises; the message names the parameters.
        """
        built: list[T] = []
        presets: list[dict[str, Any]] = [{}]
        tried: set[str] = set()
        for preset in presets:  # grows
            trial = _RecordingTrial(preset)
            try:
                built.append(build(self.overrides(trial)))
            except Exception as error:
                params = ", ".join(f"{name} = {value!r}" for name, value in trial.params.items())
                parts = ("--search_space", params, describe_error(error))
                raise ValueError(": ".join(filter(None, parts))) from error
            for name, values in trial.candidates.items():
                for value in values:
                    if repr((name, value)) not in tried:
                        tried.add(repr((name, value)))
                        if repr(trial.params[name]) != repr(value):
                            presets.append({**trial.params, name: value})
        return built


class _RecordingTrial:
    """Stand-in for ``optuna.Trial`` that returns preset values, or the first, and records the candidates."""

    def __init__(self, preset: dict[str, Any]) -> None:
        self._preset = preset
        self.params: dict[str, Any] = {}
        self.candidates: dict[str, list[Any]] = {}

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> Any:
        return self.suggest_categorical(name, [low, high])

    suggest_int = suggest_float

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.candidates[name] = list(choices)
        self.params[name] = self._preset.get(name, self.candidates[name][0])
        return self.params[name]


def read_space(source: str) -> SearchSpace:
    """Read a search space.

    Args:
        source: A YAML file, or ``file.py:function``.

    Raises:
        ValueError: If it cannot be read; the message names the file, the parameter, the value and the remedy.
    """
    path, _, function = source.rpartition(":")
    is_python = path.endswith(".py")
    file = Path(path if is_python else source).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
        if is_python:
            return SearchSpace(_load_function(file, function), {"function": function, "source": text})
        check_unique_keys(text)
        return _yaml_space(yaml.load(text, _Loader))  # noqa: S506  a SafeLoader
    except OSError as error:
        raise ValueError(
            f"--search_space: cannot read {str(file)!r} ({error.strerror}); name a YAML file or my_space.py:function"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--search_space: {str(file)!r} is not valid YAML: {error}") from error
    except ValueError as error:
        raise ValueError(f"--search_space: {str(file)!r}: {error}") from error


def _load_function(file: Path, name: str) -> Callable[[Any], Any]:
    try:
        function = runpy.run_path(str(file)).get(name)
    except Exception as error:  # raised by the user's code
        raise ValueError(f"cannot be run ({type(error).__name__}: {error})") from error
    if not callable(function):
        raise ValueError(f"has no function {name!r}; define def {name}(trial): ... that returns config overrides")
    return function  # type: ignore[no-any-return]


def _yaml_space(content: Any) -> SearchSpace:
    if not isinstance(content, dict) or not content:
        raise ValueError("must be a mapping of parameters, for instance model.warmup_ratio: {float: [0, 0.2]}")
    parameters = [read_parameter(name, fields, content) for name, fields in content.items()]

    def suggest(trial: Any) -> dict[str, Any]:
        values = {parameter.name: parameter.suggest(trial) for parameter in parameters}
        overrides: dict[str, Any] = {}
        for parameter in parameters:
            for key, value in parameter.overrides(values).items():
                if key in overrides:
                    raise ValueError(f"parameter {parameter.name!r}: {key} is set by two parameters; remove one")
                overrides[key] = value
        return overrides

    return SearchSpace(suggest, content)
