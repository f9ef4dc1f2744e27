"""The config of a study: the arguments of ``fit``, with the overrides of a trial applied."""

import json
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule

from lightning_kd.cli.fit import BuildOnlyCLI
from lightning_kd.training.module import DistillationModule


class Configuration:
    """The arguments of ``fit`` that a study varies.

    Args:
        args: ``--config`` and other arguments, without the word ``fit``.

    Raises:
        jsonargparse.ArgumentError: If ``fit`` rejects them.
    """

    def __init__(self, args: list[str]) -> None:
        self.args = args
        self._parser = BuildOnlyCLI(self._to_arguments({})).parser

    def with_overrides(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Return the part of the config that is set explicitly, without defaults, as plain data.

        Args:
            overrides: Values by config key.

        Raises:
            jsonargparse.ArgumentError: If ``fit`` rejects them.
        """
        explicit = self._parser.parse_args(self._to_arguments(overrides), defaults=False).fit
        explicit.pop("config", None)
        text = self._parser.dump(Namespace(fit=explicit), skip_validation=True)  # type: ignore[no-untyped-call]
        plain: dict[str, Any] = yaml.safe_load(text)["fit"]
        return plain

    def build(self, overrides: dict[str, Any]) -> tuple[DistillationModule, LightningDataModule]:
        """Return module and DataModule.

        Args:
            overrides: Values by config key.

        Raises:
            jsonargparse.ArgumentError: If ``fit`` rejects them.
        """
        cli = BuildOnlyCLI(self._to_arguments(overrides))
        return cli.model, cli.datamodule

    def _to_arguments(self, overrides: dict[str, Any]) -> list[str]:
        """Return the command line: overrides that are strings as they are, all else as JSON."""
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in overrides.items()}
        return ["fit", *self.args, *(f"--{key}={text}" for key, text in texts.items())]
