"""Run by test_distillation_callback_ddp.py in two processes, with a folder for the results."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule
from torch.distributed import all_gather_object
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from lightning_kd.losses import HiddenStateMSELoss, SoftTargetLoss
from tests.callbacks.distillation.dropin import Classifier, callback, fit, make_examples, weights

LOSSES = {"soft": SoftTargetLoss(0.5, 2.0), "hidden": HiddenStateMSELoss(0.5)}
RUNS = {
    "plain": {},
    "accumulated": {"accumulate_grad_batches": 2},
    "clipped": {"gradient_clip_val": 0.1},
    "unused": {"strategy": "ddp_find_unused_parameters_true"},
}


class SequentialDataModule(LightningDataModule):
    """Lightning's own sampler for several devices would shuffle."""

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        data, devices = TensorDataset(*make_examples()), self.trainer.world_size
        sampler = DistributedSampler(data, devices, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, self.batch_size, sampler=sampler)


class SeedByRank(Callback):
    """Devices whose random numbers differ, as where nobody has called ``seed_everything``."""

    def on_fit_start(self, trainer, pl_module):
        torch.manual_seed(100 + trainer.global_rank)


def run(folder, batch_size, **settings):
    """The student and the projection after three epochs."""
    module, distillation = Classifier(), callback(losses=LOSSES, layers={"0": "0"})
    settings = {"callbacks": [SeedByRank()], "max_epochs": 3, "use_distributed_sampler": False, **settings}
    fit(module, folder, distillation, SequentialDataModule(batch_size), **settings)
    return {"student": weights(module), "projection": distillation.state_dict()["losses"]["hidden"][0]}


def main(folder: Path) -> None:
    results = {}
    for name, settings in RUNS.items():
        mine = run(folder, 4, **{"devices": 2, "strategy": "ddp", **settings})
        both = [None, None]
        all_gather_object(both, mine)
        results[name] = both
    if torch.distributed.get_rank() == 0:
        torch.save(results, folder / "results.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
