"""A network that is read only: one teacher, or a member of an ensemble."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_kd import models
from lightning_kd.io.serialization import is_plain
from lightning_kd.models.labels import label_names_of
from lightning_kd.models.sharding import shard

Source = str | nn.Module | Mapping[str, Any]

Place = tuple[torch.device, torch.dtype, DeviceMesh | None]
"""The device, the precision, and the devices among which a network is divided; None = it stays whole."""


def _split(mapping: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The source and the arguments of ``from_pretrained``, as plain data."""
    options = dict(mapping)
    source = options.pop("source", None)
    if source is None:
        raise ValueError(
            f"teacher: a mapping needs the key 'source' (a hub id or folder), got {sorted(mapping)}; the other keys "
            "are arguments of from_pretrained, such as dtype or quantization_config; an ensemble has the key 'ensemble'"
        )
    if "combine" in options:
        raise ValueError("teacher.combine: says how an ensemble is combined, and this is one network; leave it out")
    if options and not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"teacher.source: must be a hub id or folder, got {type(source).__name__}; a module has been loaded "
            "already, so pass it alone"
        )
    for name, value in options.items():
        plain = value.to_dict() if hasattr(value, "to_dict") else value
        options[name] = str(plain).removeprefix("torch.") if isinstance(plain, torch.dtype) else plain
        if not is_plain(options[name]):
            raise ValueError(
                f"teacher.{name}: {type(value).__name__} is no plain data, which a checkpoint could not save; write it "
                "as text, numbers, lists and mappings, or load the network yourself and pass it"
            )
    return os.fspath(source) if isinstance(source, os.PathLike) else source, options


class FrozenNetwork:
    """Loaded on first use, always in eval mode, never requires a gradient.

    Args:
        given: Hub id or folder; a mapping of such a ``source`` and arguments of ``from_pretrained``; or a module.
        auto_class: Name of the transformers class that loads it.

    Attributes:
        source: The hub id or folder, or the module.
        options: Arguments of ``from_pretrained``, plain data.
        columns: Where each of the student's classes stands among its own, (number of classes,); None = in that order.

    Raises:
        ValueError: If a mapping has no ``source`` or holds what is no plain data.
    """

    def __init__(self, given: Source, auto_class: str) -> None:
        mapping = given if isinstance(given, Mapping) else {"source": given}
        self.source: str | nn.Module
        self.source, self.options = _split(mapping)
        self.columns: Tensor | None = None
        self._auto_class = auto_class
        self._network: nn.Module | None = None
        self._place: Place | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a spawned process loads its own copy
        return {**self.__dict__, "_network": None}

    @property
    def name(self) -> str:
        """What it is called in messages and model cards."""
        return self.source if isinstance(self.source, str) else type(self.source).__name__

    @property
    def plain_source(self) -> str | dict[str, Any] | None:
        """The hub id, folder or mapping, as checkpoints save it; None if a module was given."""
        if not isinstance(self.source, str):
            return None
        return {"source": self.source, **self.options} if self.options else self.source

    @property
    def loaded(self) -> bool:
        """Whether its weights are in memory."""
        return self._network is not None

    @property
    def network(self) -> nn.Module:
        """The network, loaded on first use."""
        if self._network is None:
            if isinstance(self.source, str):
                self._network = models.load_network(
                    self.source, self._auto_class, "teacher", options=self._placed_options()
                )
            else:
                self._network = self.source
            self._network.requires_grad_(False)
            self._network.eval()
            self._move()
        return self._network

    def _placed_options(self) -> dict[str, Any]:
        """A quantised network is loaded where it is to be, because it is not moved later."""
        options = self.options
        if "quantization_config" not in options or "device_map" in options or self._place is None:
            return options
        return {**options, "device_map": {"": self._place[0]}} if self._place[0].type != "cpu" else options

    def unload(self) -> None:
        """Forget the network; that of a folder or id is loaded anew when it is needed, another is at hand."""
        self._network = None

    def config(self) -> Any:
        """Its configuration, None where it has none. Does not load weights."""
        if not isinstance(self.source, str):
            return getattr(self.source, "config", None)
        return models.load_config(self.source, "teacher", self.options)

    def label_names(self) -> list[str] | None:
        """The label names; None where it has only placeholders. Does not load weights."""
        return label_names_of(models.id_labels(self.config()))

    def to(self, place: Place) -> None:
        """Settle the device, and the precision of what is loaded from an id or folder, for now or for later."""
        self._place = place
        self.columns = None if self.columns is None else self.columns.to(place[0])
        self._move()

    def _move(self) -> None:
        if self._place is None or self._network is None:
            return
        device, dtype, mesh = self._place
        if not models.is_placed(self._network):
            if isinstance(self.source, str) and "dtype" not in self.options:
                self._network.to(dtype=dtype)
            if mesh is not None:
                shard(self._network, mesh)
            self._network.to(device)
        self._network.eval()  # a network given as a module may have been put in train mode meanwhile

    def parameter_count(self) -> int:
        """Number of parameters; does not load weights that are not loaded yet."""
        if self._network is not None or isinstance(self.source, nn.Module):
            return models.parameter_count(self.network)
        return models.parameters_of(self.config(), self._auto_class)

    def in_student_order(self, logits: Tensor) -> Tensor:
        """The logits (N, C) with the classes in the student's order."""
        return logits if self.columns is None else logits[:, self.columns.to(logits.device)]
