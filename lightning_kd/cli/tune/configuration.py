"""The config of a study's trials: what ``fit`` takes, with the settings of a trial put in."""

import argparse
import json
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule

from lightning_kd.cli.fit import BuildOnlyCLI
from lightning_kd.cli.tune.space import Space
from lightning_kd.training.module import DistillationModule


class Configuration:
    """The arguments of ``fit`` that a study varies.

    Args:
        args: ``--config`` and other arguments, without the word ``fit``.

    Raises:
        ValueError: If ``fit`` would not take them.
    """

    def __init__(self, args: list[str]) -> None:
        self.args = args
        self._parser = self._read({}).parser

    def with_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The config as plain data, as far as it was given, with some keys set.

        Args:
            settings: Values by config key.

        Raises:
            ValueError: If ``fit`` would not take them.
        """
        try:
            config = self._parser.parse_args(["fit", *self.args, *_arguments(settings)], defaults=False)
        except argparse.ArgumentError as error:
            raise ValueError(one_line(error)) from error
        given = config.fit.clone()
        given.pop("config", None)
        plain: dict[str, Any] = yaml.safe_load(self._parser.dump(Namespace(fit=given), skip_validation=True))["fit"]  # type: ignore[no-untyped-call]
        return plain

    def build(self, settings: dict[str, Any]) -> tuple[DistillationModule, LightningDataModule]:
        """Module and DataModule with some keys set.

        Raises:
            ValueError: If ``fit`` would not take them.
        """
        built = self._read(settings)
        return built.model, built.datamodule

    def _read(self, settings: dict[str, Any]) -> BuildOnlyCLI:
        try:
            return BuildOnlyCLI(["fit", *self.args, *_arguments(settings)])
        except argparse.ArgumentError as error:
            raise ValueError(one_line(error)) from error

    def check(self, space: Space) -> list[tuple[DistillationModule, LightningDataModule]]:
        """Build module and DataModule at each choice and at both ends of each number of a space.

        Raises:
            ValueError: Names the first parameter and value that ``fit`` would not take.
        """
        built = []
        for parameter, values in space.samples():
            settings = space.settings(values)
            try:
                built.append(self.build(settings))
            except Exception as error:
                guilty = self._guilty(space, settings) or parameter.name
                raise ValueError(f"--space: parameter {guilty!r} = {values[guilty]!r}: {one_line(error)}") from error
        return built

    def _guilty(self, space: Space, settings: dict[str, Any]) -> str | None:
        """The parameter whose key is the first that cannot be set."""
        some: dict[str, Any] = {}
        for key, value in settings.items():
            some[key] = value
            try:
                self.build(some)
            except Exception:
                return next(parameter.name for parameter in space.parameters if key in parameter.keys)
        return None


def _arguments(settings: dict[str, Any]) -> list[str]:
    """Settings as one types them: texts as they are, all else as JSON."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def one_line(error: Exception) -> str:
    """What an error says, or what it is where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
