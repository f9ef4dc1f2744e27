"""The teacher: frozen networks that stand outside the module tree."""

import os
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_kd import models
from lightning_kd.labels import align, label_names_of
from lightning_kd.outputs import Batch, Head, Need, Outputs
from lightning_kd.tasks.base import Task


class Teacher:
    """One frozen network, or several whose logits are averaged.

    Averaging logits is the geometric mean of the distributions (Hinton et al. 2015). The class is no
    ``nn.Module``: so Lightning neither saves nor trains nor averages nor replicates the teacher. Networks are loaded
    on first use, are always in eval mode and never require a gradient.

    Args:
        source: Hub id or folder, module, or a list of these (an ensemble).
        task: The task whose heads the networks have.

    Raises:
        ValueError: If the list is empty.
    """

    def __init__(self, source: str | nn.Module | list[str] | list[nn.Module], task: Task) -> None:
        sources = source if isinstance(source, list) else [source]
        self.sources: list[str | nn.Module] = [os.fspath(s) if isinstance(s, os.PathLike) else s for s in sources]
        if not self.sources:
            raise ValueError("teacher: the list is empty; name at least one network, or null for none")
        self.task = task
        self._networks: list[nn.Module] | None = None
        self._columns: list[Tensor | None] = [None] * len(self.sources)
        self._place: tuple[torch.device, torch.dtype] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Teacher":
        # callbacks such as weight averaging copy the whole module; the teacher is shared, not copied
        return self

    def __getstate__(self) -> dict[str, Any]:
        # a spawned process loads its own copy
        return {**self.__dict__, "_networks": None}

    @property
    def names(self) -> list[str]:
        """How each network is called in messages and model cards."""
        return [source if isinstance(source, str) else type(source).__name__ for source in self.sources]

    @property
    def plain_sources(self) -> list[str] | None:
        """The hub ids and folders, as checkpoints save them; None if a network was given as a module."""
        sources = [source for source in self.sources if isinstance(source, str)]
        return sources if len(sources) == len(self.sources) else None

    @property
    def networks(self) -> list[nn.Module]:
        """The networks, loaded on first use."""
        if self._networks is None:
            self._networks = [
                models.load_network(source, self.task.auto_class, "teacher") if isinstance(source, str) else source
                for source in self.sources
            ]
            for network in self._networks:
                network.requires_grad_(False)
                network.eval()
            self._move()
        return self._networks

    def unload(self) -> None:
        """Forget the networks; those of a folder or id are loaded anew when they are needed, others are at hand."""
        self._networks = None

    def label_names(self, index: int = 0) -> list[str] | None:
        """The label names of one network; None where it has only placeholders. Does not load weights."""
        return label_names_of(models.id_labels(self.config(index)))

    def config(self, index: int) -> Any:
        """The configuration of one network, None where it has none. Does not load weights."""
        source = self.sources[index]
        return models.load_config(source, "teacher") if isinstance(source, str) else getattr(source, "config", None)

    def align(self, label_names: list[str], accept_mismatch: bool) -> None:
        """Reorder the logits of each network from its own label order to ``label_names``.

        A network with placeholders for names is taken to be in that order already. Where the classes of a task have no
        names, only the size of the heads is checked.

        Raises:
            ValueError: If a network's label set is another one and ``accept_mismatch`` is False, or if the numbers
                of labels differ.
        """
        for index, name in enumerate(self.names):
            own = self.label_names(index)
            if self.task.num_labels is not None:
                models.check_label_count(self.config(index), self.task.num_labels, f"teacher {name!r}")
            if not self.task.named_labels:
                continue
            if own is not None:
                who, remedy = f"student and teacher {name!r}", "train a teacher on these labels"
                self._columns[index] = align(label_names, own, who, remedy, accept_mismatch)
            else:
                models.check_label_count(self.config(index), len(label_names), f"teacher {name!r}")
                rank_zero_warn(
                    f"teacher {name!r} does not name its labels; they are taken to be in the student's order"
                )

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Settle the device; networks loaded from an id or folder take the student's precision, too.

        Networks that are not loaded yet are moved when they are.
        """
        self._place = device, dtype
        self._columns = [None if columns is None else columns.to(device) for columns in self._columns]
        self._move()

    def _move(self) -> None:
        if self._place is None or self._networks is None:
            return
        device, dtype = self._place
        for source, network in zip(self.sources, self._networks, strict=True):
            network.to(device, dtype if isinstance(source, str) else None)
            network.eval()  # a network given as a module may have been put in train mode meanwhile

    def parameter_count(self) -> int:
        """Parameters of all networks; does not load weights that are not loaded yet."""
        if self._networks is not None:
            return sum(map(models.parameter_count, self._networks))
        return sum(
            models.parameter_count(source)
            if isinstance(source, nn.Module)
            else models.parameter_count(models.network_without_weights(source, self.task.auto_class, "teacher"))
            for source in self.sources
        )

    @torch.no_grad()
    def __call__(self, batch: Batch, needs: frozenset[Need] = frozenset()) -> Outputs:
        """What the teacher returns for a batch: the mean over its networks, in the student's label order.

        Hidden states and projections are those of a single network: an ensemble has none.
        """
        outputs = [self.task.run(network, batch, needs) for network in self.networks]
        heads = {}
        for name, head in outputs[0].heads.items():
            logits = [
                output.heads[name].logits if columns is None else output.heads[name].logits[:, columns]
                for output, columns in zip(outputs, self._columns, strict=True)
            ]
            mean = logits[0] if len(logits) == 1 else torch.stack(logits).float().mean(dim=0)
            heads[name] = Head(mean, head.labels, head.mask)
        return replace(outputs[0], heads=heads)
