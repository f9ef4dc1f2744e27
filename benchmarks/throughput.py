"""Compare the training speed of lightning_kd with bare loops and with the usual Hugging Face recipe.

On CLINC150, with a student of the teacher's first and last layers, in batches of 64:

    a       bare PyTorch loop, the student alone (length-grouped batches, bf16, fused AdamW)
    b       as a, with the teacher in each step
    c       DistillationModule without a cache
    d       DistillationModule with a warm teacher_cache
    fill    as d, including the time to fill the cache
    frozen  as d, word embeddings frozen
    plain   as d, torch.optim.AdamW instead of LazyAdamW
    e       Hugging Face Trainer that calls the teacher in compute_loss (fp32, random batches)
    f       as e, with group_by_length and bf16

Each contender is a process. They take turns of a few seconds, in which all others are stopped (SIGSTOP), so that other
load on the machine affects all equally. Time counts from the first batch, without imports and loading. With
``--seconds``, each runs for that long, and examples per second are compared. With ``--epochs``, each runs to the end,
and times and validation accuracies are compared.

    pip install accelerate
    python benchmarks/throughput.py --teacher <folder> --data <CLINC150 folder> --seconds 60
    python benchmarks/throughput.py --teacher <folder> --data <CLINC150 folder> --epochs 10 --contenders d fill e f
"""

import argparse
import json
import multiprocessing as mp
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy, kl_div
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, TrainingArguments
from transformers import Trainer as HuggingFaceTrainer
from transformers import get_linear_schedule_with_warmup as linear_schedule

from lightning_kd import CLINC150DataModule, DistillationModule, LazyAdamW, SequenceClassification
from lightning_kd.callbacks import FillTeacherCache
from lightning_kd.losses import HardLabelLoss, SoftTargetLoss
from lightning_kd.models import encoder_layers

ALPHA, TEMPERATURE, RATE, DECAY, WARMUP, BATCH = 0.055, 4.0, 2e-4, 0.01, 0.06, 64
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NAMES = ("a", "b", "c", "d", "fill", "frozen", "plain", "e", "f")


def wait_for(flag: Any, seconds: float) -> bool:
    """Wait until a flag is set, for at most the given seconds, and return True if it is."""
    end = time.perf_counter() + seconds
    while not flag.value and time.perf_counter() < end:
        time.sleep(0.01)
    return bool(flag.value)


class Progress:
    """Progress of a contender, shared with the main process.

    Attributes:
        examples: Number of examples trained on.
        ready: 1 once the contender can start.
        go: 1 once it may start.
        done: 1 once training has ended.
        accuracy: Accuracy on the validation split, in [0, 1]; NaN until then.
        peak: Peak memory, in bytes.
    """

    def __init__(self) -> None:
        # no locks, because a stopped process might hold them
        self.examples = mp.RawValue("q", 0)
        self.ready, self.go, self.done = (mp.RawValue("b", 0) for _ in range(3))
        self.accuracy = mp.RawValue("d", float("nan"))
        self.peak = mp.RawValue("q", 0)

    def start(self) -> None:
        """Report that the contender is ready, and wait until it may start."""
        self.ready.value = 1
        wait_for(self.go, 1e9)

    def finish(self, model: nn.Module, data: CLINC150DataModule) -> None:
        """Stop the clock, then evaluate the student on the validation split."""
        self.peak.value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.done.value = 1
        num_correct = num_examples = 0
        model.eval()
        with torch.no_grad():
            for batch in data.val_dataloader():
                logits = model(**{name: batch[name] for name in INPUTS}).logits
                num_correct += int((logits.argmax(-1) == batch["labels"]).sum())
                num_examples += len(logits)
        self.accuracy.value = num_correct / num_examples


def kd_loss(student: torch.Tensor, teacher: torch.Tensor, hard: torch.Tensor) -> torch.Tensor:
    """Return the distillation loss of tutorials."""
    soft = kl_div((student / TEMPERATURE).log_softmax(-1), (teacher / TEMPERATURE).softmax(-1), reduction="batchmean")
    return ALPHA * hard + (1 - ALPHA) * TEMPERATURE**2 * soft


