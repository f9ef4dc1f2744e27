"""What DistillationCallback brings on scikit-learn's digits, and what it costs over a step written by hand.

A small convolutional network is trained alone, and with a larger one as its teacher through the callback, on some of
the labelled images; the teacher was trained on all 1,437. Accuracy is that on 360 held-out images. Then runs whose
``training_step`` asks the teacher itself are timed against runs with the callback, in turn, in the same process, by the
time the processor spends on a step.

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

ALL = 1437
WEIGHT, TEMPERATURE = 2.0, 4.0


def cnn(channels: int) -> nn.Module:
    """Two convolutions."""
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(8 * channels, 10)),
    )


def loaders(labelled: int) -> tuple[DataLoader, DataLoader]:
    """Of 1,437 training images the first ``labelled``, and 360 held-out ones."""
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / 16, labels, test_size=360, random_state=0, stratify=labels)
    train_images, test_images = (torch.tensor(part, dtype=torch.float32).reshape(-1, 1, 8, 8) for part in split[:2])
    train_labels, test_labels = map(torch.tensor, split[2:])
    train = TensorDataset(train_images[:labelled], train_labels[:labelled])
    return DataLoader(train, 32, shuffle=True), DataLoader(TensorDataset(test_images, test_labels), 360)


class Digits(LightningModule):
    """Knows nothing of teachers."""

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


class ByHand(Digits):
    """Asks a teacher in its own step."""

    def __init__(self, channels: int, teacher: nn.Module) -> None:
        super().__init__(channels)
        self.teacher = [teacher.eval().requires_grad_(False)]

    def training_step(self, batch):
        images, labels = batch
        logits = self.net(images)
        own = cross_entropy(logits, labels)
        with torch.no_grad():
            targets = self.teacher[0](images)
        soft = soft_target_loss(logits, targets, TEMPERATURE)
        total = own + WEIGHT * soft
        logged = {"train_loss": own, "soft": soft.detach(), "task_loss": own.detach(), "loss": total.detach()}
        self.log_dict(logged)
        if not torch.isfinite(total):
            raise FloatingPointError
        return total


def fit(module: LightningModule, epochs: int, data: DataLoader, *callbacks) -> LightningModule:
    """A short run on one CPU."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=epochs, accelerator="cpu", enable_model_summary=False, callbacks=[*callbacks], **quiet)
    trainer.fit(module, data)
    return module


class Clock(Callback):
    """What the processor spends on each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.start = 0.0

    def on_train_batch_start(self, *args):
        self.start = time.process_time()

    def on_train_batch_end(self, *args):
        self.steps.append(time.process_time() - self.start)


def distillation(teacher: nn.Module) -> DistillationCallback:
    """The callback."""
    return DistillationCallback(
        student="net", teacher=teacher, losses={"soft": SoftTargetLoss(weight=WEIGHT, temperature=TEMPERATURE)}
    )


def accuracy(network: nn.Module) -> float:
    """In %, on the held-out images."""
    ((images, labels),) = loaders(1)[1]
    with torch.no_grad():
        return 100 * float((network.eval()(images).argmax(-1) == labels).float().mean())


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--labelled", type=int, default=100)
    parser.add_argument("--channels", type=int, default=8)
    args = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    seed_everything(0, verbose=False)
    train, everything = (loaders(number)[0] for number in (args.labelled, ALL))
    teacher = fit(Digits(32), 20, everything).net
    scores: dict[str, list[float]] = {"alone": [], "with the callback": []}
    for seed in range(args.seeds):
        for name, callbacks in (("alone", []), ("with the callback", [distillation(teacher)])):
            seed_everything(seed, verbose=False)
            scores[name].append(accuracy(fit(Digits(args.channels), args.epochs, train, *callbacks).net))
    table = Table("", "accuracy, %", "standard deviation", title=f"{args.labelled} labelled images, {args.seeds} seeds")
    table.add_row("teacher", f"{accuracy(teacher):.2f}", "")
    for name, values in scores.items():
        table.add_row(name, f"{statistics.mean(values):.2f}", f"{statistics.stdev(values):.2f}")
    Console().print(table)
    better = sum(b > a for a, b in zip(*scores.values(), strict=True))
    print(f"better with the callback in {better} of {args.seeds} seeds")

    clocks = {"by hand": Clock(), "callback": Clock()}
    for turn in range(8):
        for name in list(clocks)[:: 1 if turn % 2 else -1]:
            seed_everything(0, verbose=False)
            module = ByHand(args.channels, teacher) if name == "by hand" else Digits(args.channels)
            fit(module, 3, everything, clocks[name], *([] if name == "by hand" else [distillation(teacher)]))
    hand, callback = (1e3 * statistics.median(clock.steps) for clock in clocks.values())
    print(f"median step: by hand {hand:.2f} ms, with the callback {callback:.2f} ms, {callback / hand:.3f} times that")


if __name__ == "__main__":
    main()
