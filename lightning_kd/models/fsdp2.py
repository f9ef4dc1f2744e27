"""FSDP2 under a short name, over all devices, with checkpoints of one file."""

from datetime import timedelta
from typing import Literal

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed import default_pg_timeout


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's ``ModelParallelStrategy`` with other defaults: ``Trainer(strategy="fsdp2")``.

    Args:
        data_parallel_size: Devices among which the weights are divided; ``auto`` = all.
        tensor_parallel_size: Must be 1.
        save_distributed_checkpoint: Let each process write its part into a folder, for students that do not fit into
            the memory of one machine; ``lightning-kd consolidate`` makes a file of it.
        process_group_backend: See Lightning.
        timeout: How long a process waits for the others.
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
        """Count the devices, and connect them."""
        if self._data_parallel_size == "auto":
            self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


# the second (the Trainer takes names in lower case), so that the name of the class alone means the same in YAML
for _name in ("fsdp2", "modelparallelstrategy"):
    StrategyRegistry.register(_name, FSDP2Strategy, description="FSDP2 with checkpoints of one file")
