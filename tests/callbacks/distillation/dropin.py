"""Somebody's LightningModule that knows nothing of teachers, and fits of it with and without one."""

import copy

import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_kd import DistillationCallback
from lightning_kd.losses import SoftTargetLoss
from tests.helpers import trainer

FEATURES, CLASSES = 6, 3


def mlp(hidden=8, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


class Classifier(LightningModule):
    def __init__(self, hidden=8, lr=0.1):
        super().__init__()
        self.save_hyperparameters("hidden", "lr")
        self.net = mlp(hidden)

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        loss = cross_entropy(self.net(inputs), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


def make_examples(number=16):
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(number, FEATURES, generator=generator)
    return inputs, torch.randint(CLASSES, (number,), generator=generator)


def loader(batch_size=8, number=16):
    return DataLoader(TensorDataset(*make_examples(number)), batch_size=batch_size)


def teacher():
    return mlp(hidden=32, seed=9)


def callback(**settings):
    return DistillationCallback(
        **{"student": "net", "teacher": teacher(), "losses": {"soft": SoftTargetLoss(0.7, 2.0)}, **settings}
    )


def fit(module, folder, callback=None, data=None, ckpt_path=None, **settings):
    """The trainer after a fit; what a callback logs goes to its ``logged_metrics``."""
    callbacks = [*settings.pop("callbacks", []), *([] if callback is None else [callback])]
    seed_everything(1, verbose=False)
    run = trainer(folder, **{"callbacks": callbacks, "log_every_n_steps": 1, **settings})
    run.fit(module, data or loader(), ckpt_path=ckpt_path)
    return run


def weights(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def equal_tensors(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def train_manually(module, model, loss, steps, batches=None, call=None):
    """SGD on the module's own loss and the distillation's, written out."""
    model = copy.deepcopy(model).eval()
    optimizer = module.configure_optimizers()
    for _ in range(steps):
        for inputs, labels in batches or loader():
            logits = module.net(inputs)
            with torch.no_grad():
                targets = model(inputs)
            total = cross_entropy(logits, labels) + loss(logits, targets)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    return module
