"""The teacher: frozen models outside the module tree."""

from dataclasses import replace
from typing import Any, Protocol

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_kd import models
from lightning_kd.models.labels import align_labels
from lightning_kd.outputs import TEACHER_INPUTS, Batch, Outputs, Requirement, with_inputs
from lightning_kd.teachers.ensemble import combine_heads, parse_ensemble
from lightning_kd.teachers.fingerprint import fingerprint
from lightning_kd.teachers.frozen_model import FrozenModel, Source


class ModelRunner(Protocol):
    """Interface through which a ``Teacher`` loads and runs its models; every ``Task`` implements it."""

    @property
    def auto_class(self) -> str:
        """Name of the transformers class that loads a model, such as ``AutoModelForMaskedLM``."""

    def run(self, model: nn.Module, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Run a model on a batch.

        Args:
            model: The model.
            batch: The batch.
            requires: Intermediate outputs to return beside the heads.
        """

    def align_to_student(self, outputs: Outputs, teacher_inputs: Batch, batch: Batch) -> Outputs:
        """Convert the outputs of a model with another tokenization to the student's tokens.

        Args:
            outputs: Outputs for ``teacher_inputs``.
            teacher_inputs: The batch in the teacher's tokenization.
            batch: The batch in the student's tokenization.
        """


class Teacher:
    """A frozen model, or an ensemble of frozen models.

    Deliberately not an ``nn.Module``, so that Lightning does not save, optimize, average or replicate it. Models are
    loaded on first use, always in eval mode, and never require gradients.

    Args:
        source: Hub id or folder; a mapping with the key ``pretrained`` (a Hub id or folder) and arguments of
            ``from_pretrained``; a module; a list of these (an ensemble, logits averaged); or ``{ensemble: [...],
            combine: ...}``, see ``ensemble.combine_logits``.
        task: Loads and runs the models, usually a ``Task``.
        requires_head: If False, nothing reads the models' logits, so that their checkpoints may lack a head.

    Attributes:
        models: The models.
        combine: How an ensemble is combined.
        task: Loads and runs the models.

    Raises:
        ValueError: If the list is empty, ``combine`` is unknown, or a mapping has no ``pretrained`` or has an option
            that cannot be serialized.
    """

    def __init__(self, source: Source | list[Any], task: ModelRunner, requires_head: bool = True) -> None:
        sources, self.combine = parse_ensemble(source)
        self.models = [FrozenModel(item, task.auto_class, requires_head) for item in sources]
        self.task = task
        self._mesh: DeviceMesh | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Teacher":
        # callbacks such as weight averaging copy the whole module; the teacher is shared, not copied
        return self

    @property
    def names(self) -> list[str]:
        """The name of each model, for messages and model cards."""
        return [model.name for model in self.models]

    @property
    def role(self) -> str:
        """The teacher in messages, such as ``teacher 'bert-base + roberta-base'``."""
        return f"teacher {' + '.join(self.names)!r}"

    @property
    def source_config(self) -> list[Any] | dict[str, Any] | None:
        """The Hub ids, folders and mappings to save in checkpoints; None if one of them is a module."""
        sources = [model.source_config for model in self.models]
        if None in sources:
            return None
        return sources if self.combine == "logits" else {"ensemble": sources, "combine": self.combine}

    @property
    def source_repr(self) -> str:
        """Text that identifies the sources; a module is represented by its class name only."""
        return repr((self.source_config or self.names, self.combine))

    def fingerprints(self) -> list[str]:
        """Return what identifies the weights and configuration of each model, see ``fingerprint``."""
        return [fingerprint(model.source, model.pinned_options) for model in self.models]

    def load(self) -> list[nn.Module]:
        """Return the models, and load them first if necessary."""
        return [model.load() for model in self.models]

    def unload(self) -> None:
        """Release the models; the next ``load`` reads them again from their folders or Hub ids."""
        for model in self.models:
            model.unload()

    def label_names(self) -> list[str] | None:
        """Return the label names of the first model without loading weights, or None if they are only placeholders."""
        return self.models[0].label_names()

    def align_classes(self, label_names: list[str], ignore_mismatch: bool) -> None:
        """Reorder the logits of each model from its label order to ``label_names``.

        A model with placeholder names (``LABEL_0``, ...) is assumed to have that order already.

        Args:
            label_names: The student's label names.
            ignore_mismatch: If True, treat the same number of different names as the same labels in the same order.

        Raises:
            ValueError: If a model has a different label set and ``ignore_mismatch`` is False, or a different number of
                labels.
        """
        for model in self.models:
            model_labels, role = model.label_names(), f"teacher {model.name!r}"
            if model_labels is not None:
                model.class_permutation = align_labels(
                    label_names, model_labels, f"student and {role}", "train a teacher on these labels", ignore_mismatch
                )
                continue
            models.check_num_labels(model.config(), len(label_names), role)
            if model.config() is not None:  # a module without a configuration cannot name labels
                rank_zero_warn(f"{role} does not name its labels; assuming the student's order")

    def check_num_labels(self, num_labels: int) -> None:
        """Raise a ValueError if the head of a model has a different number of labels."""
        for model in self.models:
            models.check_num_labels(model.config(), num_labels, f"teacher {model.name!r}")

    def to(self, device: torch.device, dtype: torch.dtype, mesh: DeviceMesh | None = None) -> None:
        """Move the models now, or when they are loaded.

        Quantized models and those with a ``device_map`` stay as and where they were loaded.

        Args:
            device: The student's device.
            dtype: The student's dtype; applies only to models from a Hub id or folder without the option ``dtype``.
            mesh: Devices over which to shard each model layer by layer; None = do not shard.
        """
        self._mesh = mesh
        for model in self.models:
            model.to((device, dtype, mesh))

    @property
    def is_sharded(self) -> bool:
        """True if the models are sharded, so that all devices must call them at the same time."""
        return self._mesh is not None

    def num_parameters(self) -> int:
        """Return the number of parameters of all models without loading weights."""
        return sum(model.num_parameters() for model in self.models)

    @torch.no_grad()
    def __call__(self, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Run the teacher on a batch.

        Args:
            batch: The student's batch.
            requires: Intermediate outputs to return; an ensemble has none.

        Returns:
            The outputs in the student's label order and at the student's positions.
        """
        outputs = [self._run_model(index, batch, requires) for index in range(len(self.models))]
        if len(outputs) == 1:
            return outputs[0]
        heads = {name: combine_heads([o.heads[name] for o in outputs], self.combine) for name in outputs[0].heads}
        return replace(outputs[0], heads=heads)

    def _run_model(self, index: int, batch: Batch, requires: frozenset[Requirement]) -> Outputs:
        model = self.models[index]
        if encodings := batch.get(TEACHER_INPUTS):
            teacher_inputs = encodings[min(index, len(encodings) - 1)]
            outputs = self.task.run(model.load(), with_inputs(batch, teacher_inputs), requires)
            outputs = self.task.align_to_student(outputs, teacher_inputs, batch)
        else:
            outputs = self.task.run(model.load(), batch, requires)
        heads = {name: replace(head, logits=model.permute_classes(head.logits)) for name, head in outputs.heads.items()}
        return replace(outputs, heads=heads)
