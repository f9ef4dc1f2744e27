"""Shard models with FSDP2: each process holds a part of every weight and gathers one layer at a time."""

from datetime import timedelta
from typing import Literal

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from lightning_kd.models.inspection import encoder_layers


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's ``ModelParallelStrategy`` that by default shards over all devices and saves single-file checkpoints.

    Lightning's ``auto`` (2.6) sets ``data_parallel_size`` to the number of nodes and ``tensor_parallel_size`` to the
    devices of a node, so a run would have to set both explicitly and could not resume on another number of devices.

    Args:
        data_parallel_size: Number of devices over which the weights are sharded; ``auto`` = all.
        tensor_parallel_size: Must be 1.
        save_distributed_checkpoint: If True, each process writes its part of a checkpoint into a folder, for students
            that do not fit into the memory of one machine; ``lightning-kd consolidate`` converts it into a file.
        process_group_backend: See ``ModelParallelStrategy``.
        timeout: See ``ModelParallelStrategy``.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        tensor_parallel_size: int = 1,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout: timedelta = default_pg_timeout,
    ) -> None:
        super().__init__(
            data_parallel_size, tensor_parallel_size, save_distributed_checkpoint, process_group_backend, timeout
        )

    def setup_environment(self) -> None:
        """Resolve ``auto`` to the number of devices, then set up the process group."""
        # a private attribute of Lightning (2.6), which has no hook to resolve "auto" otherwise
        if self._data_parallel_size == "auto":
            self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(model: nn.Module, mesh: DeviceMesh, reshard_after_forward: bool = True) -> None:
    """Shard a model in place, each encoder layer separately; do nothing if it is sharded already.

    Args:
        model: On any device; each layer is moved to the mesh's device before it is sharded.
        mesh: Lightning's mesh, with the dimensions ``data_parallel`` and ``tensor_parallel``.
        reshard_after_forward: If False, the weights of a layer stay gathered until its backward pass. Needed if a loss
            reads values from inside a layer, because only the gradient of a layer's output gathers its weights again.

    Raises:
        ValueError: If the mesh has a tensor-parallel dimension larger than 1.
    """
    if isinstance(model, FSDPModule):
        return
    if (size := mesh["tensor_parallel"].size()) > 1:
        raise ValueError(
            f"trainer.strategy.tensor_parallel_size: must be 1, got {size} (in ModelParallelStrategy 'auto' means all "
            "devices of a machine); use strategy: {class_path: FSDP2Strategy}, or set it to 1 and data_parallel_size "
            "to the number of devices"
        )
    layers = encoder_layers(model)
    for layer in layers[1] if layers is not None else []:
        fully_shard(layer, mesh=mesh["data_parallel"], reshard_after_forward=reshard_after_forward)
    fully_shard(model, mesh=mesh["data_parallel"], reshard_after_forward=reshard_after_forward)


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """Return the unsharded weights of a model on every device; call it on all devices."""
    return {n: w.full_tensor() if isinstance(w, DTensor) else w for n, w in model.state_dict().items()}
