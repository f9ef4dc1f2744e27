"""A frozen model of a teacher."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_kd import models
from lightning_kd.models.labels import get_label_names
from lightning_kd.models.sharding import shard

Source = str | nn.Module | Mapping[str, Any]

Placement = tuple[torch.device, torch.dtype, DeviceMesh | None]
"""Device, dtype, and the devices to shard over (None = not sharded)."""


class FrozenModel:
    """A model that is loaded on first use, always in eval mode, and never requires gradients.

    Args:
        source: Hub id or folder; a mapping with the key ``pretrained`` (a Hub id or folder) and arguments of
            ``from_pretrained``; or a module.
        auto_class: Name of the transformers class that loads it.
        requires_head: If True, a model from a Hub id or folder must have the weights of its head.

    Attributes:
        source: The Hub id or folder, or the module.
        options: Arguments of ``from_pretrained``, serializable.
        class_permutation: Index of each of the student's classes among the model's classes, (number of classes,);
            None = same order.

    Raises:
        ValueError: If a mapping has no ``pretrained`` or has an option that cannot be serialized.
    """

    def __init__(self, source: Source, auto_class: str, requires_head: bool = True) -> None:
        if isinstance(source, Mapping) and "combine" in source:
            raise ValueError("teacher.combine: only for an ensemble, but this is a single model; remove it")
        self.source: str | nn.Module
        self.source, self.options = models.parse_pretrained(source, "teacher")
        self.class_permutation: Tensor | None = None
        self._auto_class = auto_class
        self._requires_head = requires_head
        self._model: nn.Module | None = None
        self._placement: Placement | None = None

    def __getstate__(self) -> dict[str, Any]:
        # a spawned process loads the model again
        return {**self.__dict__, "_model": None}

    @property
    def name(self) -> str:
        """The Hub id or folder, or the class name of the module, for messages and model cards."""
        return self.source if isinstance(self.source, str) else type(self.source).__name__

    @property
    def source_config(self) -> str | dict[str, Any] | None:
        """The Hub id, folder or mapping to save in checkpoints; None for a module."""
        if not isinstance(self.source, str):
            return None
        return {"pretrained": self.source, **self.options} if self.options else self.source

    @cached_property
    def commit(self) -> str | None:
        """The commit of a Hub id from which everything is loaded; None for a folder or a module."""
        return models.find_commit(self.source, "teacher", self.options) if isinstance(self.source, str) else None

    @property
    def pinned_options(self) -> dict[str, Any]:
        """The options, with the commit as ``revision``."""
        return self.options if self.commit is None else {**self.options, "revision": self.commit}

    @property
    def is_loaded(self) -> bool:
        """True if the weights are in memory."""
        return self._model is not None

    def load(self) -> nn.Module:
        """Return the model, and load it first if necessary."""
        if self._model is None:
            if isinstance(self.source, str):
                self._model = models.load_model(
                    self.source, self._auto_class, "teacher", self._load_kwargs(), self._requires_head
                )
            else:
                self._model = self.source
            self._freeze_and_move(self._model)
        return self._model

    def _load_kwargs(self) -> dict[str, Any]:
        """Return the options, with the target device for a quantized model, which cannot be moved later."""
        if self._placement is None or self._placement[0].type == "cpu" or "quantization_config" not in self.options:
            return self.pinned_options
        return {"device_map": {"": self._placement[0]}, **self.pinned_options}

    def unload(self) -> None:
        """Release the model; the next ``load`` reads it again from its folder or Hub id."""
        self._model = None

    def config(self) -> Any:
        """Return the configuration without loading weights, or None if a module has none."""
        if not isinstance(self.source, str):
            return models.get_config(self.source)
        return models.load_config(self.source, "teacher", self.pinned_options)

    def label_names(self) -> list[str] | None:
        """Return the label names without loading weights, or None if they are only placeholders."""
        return get_label_names(models.get_id2label(self.config()))

    def to(self, placement: Placement) -> None:
        """Move the model now, or when it is loaded; the dtype applies only to a model from a Hub id or folder."""
        self._placement = placement
        if self.class_permutation is not None:
            self.class_permutation = self.class_permutation.to(placement[0])
        if self._model is not None:
            self._freeze_and_move(self._model)

    def _freeze_and_move(self, model: nn.Module) -> None:
        model.requires_grad_(False).eval()  # also if loaded before: the user may have put a module in train mode since
        if self._placement is None or models.has_fixed_placement(model):
            return
        device, dtype, mesh = self._placement
        if isinstance(self.source, str) and "dtype" not in self.options:
            model.to(dtype=dtype)
        if mesh is not None:
            shard(model, mesh)
        model.to(device)

    def num_parameters(self) -> int:
        """Return the number of parameters without loading weights."""
        if self._model is not None or isinstance(self.source, nn.Module):
            return models.count_parameters(self.load())
        trust_remote_code = self.options.get("trust_remote_code", False)
        return models.count_parameters(models.build_on_meta(self.config(), self._auto_class, trust_remote_code))

    def permute_classes(self, logits: Tensor) -> Tensor:
        """Return the logits (N, C) with the classes in the student's order."""
        return logits if self.class_permutation is None else logits[:, self.class_permutation.to(logits.device)]
