"""The config of a study: the arguments of ``fit``, with the overrides of a trial applied."""

import argparse
import json
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule

from lightning_kd.cli.fit import BuildOnlyCLI
from lightning_kd.cli.tune.space import SearchSpace
from lightning_kd.training.module import DistillationModule


class Configuration:
    """The arguments of ``fit`` that a study varies.

    Args:
        args: ``--config`` and other arguments, without the word ``fit``.

    Raises:
        ValueError: If ``fit`` rejects them.
    """

    def __init__(self, args: list[str]) -> None:
        self.args = args
        self._parser = self._parse({}).parser

    def with_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Return the part of the config that is set explicitly, without defaults, as plain data.

        Args:
            overrides: Values by config key.

        Raises:
            ValueError: If ``fit`` rejects them.
        """
        try:
            config = self._parser.parse_args(["fit", *self.args, *_to_arguments(overrides)], defaults=False)
        except argparse.ArgumentError as error:
            raise ValueError(to_one_line(error)) from error
        explicit = config.fit.clone()
        explicit.pop("config", None)
        text = self._parser.dump(Namespace(fit=explicit), skip_validation=True)  # type: ignore[no-untyped-call]
        plain: dict[str, Any] = yaml.safe_load(text)["fit"]
        return plain

    def check(self, space: SearchSpace) -> list[tuple[DistillationModule, LightningDataModule]]:
        """Build module and DataModule at each choice and at both ends of each number of a space.

        Raises:
            ValueError: If one cannot be built; the message names the parameters.
        """
        built: list[tuple[DistillationModule, LightningDataModule]] = []
        params: dict[str, Any] = {}
        samples = space.samples()
        while True:
            try:
                params, overrides = next(samples)
                cli = self._parse(overrides)
            except StopIteration:
                return built
            except Exception as error:
                values = ", ".join(f"{name} = {value!r}" for name, value in params.items())
                raise ValueError(f"--search_space: {values}: {to_one_line(error)}") from error
            built.append((cli.model, cli.datamodule))

    def _parse(self, overrides: dict[str, Any]) -> BuildOnlyCLI:
        try:
            return BuildOnlyCLI(["fit", *self.args, *_to_arguments(overrides)])
        except argparse.ArgumentError as error:
            raise ValueError(to_one_line(error)) from error


def _to_arguments(overrides: dict[str, Any]) -> list[str]:
    """Return overrides as command-line arguments: strings as they are, all else as JSON."""
    return [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in overrides.items()]


def to_one_line(error: Exception) -> str:
    """Return the message of an error in one line, or its class name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
