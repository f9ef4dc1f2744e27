"""FSDP2: each process holds a part of every weight, and collects a layer's while it computes."""

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from lightning_kd.models.inspection import encoder_layers


def shard(model: nn.Module, mesh: DeviceMesh, reshard_after_forward: bool = True) -> None:
    """Divide a network among processes in place, each encoder layer apart; one that is divided already stays.

    Args:
        model: On any device; each layer is moved to the mesh's device before it is divided.
        mesh: Lightning's, with the dimensions ``data_parallel`` and ``tensor_parallel``.
        reshard_after_forward: False keeps the collected weights of a layer until its backward pass. Needed where a
            loss reads what is computed inside a layer, because only the gradient of a layer's output makes it collect
            them again.

    Raises:
        ValueError: If the mesh also divides the computation within a layer.
    """
    if isinstance(model, FSDPModule):
        return
    if (size := mesh["tensor_parallel"].size()) > 1:
        raise ValueError(
            f"trainer.strategy.tensor_parallel_size: is {size} (Lightning's 'auto' takes all devices of a machine); "
            "only whole layers are divided here, so use strategy fsdp2, or give data_parallel_size the number of "
            "devices and tensor_parallel_size 1"
        )
    layers = encoder_layers(model)
    for layer in layers[1] if layers is not None else []:
        fully_shard(layer, mesh=mesh["data_parallel"], reshard_after_forward=reshard_after_forward)
    fully_shard(model, mesh=mesh["data_parallel"], reshard_after_forward=reshard_after_forward)


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a network, whole on every device; to be called on every device."""
    return {n: w.full_tensor() if isinstance(w, DTensor) else w for n, w in model.state_dict().items()}
