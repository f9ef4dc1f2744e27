"""A network that is read only: one teacher, or a member of an ensemble."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_kd import models
from lightning_kd.io.serialization import is_serializable
from lightning_kd.models.labels import get_label_names
from lightning_kd.models.sharding import shard

Source = str | nn.Module | Mapping[str, Any]

Placement = tuple[torch.device, torch.dtype, DeviceMesh | None]
"""The device, the precision, and the devices among which a network is divided; None = it stays whole."""


def _parse_source(mapping: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The source and the arguments of ``from_pretrained``, as plain data."""
    options = dict(mapping)
    source = options.pop("pretrained", None)
    if source is None:
        raise ValueError(
            f"teacher: a mapping needs the key 'pretrained' (a hub id or folder), got {sorted(mapping)}; the other "
            f"keys "
            "are arguments of from_pretrained, such as dtype or quantization_config; an ensemble has the key 'ensemble'"
        )
    if "combine" in options:
        raise ValueError("teacher.combine: says how an ensemble is combined, and this is one network; leave it out")
    if options and not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            f"teacher.pretrained: must be a hub id or folder, got {type(source).__name__}; a module has been loaded "
            "already, so pass it alone"
        )
    for name, value in options.items():
        config_value = value.to_dict() if hasattr(value, "to_dict") else value
        options[name] = (
            str(config_value).removeprefix("torch.") if isinstance(config_value, torch.dtype) else config_value
        )
        if not is_serializable(options[name]):
            raise ValueError(
                f"teacher.{name}: {type(value).__name__} is no plain data, which a checkpoint could not save; write it "
                "as text, numbers, lists and mappings, or load the network yourself and pass it"
            )
    return os.fspath(source) if isinstance(source, os.PathLike) else source, options


class FrozenModel:
    """Loaded on first use, always in eval mode, never requires a gradient.

    Args:
        source: Hub id or folder; a mapping of such a ``pretrained`` and arguments of ``from_pretrained``; or a module.
        auto_class: Name of the transformers class that loads it.

    Attributes:
        source: The hub id or folder, or the module.
        options: Arguments of ``from_pretrained``, plain data.
        class_permutation: Where each of the student's classes stands among its own, (number of classes,); None = in
            that order.

    Raises:
        ValueError: If a mapping has no ``pretrained`` or holds what is no plain data.
    """

    def __init__(self, source: Source, auto_class: str) -> None:
        mapping = source if isinstance(source, Mapping) else {"pretrained": source}
        self.source: str | nn.Module
        self.source, self.options = _parse_source(mapping)
        self.class_permutation: Tensor | None = None
        self._auto_class = auto_class
        self._model: nn.Module | None = None
        self._placement: Placement | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a spawned process loads its own copy
        return {**self.__dict__, "_model": None}

    @property
    def name(self) -> str:
        """What it is called in messages and model cards."""
        return self.source if isinstance(self.source, str) else type(self.source).__name__

    @property
    def source_config(self) -> str | dict[str, Any] | None:
        """The hub id, folder or mapping, as checkpoints save it; None if a module was given."""
        if not isinstance(self.source, str):
            return None
        return {"pretrained": self.source, **self.options} if self.options else self.source

    @property
    def is_loaded(self) -> bool:
        """Whether its weights are in memory."""
        return self._model is not None

    def load(self) -> nn.Module:
        """The network, loaded on first use."""
        if self._model is None:
            if isinstance(self.source, str):
                self._model = models.load_model(self.source, self._auto_class, "teacher", options=self._load_kwargs())
            else:
                self._model = self.source
            self._model.requires_grad_(False)
            self._model.eval()
            self._move()
        return self._model

    def _load_kwargs(self) -> dict[str, Any]:
        """A quantised network is loaded where it is to be, because it is not moved later."""
        options = self.options
        if "quantization_config" not in options or "device_map" in options or self._placement is None:
            return options
        return {**options, "device_map": {"": self._placement[0]}} if self._placement[0].type != "cpu" else options

    def unload(self) -> None:
        """Forget the network; that of a folder or id is loaded anew when it is needed, another is at hand."""
        self._model = None

    def config(self) -> Any:
        """Its configuration, None where it has none. Does not load weights."""
        if not isinstance(self.source, str):
            return getattr(self.source, "config", None)
        return models.load_config(self.source, "teacher", self.options)

    def label_names(self) -> list[str] | None:
        """The label names; None where it has only placeholders. Does not load weights."""
        return get_label_names(models.get_id2label(self.config()))

    def to(self, placement: Placement) -> None:
        """Settle the device, and the precision of what is loaded from an id or folder, for now or for later."""
        self._placement = placement
        self.class_permutation = None if self.class_permutation is None else self.class_permutation.to(placement[0])
        self._move()

    def _move(self) -> None:
        if self._placement is None or self._model is None:
            return
        device, dtype, mesh = self._placement
        if not models.has_fixed_placement(self._model):
            if isinstance(self.source, str) and "dtype" not in self.options:
                self._model.to(dtype=dtype)
            if mesh is not None:
                shard(self._model, mesh)
            self._model.to(device)
        self._model.eval()  # a network given as a module may have been put in train mode meanwhile

    def num_parameters(self) -> int:
        """Number of parameters; does not load weights that are not loaded yet."""
        if self._model is not None or isinstance(self.source, nn.Module):
            return models.count_model_parameters(self.load())
        return models.count_parameters(self.config(), self._auto_class)

    def permute_classes(self, logits: Tensor) -> Tensor:
        """The logits (N, C) with the classes in the student's order."""
        return logits if self.class_permutation is None else logits[:, self.class_permutation.to(logits.device)]
