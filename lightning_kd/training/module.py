"""The LightningModule that trains a student, with or without a teacher."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric, MetricCollection

from lightning_kd import models
from lightning_kd.data.interface import DataModuleInterface, get_datamodule
from lightning_kd.io.checkpoint_io import checked_checkpoint, read_hyperparameters
from lightning_kd.io.consolidation import check_sharded_checkpoint, is_sharded_checkpoint
from lightning_kd.io.serialization import (
    check_restorable,
    class_from_config,
    from_config,
    to_builtins,
    to_config,
    unserializable_marker,
)
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models import Model, labels, sharding
from lightning_kd.models.prompt_config import check_prompt, set_config_prompt
from lightning_kd.optim.lazy_adamw import LazyAdamW, set_sparse_gradients
from lightning_kd.optim.parameter_groups import (
    DEFAULT_OPTIMIZER,
    OptimizerFactory,
    optimizer_state_by_name,
    parameter_groups,
)
from lightning_kd.optim.schedules import build_lr_scheduler, check_lr_scheduler, require_total_steps
from lightning_kd.outputs import TEACHER_LOGITS, Batch, Outputs, Requirement
from lightning_kd.tasks.base import Task
from lightning_kd.teachers import checks as teacher_checks
from lightning_kd.teachers.cache import TeacherCache
from lightning_kd.teachers.cached_teacher import CachedTeacher
from lightning_kd.teachers.teacher import Teacher
from lightning_kd.training import checks, resume_checks
from lightning_kd.training.accumulation import is_accumulating
from lightning_kd.training.gradient_clipping import clip_special_gradients
from lightning_kd.training.loss_schedules import Schedule, apply_schedules, resolve_schedules
from lightning_kd.training.watchdog import exit_with_parent_process

if TYPE_CHECKING:
    from typing_extensions import Self

STATE_KEY = "lightning_kd"
"""Key of a checkpoint under which the batch seed and the scores of teacher and student are saved."""


class DistillationModule(LightningModule):
    """A trainable student and a frozen teacher.

    The total loss is the weighted sum of the losses. Logs ``train/loss``, ``train/<loss name>`` (unweighted),
    ``train/<loss name>_<argument>`` for each scheduled argument, ``val/<metric>``, ``test/<metric>``,
    ``val/<loss name>`` for losses that need no teacher and, once, ``val/teacher_<metric>``.

    Args:
        task: Task of both models; defines heads, labels and metrics.
        student: Hub id or folder, or ``{pretrained: <Hub id or folder>, revision: ..., ...}`` with arguments of
            ``from_pretrained`` (pretrained weights); or ``{config: <Hub id or folder>, num_hidden_layers: 2, ...}``,
            a randomly initialized model with that configuration, some fields replaced; or a module.
        teacher: Hub id or folder; or ``{pretrained: <Hub id or folder>, quantization_config: {...}, ...}``, with
            arguments of ``from_pretrained``; a list of these (an ensemble, logits averaged); ``{ensemble: [...],
            combine: probabilities}`` (or ``confidence``: weighted per example by each model's entropy); a module; or
            null to fine-tune the student without a teacher.
        losses: The losses by name, at least one.
        optimizer: Class and arguments of the optimizer. Biases and normalization layers get no weight decay.
        lr_scheduler: Name of a ``transformers.get_scheduler`` schedule, one of ``optim.schedules.LR_SCHEDULERS``, over
            all steps; null = constant.
        warmup_ratio: Fraction of the steps over which the learning rate rises from 0, in [0, 1].
        label_names: Names of the classes in index order; needed only if the data does not define them.
        ignore_checks: Checks that do not stop the run if they fail: ``tokenizer_mismatch``, ``label_mismatch``,
            ``weak_teacher``; when a run is resumed, ``changed_teacher``, ``changed_data``, ``changed_batches``, which
            hold for that call only.
        teacher_cache: Folder for the teacher's logits, so that the teacher runs once per example across all runs;
            or a ``TeacherCache``, which also sets their precision.
        loss_schedules: Loss arguments that change over the optimizer steps, by loss and argument, such as
            ``{soft: {temperature: {start: 8, end: 1}}}``; they override the numbers passed to the losses.

    Raises:
        ValueError: If an argument is out of range, there is no loss, or a loss needs more than ``teacher_cache`` keeps.
    """

    student: nn.Module
    """The student; None until ``build_student``, unless it was passed as a module."""
    student_commit: list[str] | None
    """Hub id and commit of the pretrained weights; None if they are not from the Hub."""
    val_losses: Mapping[str, MeanMetric]
    """Mean of each loss that needs neither a teacher nor augmented examples, over the validation split."""

    def __init__(
        self,
        task: Task,
        student: str | dict[str, Any] | Model,
        teacher: str | dict[str, Any] | list[str | dict[str, Any]] | Model | None = None,
        losses: dict[str, DistillationLoss] = {},  # noqa: B006  never mutated; None would spoil the CLI's messages
        optimizer: OptimizerFactory = DEFAULT_OPTIMIZER,
        lr_scheduler: str | None = "linear",
        warmup_ratio: float = 0.0,
        label_names: list[str] | None = None,
        ignore_checks: list[checks.IgnorableCheck | resume_checks.IgnorableChange] | None = None,
        teacher_cache: str | TeacherCache | None = None,
        loss_schedules: dict[str, dict[str, Schedule]] | None = None,
    ) -> None:
        super().__init__()
        check_restorable(student, "student")
        student = models.parse_student(student)
        check_lr_scheduler(lr_scheduler, warmup_ratio)
        if isinstance(teacher, nn.Module) and teacher is student:
            raise ValueError("teacher: teacher and student are the same object; pass a copy (the teacher is frozen)")
        # a checkpoint passes objects as plain data
        self.task: Task = from_config(task, Task, "task")
        terms = {name: from_config(loss, DistillationLoss, f"losses.{name}") for name, loss in losses.items()}
        self.loss_schedules = resolve_schedules(loss_schedules, terms)
        if isinstance(teacher_cache, (str, os.PathLike)):
            teacher_cache = TeacherCache(os.fspath(teacher_cache))
        self.teacher_cache: TeacherCache | None = from_config(teacher_cache, TeacherCache, "teacher_cache")
        checks.check_losses(terms, self.task, self.teacher_cache is not None)

        self._student_source = student
        self.student = student if isinstance(student, nn.Module) else None  # type: ignore[assignment]
        self.ignore_checks: list[str] = list(ignore_checks or [])
        is_scored = "weak_teacher" not in self.ignore_checks
        requires_head = any(loss.requires_teacher and (is_scored or not loss.requires) for loss in terms.values())
        self.teacher = None if teacher is None else Teacher(teacher, self.task, requires_head)
        self.losses = nn.ModuleDict(terms)
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.warmup_ratio = warmup_ratio
        self.label_names = label_names or []
        self._ignore_label_mismatch = "label_mismatch" in self.ignore_checks
        self._label_index: Tensor | None = None
        self._fresh_weights: list[str] = []
        self.student_commit = None
        self._requires = frozenset(requirement for loss in terms.values() for requirement in loss.requires)

        self.teacher_scores: dict[str, float] = {}
        self.cached_teachers: dict[str, CachedTeacher] = {}
        # not Lightning's mean, which rounds the mean number of examples per device down
        self.val_losses = nn.ModuleDict(  # type: ignore[assignment]
            {n: MeanMetric() for n, loss in terms.items() if not (loss.requires_teacher or loss.requires_augmented)}
        )
        self._metric_names: list[str] = []
        self._seed: int | None = None
        self._total_steps = 0
        self._run: dict[str, Any] = {}
        self._changes: resume_checks.Changes = {}
        self._parameter_group_settings: list[dict[str, Any]] = []
        self.register_load_state_dict_post_hook(_forget_fresh_weights)  # type: ignore[no-untyped-call]
        self.save_hyperparameters(self._serialize_arguments())
        apply_schedules(self.loss_schedules, terms, progress=0)

    def _serialize_arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain data, for checkpoints that load with ``weights_only=True``."""
        student = self._student_source
        return {
            "task": to_config(self.task),
            "student": unserializable_marker(student) if isinstance(student, nn.Module) else student,
            "teacher": None if self.teacher is None else self.teacher.source_config,
            "losses": {name: to_config(loss) for name, loss in self.losses.items()},
            "optimizer": self.optimizer if isinstance(self.optimizer, dict) else to_config(self.optimizer),
            "lr_scheduler": self.lr_scheduler,
            "warmup_ratio": self.warmup_ratio,
            "label_names": self.label_names or None,
            "ignore_checks": [name for name in self.ignore_checks if name not in resume_checks.IGNORABLE_CHANGES],
            "teacher_cache": None if self.teacher_cache is None else to_config(self.teacher_cache),
            "loss_schedules": {
                name: {argument: to_builtins(schedule) for argument, schedule in arguments.items()}
                for name, arguments in self.loss_schedules.items()
            },
        }

    @property
    def named_losses(self) -> dict[str, DistillationLoss]:
        """The losses by name."""
        return cast(dict[str, DistillationLoss], dict(self.losses.items()))

    @property
    def active_teacher(self) -> Teacher | None:
        """The teacher if a loss reads its outputs, else None."""
        return self.teacher if any(loss.requires_teacher for loss in self.named_losses.values()) else None

    # ---- student and labels

    def build_student(self) -> nn.Module:
        """Build the student and its metrics if they are not built yet, and resolve the order of its labels.

        ``configure_model`` calls this; a callback that needs the student earlier may also call it. It does not
        shard the student.

        Returns:
            The student.

        Raises:
            OSError: If the student or the teacher's configuration cannot be loaded.
            ValueError: If student and teacher, or student and data, have different labels.
        """
        if hasattr(self, "val_metrics"):
            return self.student
        source = models.pin_revisions(self._student_source, "student")
        if source is not self._student_source:  # a Hub id
            self._student_source, self.student_commit = source, [source["pretrained"], source["revision"]]
        names = self._resolve_label_names() if self.task.named_labels else None
        if isinstance(source, nn.Module):
            if names:
                models.set_label_names(source, names)
            if self.task.num_labels is not None:
                models.check_num_labels(source, self.task.num_labels, "student")
        else:
            num_labels = names or self.task.num_labels
            self.student, self._fresh_weights = models.build_student(source, self.task.auto_class, num_labels)
            self.hparams["student"] = {"config": models.config_to_dict(self.student)}
        if self.task.named_labels:
            self.label_names = names or list((models.get_id2label(self.student) or {}).values())
            if not self.label_names:
                raise ValueError(
                    "label_names: neither data, student nor teacher define label names; pass label_names=[...]"
                )
        else:
            self.label_names = []
        self.val_metrics = self.task.metrics(self.label_names)
        self.test_metrics = self.task.metrics(self.label_names)
        return self.student

    def _resolve_label_names(self) -> list[str] | None:
        source = self._student_source
        if models.is_saved_config(source):
            return None  # a saved configuration has its labels: neither teacher nor hub is needed
        student_names = labels.get_label_names(models.get_id2label(models.pretrained_config(source)))
        teacher_names = self.teacher.label_names() if self.teacher is not None else None
        return labels.resolve_label_names(
            student_names, teacher_names, self._data_label_names(), self._ignore_label_mismatch
        )

    def _data_label_names(self) -> list[str] | None:
        return get_datamodule(self._trainer).label_names or self.hparams["label_names"]

    def remap_labels(self, batch: Batch) -> Batch:
        """Return the batch with its labels converted from the data's class order to the student's."""
        if self._label_index is None:
            return batch
        self._label_index = self._label_index.to(self.device)
        return self.task.remap_labels(batch, self._label_index, len(self.label_names))

    # ---- setup

    def configure_model(self) -> None:
        """Build the student and the trainable layers of the losses, and shard both if the strategy does.

        Callbacks that copy the module (weight averaging) call this before they copy; ``load_from_checkpoint`` calls it
        without a trainer.
        """
        student = self.build_student()
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            checks.check_callbacks(self._trainer, student, self.device_mesh is not None)
            checks.setup_losses(self.named_losses, student, self.active_teacher)
        if self.device_mesh is not None:
            sharding.shard(student, self.device_mesh, reshard_after_forward="qkv" not in self._requires)
            for loss in self.named_losses.values():
                if any(True for _ in loss.parameters()):
                    sharding.shard(loss, self.device_mesh)

    def setup(self, stage: str) -> None:
        """Build the student and check that data, student and teacher match.

        Raises:
            ValueError: If they do not, and ``ignore_checks`` does not allow it.
        """
        exit_with_parent_process(self.trainer)
        datamodule = get_datamodule(self.trainer)
        self.task.check_data(datamodule)
        self.build_student()
        self._label_index = None
        if stage != "predict" and (data_names := self._data_label_names()):
            self._label_index = labels.align_labels(
                data_names,
                self.label_names,
                "data and student",
                "use the data this student was trained on",
                self._ignore_label_mismatch,
                subset=True,
            )
        if stage == "fit":
            self._setup_fit(datamodule)
        else:
            check_prompt(self.student, datamodule.prompt, "the student", "prompt")

    def _setup_fit(self, datamodule: DataModuleInterface) -> None:
        # reset the state of an earlier fit; a checkpoint is restored after this
        self._seed, self.teacher_scores, self.cached_teachers = None, {}, {}
        datamodule.teacher_cache_lookup = None
        set_config_prompt(self.student, datamodule.prompt)
        if models.is_saved_config(self.hparams["student"]):
            self.hparams["student"] = {"config": models.config_to_dict(self.student)}
        # from_pretrained returns eval mode, and Lightning >= 2.2 leaves modes alone: dropout would be silently off
        self.student.train()
        losses, teacher = self.named_losses, self.active_teacher
        checks.check_trainer(self.trainer)
        checks.check_weights(losses, self.loss_schedules)
        checks.check_num_classes(losses, self.task, self.label_names)
        checks.check_losses_have_teacher(losses, self.teacher)
        self.configure_model()
        is_lazy = isinstance(self._build_optimizer(), LazyAdamW)
        if is_lazy:
            checks.check_sparse_gradients(self.trainer, is_sharded=self.device_mesh is not None)
        set_sparse_gradients(self.student, is_lazy)
        checks.check_lengths(datamodule, self.student, teacher)
        checks.check_data(datamodule, losses, teacher)
        if teacher is not None:
            ignore_tokenizer_mismatch = "tokenizer_mismatch" in self.ignore_checks
            teacher_checks.check_teacher_inputs(teacher, datamodule, self.losses, ignore_tokenizer_mismatch)
            if self.task.num_labels is not None:
                teacher.check_num_labels(self.task.num_labels)
            if self.task.named_labels:
                teacher.align_classes(self.label_names, self._ignore_label_mismatch)
            elif self.task.num_labels is None:  # the classes are the tokens
                checks.check_vocab_sizes(self.student, teacher)
        self._changes = {}
        self._run = {
            "trainer": resume_checks.trainer_settings(self.trainer),
            "data": datamodule.describe_train_data(),
            "teacher": None,
        }
        if teacher is not None:
            with suppress(NotImplementedError, RuntimeError, TypeError):  # weights that are not in memory, or quantized
                self._run["teacher"] = teacher.fingerprints()

    def on_fit_start(self) -> None:
        """Set the batch seed unless a checkpoint restored it, move the teacher to the device, and open its cache."""
        if self._seed is None:
            self._seed = int(self.trainer.strategy.broadcast(torch.initial_seed()))
        if (teacher := self.active_teacher) is None:
            return
        dtype = next(self.student.parameters()).dtype
        if self.teacher_cache is not None:
            self._open_cache(teacher, self.teacher_cache, dtype)
        teacher.to(self.device, dtype, self.device_mesh)
        if self.teacher_cache is None:
            teacher.load()

    def _open_cache(self, teacher: Teacher, cache: TeacherCache, dtype: torch.dtype) -> None:
        matmul = torch.backends.cuda.matmul  # fp32_precision is new in torch 2.9
        matmul_precision = matmul.fp32_precision if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
        precision = f"{self.trainer.precision} {dtype} {matmul_precision}"
        teacher.unload()  # an earlier fit may have loaded it, and the folder may have changed since
        # not in setup: a checkpoint, restored after it, has the seed with which the DataModule masks tokens
        datamodule, splits = get_datamodule(self.trainer), ("train", "validation")
        self.cached_teachers = cache.open(teacher, self.task, datamodule, splits, self.label_names, precision)

    def _add_teacher_logits(self, batch: Batch) -> Batch:
        logits = self.cached_teachers["train"].get(batch) if self.trainer.training else None
        return batch if logits is None else {**batch, TEACHER_LOGITS: logits}

    def on_train_start(self) -> None:
        """Get the number of steps for ``loss_schedules``, score the teacher, and look up its logits from then on."""
        if self.loss_schedules:  # not earlier: Lightning would set up the loader for it, see configure_optimizers
            steps = self.trainer.estimated_stepping_batches
            self._total_steps = require_total_steps(steps, "loss_schedules:", "leave loss_schedules out")
        self._apply_changes()
        self.score_teacher()
        if self.cached_teachers:
            get_datamodule(self.trainer).teacher_cache_lookup = self._add_teacher_logits

    def _apply_changes(self) -> None:
        """Log what changed since the checkpoint, and undo what Lightning restored of it."""
        step = self.trainer.global_step
        for key, (old, new) in self._changes.items():
            rank_zero_info(f"{key}: {old} → {new} from step {step:,} on")
        if any(key.startswith(resume_checks.LR_KEYS) for key in self._changes):
            schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
            resume_checks.apply_optimizer_settings(
                self.trainer.optimizers, self._parameter_group_settings, schedules, step
            )

    def score_teacher(self) -> None:
        """Score the teacher on the validation split, once per run.

        Raises:
            ValueError: If it is no better than chance, and ``ignore_checks`` does not allow it.
        """
        teacher = self.active_teacher
        if teacher is None or self.teacher_scores:
            return
        if self.trainer.val_dataloaders is None:
            rank_zero_warn("the teacher is not scored: there is no validation split, or validation is turned off")
            return
        metrics = self.task.metrics(self.label_names).to(self.device)
        scored_teacher = self.cached_teachers.get("validation", teacher)
        scores, statistics = teacher_checks.score_teacher(
            self.trainer, scored_teacher, self.task, metrics, self.to_device
        )
        name, score = " + ".join(teacher.names), scores[self.task.monitor]
        teacher_checks.check_teacher_score(name, self.task, score, statistics, "weak_teacher" in self.ignore_checks)
        self.teacher_scores = scores

    def to_device(self, batch: Batch) -> Batch:
        """Return a dataloader's batch as the step methods use it: on the device, with remapped labels."""
        # private, but the only way to the hook that Lightning chooses among module and DataModule (2.6)
        batch = self._on_before_batch_transfer(batch)
        return self.remap_labels(self.trainer.strategy.batch_to_device(batch, self.device))

    # ---- training

    def forward(self, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Return the student's outputs for a batch.

        Args:
            batch: A batch of the DataModule.
            requires: Intermediate outputs to return as well.
        """
        return self.task.run(self.student, batch, requires)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed dropout with the batch number, so that resuming needs no saved random state."""
        number = self.trainer.fit_loop.epoch_loop.total_batch_idx
        sequence = np.random.SeedSequence([self._seed or 0, self.global_rank, number])
        seed = int(sequence.generate_state(1, np.uint64)[0])
        # not torch.manual_seed, which formats a stack trace (2 ms) if CUDA has not been initialized
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the weighted sum of the losses.

        Raises:
            FloatingPointError: If it is not finite; names the teacher or else the loss, and the examples.
        """
        losses = self.named_losses
        if self.loss_schedules:
            values = apply_schedules(self.loss_schedules, losses, self.trainer.global_step / self._total_steps)
            self.log_dict({f"train/{name}": value for name, value in values.items()})
        batch = self.remap_labels(batch)
        student = self(batch, self._requires)
        for loss in losses.values():
            student = loss.extend_outputs(student, batch, self)
        active_teacher = self.cached_teachers.get("train", self.active_teacher)
        teacher = active_teacher(batch, self._requires) if active_teacher is not None else None
        terms = {name: loss(student, teacher) for name, loss in losses.items()}
        weighted = torch.stack([losses[name].weight * term for name, term in terms.items()])
        total = weighted.sum()
        if not torch.isfinite(total):
            if teacher is not None and self.teacher is not None:
                self.task.check_finite(teacher, batch, self.teacher.role)
            row_ids = batch["row_id"].tolist() if "row_id" in batch else f"of batch {batch_idx}"
            raise checks.nonfinite_loss_error(terms, f"epoch {self.current_epoch}, step {self.global_step}", row_ids)
        logged = {"train/loss": total, **{f"train/{name}": term for name, term in terms.items()}}
        self.log_dict({n: value.detach() for n, value in logged.items()}, prog_bar=True, batch_size=student.num_targets)
        return total if self.trainer.world_size == 1 else (weighted * self._rank_weights(student)).sum()

    def _rank_weights(self, student: Outputs) -> Tensor:
        # strategies average gradients over devices, but the number of elements that a loss averages differs by device
        counts = torch.stack(
            [loss.num_elements(student).to(self.device, torch.float32) for loss in self.named_losses.values()]
        )
        return counts / self.trainer.strategy.reduce(counts.clone(), reduce_op="mean").clamp(min=1e-6)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Free the gradients after the optimizer's step; Lightning frees them after the next forward pass."""
        self._fresh_weights = []
        if not is_accumulating(self.trainer):
            self.zero_grad()

    def on_fit_end(self) -> None:
        """Stop looking up the teacher's logits."""
        get_datamodule(self.trainer).teacher_cache_lookup = None

    # ---- validation, test, predict

    def on_test_start(self) -> None:
        """Check that the student's head has trained weights, from a fit, a checkpoint or its source.

        Raises:
            ValueError: If its head was drawn at random.
        """
        if self._fresh_weights and self.trainer.state.fn != TrainerFn.FITTING:
            source, _ = models.parse_pretrained(self._student_source, "student")
            raise models.fresh_head_error(self._fresh_weights, "student", source)

    on_validation_start = on_predict_start = on_test_start

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the validation metrics and the losses that need no teacher."""
        outputs = self._update_metrics(batch, self.val_metrics)
        for name, mean in self.val_losses.items():
            mean.update(self.losses[name](outputs, None), outputs.num_targets)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the test metrics."""
        self._update_metrics(batch, self.test_metrics)

    def _update_metrics(self, batch: Batch, metrics: MetricCollection) -> Outputs:
        outputs: Outputs = self(self.remap_labels(batch))
        self.task.update(metrics, outputs, batch)
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<metric>`` and ``val/<loss name>``."""
        self._log_metrics("val", self.val_metrics)
        for name, mean in self.val_losses.items():
            self.log(f"val/{name}", mean.compute(), sync_dist=True)
            mean.reset()

    def on_test_epoch_end(self) -> None:
        """Log ``test/<metric>``."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, split: str, metrics: MetricCollection) -> None:
        scores = metrics.compute()
        self._metric_names = list(scores)
        for name, score in scores.items():
            # torchmetrics has reduced over the devices already; without sync_dist Lightning would warn
            self.log(f"{split}/{name}", score, prog_bar=name == self.task.monitor, sync_dist=True)
        metrics.reset()

    def validation_scores(self) -> dict[str, float]:
        """Return ``val/<metric>`` of the latest validation."""
        names = [f"val/{name}" for name in self._metric_names]
        metrics = self.trainer.callback_metrics
        return {name: float(metrics[name]) for name in names if name in metrics}

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return the task's predictions, one per example, each with its ``row_id`` if the batch has them."""
        predictions = self.task.predictions(self(batch), batch, self.label_names)
        if "row_id" not in batch:
            return predictions
        row_ids = [row_id for row_id in batch["row_id"].tolist() if row_id >= 0]
        return [{"row_id": row_id, **prediction} for row_id, prediction in zip(row_ids, predictions, strict=True)]

    # ---- optimizer

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its learning rate schedule, which advances after each optimizer step."""
        optimizer = self._build_optimizer()
        self._parameter_group_settings = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        if self.lr_scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        # estimating has made an iterator over the train loader, and a checkpoint's position is restored only after:
        # let Lightning set the loader up again, or a resumed run would restart its epoch
        self.trainer.fit_loop._combined_loader = None
        schedule = build_lr_scheduler(self.lr_scheduler, optimizer, self.warmup_ratio, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _build_optimizer(self) -> Optimizer:
        factory = class_from_config(self.optimizer, Optimizer, "optimizer")
        optimizer: Optimizer = factory(parameter_groups(self))
        return optimizer

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients as Lightning does, including sparse ones and those of a fused optimizer in bf16."""
        precision = self.trainer.precision_plugin
        if not clip_special_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm, precision):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the batch seed and the scores, and name the parameters in the optimizer's state.

        With names instead of numbers the optimizer's state can be restored under any strategy.
        """
        if "optimizer_states" in checkpoint and self.trainer.strategy.lightning_restore_optimizer:
            checkpoint["optimizer_states"] = [optimizer_state_by_name(opt, self) for opt in self.trainer.optimizers]
        checkpoint[STATE_KEY] = {
            "seed": self._seed,
            "student_commit": self.student_commit,
            "teacher": self.teacher.source_repr if self.teacher is not None else None,
            "teacher_scores": self.teacher_scores,
            "scores": self.validation_scores(),
            "run": self._run,
        }

    @property
    def strict_loading(self) -> bool:
        """True if a checkpoint must have exactly the module's weights; checks a sharded checkpoint when it is read.

        ``ModelParallelStrategy`` (Lightning 2.6) reads it immediately before PyTorch unpickles parts of the checkpoint
        without restrictions, and offers no hook there.

        Raises:
            ValueError: If the sharded checkpoint to load holds objects other than tensors and plain data.
        """
        path = self._trainer.ckpt_path if self._trainer is not None else None
        if path is not None and is_sharded_checkpoint(Path(path)):
            check_sharded_checkpoint(Path(path))
        return super().strict_loading

    @strict_loading.setter
    def strict_loading(self, strict_loading: bool) -> None:
        self._strict_loading = strict_loading

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the batch seed and, if the teacher is the same, its scores; to resume, compare the run as well.

        Raises:
            ValueError: If the checkpoint's student has a different label order, or something differs in a resumed run
                that cannot be changed, see ``training.resume_checks``.
        """
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("student")
        names = labels.get_label_names(saved["config"].get("id2label")) if models.is_saved_config(saved) else None
        if names is not None and self.label_names and names != self.label_names:
            raise ValueError(
                f"ckpt_path: the checkpoint's labels are in the order {', '.join(names[:3])}, ..., the student's "
                f"{', '.join(self.label_names[:3])}, ...; use DistillationModule.load_from_checkpoint"
            )
        state = checkpoint.get(STATE_KEY, {})
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            self._check_changes(checkpoint, state.get("run") or {})
        self._seed = state.get("seed")
        self.student_commit = state.get("student_commit")
        is_changed = self._run and state.get("run") and self._run["teacher"] != state["run"]["teacher"]
        if self.teacher is not None and self.teacher.source_repr == state.get("teacher") and not is_changed:
            self.teacher_scores = state["teacher_scores"]

    def _check_changes(self, checkpoint: dict[str, Any], saved_run: dict[str, Any]) -> None:
        saved, run = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}), self._run
        changes = resume_checks.compare_settings(saved, self.hparams, saved_run, run)
        if models.is_saved_config(student := self.hparams["student"]):
            resume_checks.check_student(saved.get("student"), student["config"])
        parameterized = {name for name, loss in self.named_losses.items() if any(True for _ in loss.parameters())}
        parameterized |= {key.split(".")[1] for key in checkpoint.get("state_dict", {}) if key.startswith("losses.")}
        resume_checks.check_settings(changes, parameterized)
        if saved_run:
            datamodule, ignored = get_datamodule(self.trainer), self.ignore_checks
            resume_checks.check_teacher(saved_run["teacher"], run["teacher"], ignored)
            data, data_key = saved_run["data"], type(datamodule).__qualname__
            if data:
                is_same = resume_checks.check_data(data, datamodule, run["data"], changes, ignored)
                if checkpoint[data_key]["position"]["batches"]:
                    sizes = data["global_batch_size"], run["data"].get("global_batch_size", 0)
                    resume_checks.check_batches(*sizes, ignored)
                    if not is_same or sizes[0] != sizes[1]:
                        resume_checks.restart_epoch(checkpoint, data_key)
        else:
            rank_zero_warn("ckpt_path: has no record of teacher and training data, so they are not compared")
        self._changes = changes

    @_restricted_classmethod
    def load_from_checkpoint(
        cls,  # noqa: N805  the decorator makes it a class method that rejects instances
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> "Self":
        """Load a checkpoint as Lightning does, but unpickle objects only if ``weights_only=False``.

        Raises:
            ValueError: If the checkpoint is damaged, holds objects other than tensors and plain data, or names a
                teacher with options that run code, such as ``trust_remote_code``, and no ``teacher`` is passed.
        """
        with checked_checkpoint(checkpoint_path):
            if weights_only is not False and "teacher" not in kwargs:
                saved = read_hyperparameters(checkpoint_path)
                if (option := models.find_code_option(saved.get("teacher"))) is not None:
                    raise ValueError(
                        f"teacher.{option} is not taken from a checkpoint, since it runs code; pass teacher=..."
                    )
            return super().load_from_checkpoint(
                checkpoint_path, map_location, hparams_file, strict, weights_only is not False, **kwargs
            )


def _forget_fresh_weights(module: nn.Module, incompatible_keys: Any) -> None:
    """Note that a module's weights have been loaded; a function, so that the module can be pickled."""
    module._fresh_weights = []  # type: ignore[assignment]