def bare_loop(progress: Progress, args: argparse.Namespace, student: nn.Module, teacher: nn.Module | None) -> None:
    """Run contender a or b."""
    data = datamodule(args)
    batches = data.train_dataloader()
    groups = [
        {"params": [p for p in student.parameters() if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in student.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, fused=True)
    steps = args.epochs * len(batches)
    schedule = linear_schedule(optimizer, round(WARMUP * steps), steps)
    student.train()
    progress.start()
    for epoch in range(args.epochs):
        batches.sampler.set_epoch(epoch)
        for batch in batches:
            inputs = {name: batch[name] for name in INPUTS}
            with torch.autocast("cpu", torch.bfloat16):
                logits = student(**inputs).logits
                if teacher is not None:
                    with torch.no_grad():
                        target = teacher(**inputs).logits
            loss = cross_entropy(logits.float(), batch["labels"])
            if teacher is not None:
                loss = kd_loss(logits.float(), target.float(), loss)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            progress.examples.value += len(logits)
    progress.finish(student, data)


class ReportProgress(Callback):
    """Reports the progress of a Lightning run."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def on_fit_start(self, trainer, pl_module):
        self.progress.start()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.progress.examples.value += len(batch["row_id"])


def distillation_module(progress: Progress, args: argparse.Namespace, student: nn.Module, name: str) -> None:
    """Run contender c or d, or a variant of them."""
    data = datamodule(args, set_up=False)
    if name == "frozen":
        student.get_input_embeddings().requires_grad_(False)
    optimizer = partial(torch.optim.AdamW, lr=RATE, weight_decay=DECAY, fused=True)
    if name != "plain":
        optimizer = partial(LazyAdamW, lr=RATE, weight_decay=DECAY)
    module = DistillationModule(
        SequenceClassification(),
        student,
        args.teacher,
        {"hard": HardLabelLoss(ALPHA), "soft": SoftTargetLoss(1 - ALPHA, TEMPERATURE)},
        optimizer,
        warmup_ratio=WARMUP,
        teacher_cache={"c": None, "fill": f"{args.scratch}/cold"}.get(name, f"{args.scratch}/warm"),
    )
    trainer = Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_epochs=args.epochs,
        limit_val_batches=0,
        callbacks=[ReportProgress(progress), *([FillTeacherCache()] if name == "fill" else [])],
        logger=TensorBoardLogger(args.scratch, name),
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    progress.finish(student, data)


class DistillationTrainer(HuggingFaceTrainer):
    """The Hugging Face Trainer of tutorials."""

    teacher: nn.Module
    progress: Progress

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs)
        with torch.no_grad():
            target = self.teacher(**inputs).logits
        loss = kd_loss(outputs.logits, target, outputs.loss)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 0:
            self.progress.start()
        loss = super().training_step(*args, **kwargs)
        self.progress.examples.value += BATCH
        return loss


def hugging_face_trainer(
    progress: Progress, args: argparse.Namespace, student: nn.Module, teacher: nn.Module, fast: bool
) -> None:
    """Run contender e or f."""
    data = datamodule(args)
    dataset = data._splits["train"].remove_columns("length")
    training_args = TrainingArguments(
        output_dir=f"{args.scratch}/{'f' if fast else 'e'}",
        per_device_train_batch_size=BATCH,
        num_train_epochs=args.epochs,
        learning_rate=RATE,
        weight_decay=DECAY,
        warmup_steps=round(WARMUP * args.epochs * -(-len(dataset) // BATCH)),
        train_sampling_strategy="group_by_length" if fast else "random",
        bf16=fast,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        seed=args.seed,
    )
    collate = DataCollatorWithPadding(data.tokenizer)
    trainer = DistillationTrainer(model=student, args=training_args, train_dataset=dataset, data_collator=collate)
    trainer.teacher, trainer.progress = teacher, progress
    trainer.train()
    progress.finish(student, data)


def datamodule(args: argparse.Namespace, set_up: bool = True) -> CLINC150DataModule:
    """Return CLINC150 in batches of 64."""
    data = CLINC150DataModule(args.data, args.teacher, batch_size=BATCH, max_length=64)
    if set_up:
        data.setup("fit")
    return data


def load_models(args: argparse.Namespace) -> tuple[nn.Module, nn.Module]:
    """Return a student of the teacher's first and last layers, and the teacher."""
    load = partial(AutoModelForSequenceClassification.from_pretrained, args.teacher)
    student, teacher = load(), load().eval().requires_grad_(False)
    _, layers = encoder_layers(student)  # type: ignore[misc]
    del layers[1:-1]
    student.config.num_hidden_layers = 2
    return student, teacher


def prepare(name: str, args: argparse.Namespace) -> None:
    """Redirect the output of a process to a file and set its number of threads."""
    log = os.open(f"{args.scratch}/{name}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(args.threads)


def run_contender(name: str, progress: Progress, args: argparse.Namespace) -> None:
    """Run one contender."""
    prepare(name, args)
    seed_everything(args.seed, verbose=False)
    student, teacher = load_models(args)
    if name in "ab":
        bare_loop(progress, args, student, teacher if name == "b" else None)
    elif name in "ef":
        hugging_face_trainer(progress, args, student, teacher, fast=name == "f")
    else:
        del teacher
        distillation_module(progress, args, student, name)


def fill_cache(args: argparse.Namespace) -> None:
    """Fill the warm cache."""
    prepare("fill_cache", args)
    student, _ = load_models(args)
    losses = {"soft": SoftTargetLoss()}
    module = DistillationModule(
        SequenceClassification(), student, args.teacher, losses, teacher_cache=args.scratch + "/warm"
    )
    disabled: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    callbacks = [FillTeacherCache()]
    Trainer(
        accelerator="cpu", precision="bf16-mixed", max_steps=1, limit_val_batches=0, callbacks=callbacks, **disabled
    ).fit(module, datamodule(args, set_up=False))


def main() -> None:
    """Run the contenders in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="folder of a CLINC150 classifier")
    parser.add_argument("--data", required=True, help="CLINC150 file or folder")
    parser.add_argument("--seconds", type=float, help="training time of each contender; compare examples per second")
    parser.add_argument("--epochs", type=int, help="epochs of each contender; compare times and accuracies")
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=NAMES,
        default=["a", "b", "c", "d", "e", "f"],
        help="contenders to run (default: a b c d e f)",
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="threads of each contender (default: all cores)"
    )
    parser.add_argument("--turn", type=float, default=4.0, help="seconds of a turn (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="seed of each contender (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append the results to")
    args = parser.parse_args()
    if (args.seconds is None) == (args.epochs is None):
        parser.error("give exactly one of --seconds and --epochs")
    to_the_end = args.epochs is not None
    args.epochs = args.epochs or 1000
    with tempfile.TemporaryDirectory() as scratch:
        args.scratch = scratch
        mp.set_start_method("spawn")
        filler = mp.Process(target=fill_cache, args=(args,))
        filler.start()
        filler.join()
        if filler.exitcode:
            sys.exit((Path(scratch) / "fill_cache.log").read_text()[-3000:])
        progress = {name: Progress() for name in args.contenders}
        processes = {n: mp.Process(target=run_contender, args=(n, p, args), daemon=True) for n, p in progress.items()}
        try:
            for name, process in processes.items():
                process.start()
                while not wait_for(progress[name].ready, 1):
                    if not process.is_alive():
                        sys.exit((Path(scratch) / f"{name}.log").read_text()[-3000:])
                os.kill(process.pid, signal.SIGSTOP)  # type: ignore[arg-type]
                progress[name].go.value = 1
            spent = dict.fromkeys(progress, 0.0)
            rates: dict[str, list[float]] = {name: [] for name in progress}
            running = set(progress)
            warm = set()
            while running:
                for name in sorted(running):
                    before, started = progress[name].examples.value, time.perf_counter()
                    os.kill(processes[name].pid, signal.SIGCONT)  # type: ignore[arg-type]
                    done = wait_for(progress[name].done, args.turn)
                    elapsed, examples = time.perf_counter() - started, progress[name].examples.value - before
                    if done:
                        processes[name].join()  # it evaluates the student
                        running.discard(name)
                    elif not processes[name].is_alive():
                        sys.exit((Path(scratch) / f"{name}.log").read_text()[-3000:])
                    else:
                        os.kill(processes[name].pid, signal.SIGSTOP)  # type: ignore[arg-type]
                    if not to_the_end and name not in warm:
                        warm.add(name)
                        continue
                    spent[name] += elapsed
                    rates[name].append(examples / elapsed)
                    if not to_the_end and spent[name] >= args.seconds:
                        running.discard(name)
        finally:  # stopped processes do not end by themselves
            for process in processes.values():
                if process.is_alive():  # not before its start
                    process.kill()
    print_table(args, progress, spent, rates, to_the_end)


def print_table(args: Any, progress: dict[str, Progress], spent: Any, rates: Any, to_the_end: bool) -> None:
    """Print one row per contender; ``times x`` is its speed divided by that of contender x.

    Args:
        args: Arguments of this program.
        progress: Progress of each contender.
        spent: Training time of each contender, in seconds.
        rates: Examples per second of each contender and turn.
        to_the_end: True if all contenders ran to the end.
    """
    rivals = [name for name in ("a", "b", "e", "f") if name in progress]
    columns = ["", "seconds", "examples/s", "median turn", *(f"times {name}" for name in rivals)]
    if to_the_end:
        columns += ["val accuracy", "peak memory"]
    table = Table(*columns, title=f"batches of {BATCH}, {args.threads} threads")
    speed = {name: statistics.mean(rates[name]) for name in progress}
    for name in progress:
        ratios = [spent[rival] / spent[name] if to_the_end else speed[name] / speed[rival] for rival in rivals]
        cells = [name, f"{spent[name]:.1f}", f"{speed[name]:.0f}", f"{statistics.median(rates[name]):.0f}"]
        cells += [f"{ratio:.3f}" for ratio in ratios]
        if to_the_end:
            cells += [f"{progress[name].accuracy.value:.4f}", f"{progress[name].peak.value / 1e6:.0f} MB"]
        table.add_row(*cells)
    Console(width=110).print(table)
    if args.json:
        result = {
            n: {
                "seconds": spent[n],
                "examples_per_second": speed[n],
                "accuracy": p.accuracy.value,
                "peak": p.peak.value,
            }
            for n, p in progress.items()
        }
        with args.json.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"seed": args.seed, "threads": args.threads, **result}) + "\n")


if __name__ == "__main__":
    main()
