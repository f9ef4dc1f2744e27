"""Run by test_trainer_features.py in two processes, with a folder for the results."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule
from torch.distributed import all_gather_object
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tests.callbacks.distillation.helpers import SOFT_AND_HIDDEN, Classifier, callback, fit, make_examples, weights

RUNS = {
    "plain": {},
    "accumulated": {"accumulate_grad_batches": 2},
    "clipped": {"gradient_clip_val": 0.1},
    "unused": {"strategy": "ddp_find_unused_parameters_true"},
}


class SequentialDataModule(LightningDataModule):
    """Replaces Lightning's sampler for several devices, which shuffles."""

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        data, devices = TensorDataset(*make_examples()), self.trainer.world_size
        sampler = DistributedSampler(data, devices, self.trainer.global_rank, shuffle=False)
        return DataLoader(data, self.batch_size, sampler=sampler)


class SeedByRank(Callback):
    """Gives each device other random numbers, as without ``seed_everything``."""

    def on_fit_start(self, trainer, pl_module):
        torch.manual_seed(100 + trainer.global_rank)


def run(folder, batch_size, **settings):
    """Return the student and the projection after three epochs."""
    module, distillation = Classifier(), callback(**SOFT_AND_HIDDEN)
    settings = {"callbacks": [SeedByRank()], "max_epochs": 3, "use_distributed_sampler": False, **settings}
    fit(module, folder, distillation, SequentialDataModule(batch_size), **settings)
    return {"student": weights(module), "projection": distillation.state_dict()["losses"]["hidden"][0]}


def main(folder: Path) -> None:
    results = {}
    for name, settings in RUNS.items():
        result = run(folder, 4, **{"devices": 2, "strategy": "ddp", **settings})
        both = [None, None]
        all_gather_object(both, result)
        results[name] = both
    if torch.distributed.get_rank() == 0:
        torch.save(results, folder / "results.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
