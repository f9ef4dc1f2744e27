"""The teacher: frozen networks that stand outside the module tree."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lightning_kd import models
from lightning_kd.labels import align, label_names_of
from lightning_kd.outputs import Batch, Head, Need, Outputs
from lightning_kd.plain import is_plain
from lightning_kd.sharding import shard
from lightning_kd.tasks.base import Task

Source = str | nn.Module | Mapping[str, Any]


def split_options(mapping: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Split the mapping form of a teacher into its source and plain data for ``from_pretrained``.

    Raises:
        ValueError: If there is no ``source``, or an argument is no plain data.
    """
    options = dict(mapping)
    source = options.pop("source", None)
    if source is None:
        raise ValueError(
            f"teacher: a mapping needs the key 'source' (a hub id or folder), got {sorted(mapping)}; the other keys "
            "are arguments of from_pretrained, such as dtype or quantization_config"
        )
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


class Teacher:
    """One frozen network, or several whose logits are averaged.

    Averaging logits is the geometric mean of the distributions (Hinton et al. 2015). The class is no
    ``nn.Module``: so Lightning neither saves nor trains nor averages nor replicates the teacher. Networks are loaded
    on first use, are always in eval mode and never require a gradient.

    Args:
        source: Hub id or folder; a mapping of such a ``source`` and arguments of ``from_pretrained``; a module; or a
            list of these (an ensemble).
        task: The task whose heads the networks have.

    Raises:
        ValueError: If the list is empty, or a mapping has no ``source`` or holds what is no plain data.
    """

    def __init__(self, source: Source | list[Any], task: Task) -> None:
        sources = source if isinstance(source, list) else [source]
        self.sources: list[str | nn.Module] = []
        self.options: list[dict[str, Any]] = []
        for given in sources:
            mapping = given if isinstance(given, Mapping) else {"source": given}
            name, options = split_options(mapping)
            self.sources.append(name)
            self.options.append(options)
        if not self.sources:
            raise ValueError("teacher: the list is empty; name at least one network, or null for none")
        self.task = task
        self._networks: list[nn.Module] | None = None
        self._columns: list[Tensor | None] = [None] * len(self.sources)
        self._place: tuple[torch.device, torch.dtype, DeviceMesh | None] | None = None

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
    def plain_sources(self) -> list[str | dict[str, Any]] | None:
        """The hub ids, folders and mappings, as checkpoints save them; None if a network was given as a module."""
        if not all(isinstance(source, str) for source in self.sources):
            return None
        pairs = zip(self.names, self.options, strict=True)
        return [{"source": source, **options} if options else source for source, options in pairs]

    @property
    def networks(self) -> list[nn.Module]:
        """The networks, loaded on first use."""
        if self._networks is None:
            self._networks = [
                models.load_network(source, self.task.auto_class, "teacher", options=self._placed(options))
                if isinstance(source, str)
                else source
                for source, options in zip(self.sources, self.options, strict=True)
            ]
            for network in self._networks:
                network.requires_grad_(False)
                network.eval()
            self._move()
        return self._networks

    def _placed(self, options: dict[str, Any]) -> dict[str, Any]:
        """A quantised network is loaded where it is to be, because it is not moved later."""
        if "quantization_config" not in options or "device_map" in options or self._place is None:
            return options
        return {**options, "device_map": {"": self._place[0]}} if self._place[0].type != "cpu" else options

    def unload(self) -> None:
        """Forget the networks; those of a folder or id are loaded anew when they are needed, others are at hand."""
        self._networks = None

    def label_names(self, index: int = 0) -> list[str] | None:
        """The label names of one network; None where it has only placeholders. Does not load weights."""
        return label_names_of(models.id_labels(self.config(index)))

    def config(self, index: int) -> Any:
        """The configuration of one network, None where it has none. Does not load weights."""
        source = self.sources[index]
        if not isinstance(source, str):
            return getattr(source, "config", None)
        return models.load_config(source, "teacher", self.options[index])

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
                if self.config(index) is not None:  # a plain network has nowhere to name them
                    rank_zero_warn(
                        f"teacher {name!r} does not name its labels; they are taken to be in the student's order"
                    )

    def to(self, device: torch.device, dtype: torch.dtype, mesh: DeviceMesh | None = None) -> None:
        """Settle the device; networks loaded from an id or folder take the student's precision, too.

        Networks that are not loaded yet are moved when they are. Quantised networks and those with a ``device_map``
        stay as and where they were loaded.

        Args:
            device: The student's.
            dtype: The student's.
            mesh: The devices among which to divide each network layer by layer, so that none need hold it whole; None
                where the strategy does not shard.
        """
        self._place = device, dtype, mesh
        self._columns = [None if columns is None else columns.to(device) for columns in self._columns]
        self._move()

    def _move(self) -> None:
        if self._place is None or self._networks is None:
            return
        device, dtype, mesh = self._place
        for source, options, network in zip(self.sources, self.options, self._networks, strict=True):
            if not models.is_placed(network):
                if isinstance(source, str) and "dtype" not in options:
                    network.to(dtype=dtype)
                if mesh is not None:
                    shard(network, mesh)
                network.to(device)
            network.eval()  # a network given as a module may have been put in train mode meanwhile

    @property
    def divided(self) -> bool:
        """Whether the networks are divided among devices, which then must all call them at once."""
        return self._place is not None and self._place[2] is not None

    def parameter_count(self) -> int:
        """Parameters of all networks; does not load weights that are not loaded yet."""
        if self._networks is not None:
            return sum(map(models.parameter_count, self._networks))
        return sum(
            models.parameter_count(source)
            if isinstance(source, nn.Module)
            else models.parameters_of(self.config(index), self.task.auto_class)
            for index, source in enumerate(self.sources)
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
                output.heads[name].logits
                if columns is None
                else output.heads[name].logits[:, columns.to(output.heads[name].logits.device)]
                for output, columns in zip(outputs, self._columns, strict=True)
            ]
            mean = logits[0] if len(logits) == 1 else torch.stack(logits).float().mean(dim=0)
            heads[name] = Head(mean, head.labels, head.mask)
        return replace(outputs[0], heads=heads)
