"""Measure the gain of DistillationCallback on scikit-learn's digits, and its cost over a hand-written step.

A small convolutional network is trained on some of the labeled images, alone and with DistillationCallback. Its teacher
is a larger network trained on all 1,437 images. Accuracy is measured on 360 held-out images. Then runs with the
callback alternate, within one process, with runs whose ``training_step`` calls the teacher itself, and the CPU times of
their steps are compared.

    python benchmarks/dropin_digits.py --seeds 10
"""

import argparse
import logging
import statistics
import time

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_kd import DistillationCallback
from lightning_kd.losses import SoftTargetLoss, soft_target_loss

NUM_TRAIN = 1437
WEIGHT, TEMPERATURE = 2.0, 4.0


def cnn(channels: int) -> nn.Module:
    """Return a network of two convolutions and a linear classifier."""
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(8 * channels, 10)),
    )


def loaders(num_train: int) -> tuple[DataLoader, DataLoader]:
    """Return loaders of the first ``num_train`` of the 1,437 training images and of the 360 held-out images."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=360, random_state=0, stratify=labels)
    train_images, test_images = (torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) for part in split[:2])
    train_labels, test_labels = map(torch.tensor, split[2:])
    train = TensorDataset(train_images[:num_train], train_labels[:num_train])
    return DataLoader(train, 32, shuffle=True), DataLoader(TensorDataset(test_images, test_labels), 360)


class Digits(LightningModule):
    """A classifier without a teacher."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = cnn(channels)

    def training_step(self, batch):
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class HandWritten(Digits):
    """A classifier that calls the teacher in its training step."""

    def __init__(self, channels: int, teacher: nn.Module) -> None:
        super().__init__(channels)
        self.teacher = [teacher.eval().requires_grad_(False)]  # in a list, so that it is not a submodule

    def training_step(self, batch):
        images, labels = batch
        logits = self.net(images)
        hard = cross_entropy(logits, labels)
        with torch.no_grad():
            targets = self.teacher[0](images)
        soft = soft_target_loss(logits, targets, TEMPERATURE)
        total = hard + WEIGHT * soft
        # as many values as the callback logs
        self.log_dict({"train_loss": hard, "soft": soft.detach(), "task_loss": hard.detach(), "loss": total.detach()})
        if not torch.isfinite(total):
            raise FloatingPointError
        return total


def fit(module: LightningModule, epochs: int, data: DataLoader, *callbacks) -> LightningModule:
    """Train on the CPU and return the module."""
    disabled = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", enable_model_summary=False, callbacks=[*callbacks], **disabled
    )
    trainer.fit(module, data)
    return module


class StepTimer(Callback):
    """Records the CPU time of each step, in seconds."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.start = 0.0

    def on_train_batch_start(self, *args):
        self.start = time.process_time()

    def on_train_batch_end(self, *args):
        self.steps.append(time.process_time() - self.start)


def distillation(teacher: nn.Module) -> DistillationCallback:
    """Return the callback."""
    return DistillationCallback(
        student="net", teacher=teacher, losses={"soft": SoftTargetLoss(weight=WEIGHT, temperature=TEMPERATURE)}
    )


def accuracy(model: nn.Module) -> float:
    """Return the accuracy on the held-out images, in %."""
    ((images, labels),) = loaders(1)[1]
    with torch.no_grad():
        return 100 * float((model.eval()(images).argmax(-1) == labels).float().mean())


def main() -> None:
    """Print the accuracies and the times of a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of the student (default: %(default)s)")
    parser.add_argument("--labeled", type=int, default=100, help="number of labeled images (default: %(default)s)")
    parser.add_argument(
        "--channels", type=int, default=8, help="channels of the student's first layer (default: %(default)s)"
    )
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seed_everything(0, verbose=False)
    train, full_train = (loaders(size)[0] for size in (args.labeled, NUM_TRAIN))
    teacher = fit(Digits(32), 20, full_train).net
    scores: dict[str, list[float]] = {"alone": [], "with the callback": []}
    for seed in range(args.seeds):
        for name, callbacks in (("alone", []), ("with the callback", [distillation(teacher)])):
            seed_everything(seed, verbose=False)
            scores[name].append(accuracy(fit(Digits(args.channels), args.epochs, train, *callbacks).net))
    table = Table("", "accuracy, %", "standard deviation", title=f"{args.labeled} labeled images, {args.seeds} seeds")
    table.add_row("teacher", f"{accuracy(teacher):.2f}", "")
    for name, values in scores.items():
        table.add_row(
            name, f"{statistics.mean(values):.2f}", f"{statistics.stdev(values):.2f}" if len(values) > 1 else ""
        )
    Console().print(table)
    better = sum(b > a for a, b in zip(*scores.values(), strict=True))
    print(f"better with the callback in {better} of {args.seeds} seeds")

    timers = {"hand-written": StepTimer(), "callback": StepTimer()}
    for turn in range(8):
        for name in list(timers)[:: 1 if turn % 2 else -1]:
            seed_everything(0, verbose=False)
            module = HandWritten(args.channels, teacher) if name == "hand-written" else Digits(args.channels)
            fit(module, 3, full_train, timers[name], *([] if name == "hand-written" else [distillation(teacher)]))
    by_hand, callback = (1e3 * statistics.median(timer.steps) for timer in timers.values())
    print(f"median step: hand-written {by_hand:.2f} ms, callback {callback:.2f} ms, ratio {callback / by_hand:.3f}")


if __name__ == "__main__":
    main()
