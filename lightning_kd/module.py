"""The LightningModule that trains a student, with or without a teacher."""

from functools import partial
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from lightning_kd import labels, models, safety
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.optimizers import OptimizerFactory, build_schedule, check_schedule, parameter_groups
from lightning_kd.outputs import Batch, Outputs
from lightning_kd.plain import factory_from_plain, from_plain, not_saved, refuse_not_saved, to_plain
from lightning_kd.tasks.base import Task
from lightning_kd.teachers import Teacher

STATE_KEY = "lightning_kd"
"""Where a checkpoint keeps the seed and the teacher's scores."""


class DistillationModule(LightningModule):
    """A trainable student and a frozen teacher.

    The total loss is the plain weighted sum of the losses. Logged are ``train/loss``, ``train/<loss name>`` (not
    weighted), ``val/<metric>``, ``test/<metric>``, ``val/<loss name>`` of losses that need no teacher and, once,
    ``val/teacher_<metric>``.

    Args:
        task: What is predicted and how it is scored.
        student: Hub id or folder (pretrained weights); or ``{base: <hub id or folder>, num_hidden_layers: 2, ...}``,
            that model's configuration with fields replaced and fresh weights; or a module.
        teacher: Hub id or folder; a list of them (an ensemble, logits averaged); a module; or null, which fine-tunes
            the student plainly.
        losses: The terms of the total by name, at least one.
        optimizer: Class and arguments of the optimiser. Biases and norms get no weight decay.
        lr_scheduler: A schedule of ``transformers.get_scheduler`` over all steps, stepped after each; null = constant.
        warmup_ratio: Share of the steps in which the learning rate rises from 0, in [0, 1].
        label_names: Names of the classes in index order. From the shell they come from the data.
        accept: What to let pass knowingly: ``tokenizer_mismatch``, ``label_mismatch``, ``weak_teacher``.

    Raises:
        ValueError: If an argument is out of range, or there is no loss.
    """

    def __init__(
        self,
        task: Task,
        student: str | dict[str, Any] | nn.Module,
        teacher: str | list[str] | nn.Module | None = None,
        losses: dict[str, DistillationLoss] | None = None,
        optimizer: OptimizerFactory = partial(torch.optim.AdamW, lr=5e-5),
        lr_scheduler: str | None = "linear",
        warmup_ratio: float = 0.0,
        label_names: list[str] | None = None,
        accept: list[safety.Acceptable] | None = None,
    ) -> None:
        super().__init__()
        # a checkpoint hands objects over as plain data
        self.task: Task = from_plain(task, Task, "task")
        terms = {
            name: from_plain(loss, DistillationLoss, f"losses.{name}") for name, loss in (losses or {}).items()
        }
        refuse_not_saved(student, "student")
        if not terms:
            raise ValueError("losses: none given; name at least one, for instance hard: HardLabelLoss")
        if "loss" in terms:
            raise ValueError("losses.loss: the name is taken by the total; use another")
        if isinstance(teacher, nn.Module) and teacher is student:
            raise ValueError("teacher: is the very module given as student; pass a copy, because it will be frozen")
        check_schedule(lr_scheduler, warmup_ratio)
        self.losses = nn.ModuleDict(terms)
        self.teacher = None if teacher is None else Teacher(teacher, self.task)
        self.student: nn.Module | None = student if isinstance(student, nn.Module) else None
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.warmup_ratio = warmup_ratio
        self.label_names = label_names
        self.accept = list(accept or [])
        self.teacher_scores: dict[str, float] = {}
        self._student_source = student
        self._label_index: Tensor | None = None
        self._seed: int | None = None
        self.save_hyperparameters(
            {
                "task": to_plain(self.task),
                "student": not_saved(student) if isinstance(student, nn.Module) else student,
                "teacher": None if isinstance(teacher, nn.Module) else teacher,
                "losses": {name: to_plain(loss) for name, loss in terms.items()},
                "optimizer": optimizer if isinstance(optimizer, dict) else to_plain(optimizer),
                "lr_scheduler": lr_scheduler,
                "warmup_ratio": warmup_ratio,
                "label_names": label_names,
                "accept": self.accept,
            }
        )

    # ---- the student

    def build_student(self) -> nn.Module:
        """Build the student if it is not built yet, and settle the order of its labels.

        Lightning calls this in ``setup`` and when it loads a checkpoint; a callback that needs the student earlier
        may call it too.

        Raises:
            OSError: If the student or the teacher's configuration cannot be loaded.
            ValueError: If student and teacher, or student and data, know different labels.
        """
        if self.student is None or not hasattr(self, "val_metrics"):
            source = self._student_source
            names = labels.choose_label_names(
                labels.label_names_of(models.id_labels(models.source_config(source))),
                self.teacher.label_names() if self.teacher else None,
                self._data_label_names(),
                "label_mismatch" in self.accept,
            )
            if self.student is None:
                assert not isinstance(source, nn.Module)
                self.student = models.build_student(source, self.task.auto_class, names)
                self.hparams["student"] = {"config": models.plain_config(self.student)}
            self.label_names = names or list((models.id_labels(self.student) or {}).values())
            self.hparams["label_names"] = self.label_names
            self.val_metrics = self.task.metrics(self.label_names)
            self.test_metrics = self.task.metrics(self.label_names)
        return self.student

    def configure_model(self) -> None:
        """Build the student; also called by ``load_from_checkpoint``, where there is no trainer."""
        self.build_student()

    def _data_label_names(self) -> list[str] | None:
        datamodule = self._trainer.datamodule if self._trainer else None  # type: ignore[attr-defined]
        return getattr(datamodule, "label_names", None) or self.label_names

    # ---- before the first step

    @property
    def reads_teacher(self) -> bool:
        """Whether there is a teacher and some loss reads its outputs."""
        return self.teacher is not None and any(loss.needs_teacher for loss in self.losses.values())

    def setup(self, stage: str) -> None:
        """Build the student and check that data, student and teacher fit together."""
        student = self.build_student()
        accepted = "label_mismatch" in self.accept
        if data_names := self._data_label_names():
            remedy = "use the data this student was made for"
            self._label_index = labels.align(
                data_names, self.label_names or [], "data and student", remedy, accepted, subset=True
            )
        if stage != "fit":
            return
        # from_pretrained returns eval mode, and Lightning >= 2.2 leaves modes alone: dropout would be silently off
        student.train()
        safety.check_losses_have_teacher(dict(self.losses.items()), self.teacher)
        if self.teacher is not None and self.reads_teacher:
            self.teacher.align(self.label_names or [], accepted)
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
            if (tokenizer := getattr(datamodule, "tokenizer", None)) is not None:
                safety.check_tokenizers(self.teacher, tokenizer, "tokenizer_mismatch" in self.accept)

    def on_fit_start(self) -> None:
        """Settle the seed of the batches and bring the teacher to the student's device."""
        if self._seed is None:
            self._seed = int(self.trainer.strategy.broadcast(torch.initial_seed()))
        if self.teacher is not None and self.reads_teacher:
            self.teacher.to(self.device, next(self.build_student().parameters()).dtype)

    def on_train_start(self) -> None:
        """Score the teacher on the validation split and refuse one that is guessing; a resumed run did this."""
        if self.teacher is None or not self.reads_teacher or self.teacher_scores or not self.trainer.val_dataloaders:
            return
        metrics = self.task.metrics(self.label_names or []).to(self.device)
        scores, label_counts = safety.score_teacher(self.trainer, self.teacher, self.task, metrics, self._to_device)
        name, accepted = " + ".join(self.teacher.names), "weak_teacher" in self.accept
        safety.check_teacher(name, self.task, scores[self.task.monitor], label_counts, accepted)
        self.teacher_scores = scores

    def _to_device(self, batch: Batch) -> Batch:
        return self._in_student_order(self.trainer.strategy.batch_to_device(batch, self.device))

    # ---- steps

    def forward(self, batch: Batch) -> Outputs:
        """What the student returns for a batch."""
        assert self.student is not None
        return self.task.outputs(models.forward(self.student, batch), batch)

    def _in_student_order(self, batch: Batch) -> Batch:
        if self._label_index is None or "labels" not in batch:
            return batch
        index, own = self._label_index.to(batch["labels"].device), batch["labels"]
        return {**batch, "labels": torch.where(own >= 0, index[own.clamp(min=0)], own)}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout by the batch's number, so that nothing about it needs to be saved to resume."""
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        state = np.random.SeedSequence([self._seed or 0, self.global_rank, number]).generate_state(1, np.uint64)
        torch.manual_seed(int(state[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the losses."""
        batch = self._in_student_order(batch)
        student = self(batch)
        teacher = self.teacher(batch) if self.teacher is not None and self.reads_teacher else None
        terms = {name: loss(student, teacher) for name, loss in self.losses.items()}
        total = torch.stack([self.losses[name].weight * term for name, term in terms.items()]).sum()
        if not torch.isfinite(total):
            culprits = [name for name, term in terms.items() if not torch.isfinite(term)]
            raise FloatingPointError(
                f"train/{culprits[0] if culprits else 'loss'} is {total.item()} in epoch {self.current_epoch}, step "
                f"{self.global_step}, for the rows {batch['row_id'].tolist() if 'row_id' in batch else batch_idx}; "
                "lower the learning rate, clip gradients (trainer.gradient_clip_val) or look at these rows"
            )
        logged = {"train/loss": total, **{f"train/{name}": term for name, term in terms.items()}}
        self.log_dict({n: value.detach() for n, value in logged.items()}, prog_bar=True, batch_size=student.rows)
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch into the validation metrics, and log the losses that need no teacher."""
        outputs = self._count(batch, self.val_metrics)
        for name, loss in self.losses.items():
            if not loss.needs_teacher:
                self.log(f"val/{name}", loss(outputs, None), batch_size=outputs.rows, sync_dist=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count a batch into the test metrics."""
        self._count(batch, self.test_metrics)

    def _count(self, batch: Batch, metrics: MetricCollection) -> Outputs:
        outputs: Outputs = self(self._in_student_order(batch))
        self.task.update(metrics, outputs)
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<metric>``."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log ``test/<metric>``."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, split: str, metrics: MetricCollection) -> None:
        # torchmetrics has summed over the devices already; sync_dist only silences Lightning's reminder
        scores = {f"{split}/{name}": value for name, value in metrics.compute().items()}
        for name, score in scores.items():
            self.log(name, score, prog_bar=name == f"{split}/{self.task.monitor}", sync_dist=True)
        metrics.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """The rows of a prediction file, each with its ``row_id``."""
        assert self.label_names is not None
        rows = self.task.predictions(self(batch), self.label_names)
        row_ids = [row_id for row_id in batch["row_id"].tolist() if row_id >= 0]
        return [{"row_id": row_id, **row} for row_id, row in zip(row_ids, rows, strict=True)]

    # ---- optimiser and checkpoints

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser, and the schedule stepped after each of its steps."""
        factory = factory_from_plain(self.optimizer, Optimizer, "optimizer")
        optimizer: Optimizer = factory(parameter_groups(self))
        if self.lr_scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        # estimating has made an iterator over the train loader, and a checkpoint's position is restored only after:
        # let Lightning set the loader up again, or a resumed run would begin its epoch anew
        self.trainer.fit_loop._combined_loader = None
        schedule = build_schedule(self.lr_scheduler, optimizer, self.warmup_ratio, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the seed of the batches, and the teacher's scores so that a resumed run need not score it again."""
        checkpoint[STATE_KEY] = {
            "seed": self._seed,
            "teacher_scores": self.teacher_scores,
            "scores": self.validation_scores(),
        }

    def validation_scores(self) -> dict[str, float]:
        """``val/<metric>`` of the latest validation."""
        names = [f"val/{name}" for name in self.val_metrics]
        metrics = self.trainer.callback_metrics
        return {name: float(metrics[name]) for name in names if name in metrics}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load what ``on_save_checkpoint`` saved."""
        state = checkpoint.get(STATE_KEY, {})
        self._seed = state.get("seed")
        self.teacher_scores = state.get("teacher_scores", {})

