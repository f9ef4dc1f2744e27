"""User modules that know nothing of distillation, and fits of them with and without a teacher."""

import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import nn
from torch.nn.functional import cross_entropy, kl_div
from torch.utils.data import DataLoader, TensorDataset

from lightning_kd import DistillationCallback
from lightning_kd.losses import HiddenStateMSELoss, SoftTargetLoss
from tests.helpers import tiny_bert, trainer

FEATURES, CLASSES = 6, 3
HIDDEN = {"losses": {"hidden": HiddenStateMSELoss()}, "layers": {"0": "0"}}
SOFT_AND_HIDDEN = {
    "losses": {"soft": SoftTargetLoss(0.5), "hidden": HiddenStateMSELoss(0.5)},
    "layers": {"0": "0"},
}


def mlp(hidden=8, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def teacher():
    return mlp(hidden=32, seed=9)


class Classifier(LightningModule):
    def __init__(self, hidden=8, lr=0.1, net=None, build_optimizer=None):
        super().__init__()
        self.save_hyperparameters("hidden", "lr")
        self.net = net or mlp(hidden)
        self.build_optimizer = build_optimizer

    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        loss = cross_entropy(self.net(inputs), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        if self.build_optimizer is not None:
            return self.build_optimizer(self)
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


class ManualDistillation(Classifier):
    """Runs the teacher in its own step and adds the loss between the student's and the teacher's logits."""

    def __init__(self, loss):
        super().__init__()
        self.loss, self.models = loss, [teacher()]  # in a list, so that it is no submodule

    def training_step(self, batch, batch_idx):
        targets = self.models[0](batch[0]).detach()
        return super().training_step(batch, batch_idx) + self.loss(self.net(batch[0]), targets)


class DropoutClassifier(Classifier):
    """Draws random numbers in each step."""

    def training_step(self, batch, batch_idx):
        return super().training_step((nn.functional.dropout(batch[0], 0.3), batch[1]), batch_idx)


class TextClassifier(LightningModule):
    """Fine-tunes a transformers model by the loss that it returns; the learning rate is 0."""

    def __init__(self, net=None):
        super().__init__()
        self.net = net or tiny_bert().train()

    def training_step(self, batch):
        return self.net(**batch).loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def make_examples(number=16):
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(number, FEATURES, generator=generator)
    return inputs, torch.randint(CLASSES, (number,), generator=generator)


def loader(batch_size=8, number=16):
    return DataLoader(TensorDataset(*make_examples(number)), batch_size=batch_size)


def callback(**settings):
    return DistillationCallback(
        **{"student": "net", "teacher": teacher(), "losses": {"soft": SoftTargetLoss(0.7, 2.0)}, **settings}
    )


def fit(module, folder, callback=None, data=None, ckpt_path=None, **settings):
    """Fit a module and return its trainer, whose ``logged_metrics`` hold the logged values."""
    callbacks = [*settings.pop("callbacks", []), *([] if callback is None else [callback])]
    seed_everything(1, verbose=False)
    run = trainer(folder, **{"callbacks": callbacks, "log_every_n_steps": 1, **settings})
    run.fit(module, data or loader(), ckpt_path=ckpt_path)
    return run


def fit_and_get_logs(folder, module, batch=None, **settings):
    """Fit one batch with a callback and return the values logged under ``distillation/``."""
    run = fit(module, folder, callback(**settings), DataLoader([batch or make_examples()], batch_size=None))
    prefix = "distillation/"
    return {name.removeprefix(prefix): float(v) for name, v in run.logged_metrics.items() if name.startswith(prefix)}


def kl(logits, targets, temperature=1.0):
    """Compute the divergence of the student's from the teacher's distribution with PyTorch."""
    p, q = (scores / temperature for scores in (targets, logits))
    return kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="batchmean", log_target=True) * temperature**2


def weights(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def fit_weights(module, folder, *args, **settings):
    """Fit a module and return its weights."""
    fit(module, folder, *args, **settings)
    return weights(module)


def equal_tensors(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
