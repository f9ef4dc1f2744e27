"""The LightningModule that trains a student, with or without a teacher."""

import os
import warnings
from dataclasses import replace
from typing import Any, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lightning_kd import models
from lightning_kd.data.interface import get_datamodule
from lightning_kd.io.serialization import from_config, to_builtins, to_config
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models import Model, labels, sharding
from lightning_kd.optim.lazy_adamw import LazyAdamW, set_sparse_gradients
from lightning_kd.optim.schedules import DEFAULT_OPTIMIZER, OptimizerFactory, require_total_steps
from lightning_kd.outputs import AUGMENTED, Batch, Outputs, with_inputs
from lightning_kd.tasks.base import Task
from lightning_kd.teachers import checks as teacher_checks
from lightning_kd.teachers.cache import TeacherCache
from lightning_kd.teachers.cached_teacher import TEACHER_LOGITS, CachedTeacher
from lightning_kd.teachers.teacher import Teacher
from lightning_kd.training import checks
from lightning_kd.training.loss_schedules import Schedule, apply_schedules, resolve_schedules
from lightning_kd.training.optimized import OptimizedModule

STATE_KEY = "lightning_kd"
"""Where a checkpoint keeps the seed of the batches and the scores of teacher and student."""


class DistillationModule(OptimizedModule):
    """A trainable student and a frozen teacher.

    The total loss is the plain weighted sum of the losses. Logged are ``train/loss``, ``train/<loss name>`` (not
    weighted), ``train/<loss name>_<argument>`` of what is scheduled, ``val/<metric>``, ``test/<metric>``,
    ``val/<loss name>`` of losses that need no teacher and, once, ``val/teacher_<metric>``.

    Args:
        task: What is predicted and how it is scored.
        student: Hub id or folder, or ``{pretrained: <hub id or folder>, revision: ..., ...}`` with options of
            ``from_pretrained`` (pretrained weights); or ``{config: <hub id or folder>, num_hidden_layers: 2, ...}``,
            that model's configuration with fields replaced and fresh weights; or a module.
        teacher: Hub id or folder; or ``{pretrained: <hub id or folder>, quantization_config: {...}, ...}``, with
            arguments of ``from_pretrained``; a list of these (an ensemble, logits averaged); ``{ensemble: [...],
            combine: probabilities}`` (or ``confidence``: weighted by each network's entropy, row by row); a module; or
            null, which fine-tunes the student plainly.
        losses: The terms of the total by name, at least one.
        optimizer: Class and arguments of the optimiser. Biases and norms get no weight decay.
        lr_scheduler: One of ``optimizers.LR_SCHEDULERS`` (names of ``transformers.get_scheduler``) over all steps;
            null = constant.
        warmup_ratio: Share of the steps in which the learning rate rises from 0, in [0, 1].
        label_names: Names of the classes in index order, where the data do not say them.
        ignore_checks: What to let pass knowingly: ``tokenizer_mismatch``, ``label_mismatch``, ``weak_teacher``.
        teacher_cache: Folder in which the teacher's logits are kept, so that it sees each row once, in this run and in
            all others; or a ``TeacherCache``, which also says in which precision.
        loss_schedules: Arguments of losses that change over the optimizer steps, by loss and argument, such as
            ``{soft: {temperature: {start: 8, end: 1}}}``; they replace the numbers given to the losses.

    Raises:
        ValueError: If an argument is out of range, there is no loss, or a loss needs more than ``teacher_cache`` keeps.
    """

    def __init__(
        self,
        task: Task,
        student: str | dict[str, Any] | Model,
        teacher: str | dict[str, Any] | list[str | dict[str, Any]] | Model | None = None,
        losses: dict[str, DistillationLoss] = {},  # noqa: B006  only read; None would spoil the shell's messages
        optimizer: OptimizerFactory = DEFAULT_OPTIMIZER,
        lr_scheduler: str | None = "linear",
        warmup_ratio: float = 0.0,
        label_names: list[str] | None = None,
        ignore_checks: list[checks.IgnorableCheck] | None = None,
        teacher_cache: str | TeacherCache | None = None,
        loss_schedules: dict[str, dict[str, Schedule]] | None = None,
    ) -> None:
        self.ignore_checks: list[str] = list(ignore_checks or [])
        # a checkpoint hands objects over as plain data
        ignore_label_mismatch = "label_mismatch" in self.ignore_checks
        optimization = (optimizer, lr_scheduler, warmup_ratio)
        super().__init__(from_config(task, Task, "task"), student, label_names, ignore_label_mismatch, *optimization)
        terms = {name: from_config(loss, DistillationLoss, f"losses.{name}") for name, loss in losses.items()}
        if not terms:
            raise ValueError("losses: none given; name at least one, for instance hard: HardLabelLoss")
        for name in terms:
            if name == "loss" or not name.isidentifier() or hasattr(nn.ModuleDict(), name):
                raise ValueError(f"losses.{name}: the name is taken, or no plain word; use another")
        if isinstance(teacher, nn.Module) and teacher is student:
            raise ValueError("teacher: is the very module given as student; pass a copy, because it will be frozen")
        checks.check_losses_between_examples(terms, self.task)
        if isinstance(teacher_cache, (str, os.PathLike)):
            teacher_cache = TeacherCache(os.fspath(teacher_cache))
        self.teacher_cache: TeacherCache | None = from_config(teacher_cache, TeacherCache, "teacher_cache")
        if self.teacher_cache is not None:
            checks.check_cacheable_losses(terms)
        self.losses = nn.ModuleDict(terms)
        # not Lightning's own mean: on several devices it rounds the mean number of rows of a device down
        self.val_losses = nn.ModuleDict(
            {n: MeanMetric() for n, loss in terms.items() if not (loss.requires_teacher or loss.requires_augmented)}
        )
        self.teacher = None if teacher is None else Teacher(teacher, self.task)
        self.teacher_scores: dict[str, float] = {}
        self.cached_teachers: dict[str, CachedTeacher] = {}
        self._training_started = False
        self.loss_schedules = resolve_schedules(loss_schedules, terms)
        self._total_steps = 0
        self._needs_augmented = any(loss.requires_augmented for loss in terms.values())
        self._requires = frozenset(requirement for loss in terms.values() for requirement in loss.requires)
        self.save_hyperparameters(
            {
                "task": to_config(self.task),
                "teacher": self.teacher.source_config if self.teacher is not None else None,
                "losses": {name: to_config(loss) for name, loss in terms.items()},
                "loss_schedules": {
                    name: {argument: to_builtins(schedule) for argument, schedule in arguments.items()}
                    for name, arguments in self.loss_schedules.items()
                },
                "ignore_checks": self.ignore_checks,
                "teacher_cache": None if self.teacher_cache is None else to_config(self.teacher_cache),
            }
        )
        apply_schedules(self.loss_schedules, terms, progress=0)

    @property
    def active_teacher(self) -> Teacher | None:
        """The teacher if some loss reads its outputs, else None."""
        return self.teacher if any(loss.requires_teacher for loss in self.losses.values()) else None

    def teacher_label_names(self) -> list[str] | None:
        """The labels the teacher (of an ensemble, the first) knows; None without a teacher or names."""
        return self.teacher.label_names() if self.teacher is not None else None

    # ---- before the first step

    def configure_model(self) -> None:
        """Build the student, and for fitting what losses train beside it; divide them where the strategy shards.

        Callbacks that copy the module (weight averaging) call this before they do.
        """
        student = self.build_student()
        if self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            checks.setup_losses(self.losses, student, self.active_teacher)
        if self.device_mesh is not None:
            checks.check_sharding(self.trainer)
            sharding.shard(student, self.device_mesh, reshard_after_forward="qkv" not in self._requires)
            for loss in self.losses.values():
                if any(True for _ in loss.parameters()):
                    sharding.shard(loss, self.device_mesh)

    def setup(self, stage: str) -> None:
        """Build the student and check that data, student and teacher fit together."""
        super().setup(stage)
        if stage != "fit":
            return
        # of an earlier fit; a checkpoint's are restored after this
        self._seed, self.teacher_scores, self.cached_teachers, self._training_started = None, {}, {}, False
        # from_pretrained returns eval mode, and Lightning >= 2.2 leaves modes alone: dropout would be silently off
        self.build_student().train()
        checks.check_losses_have_teacher(self.losses, self.teacher)
        checks.check_weight_averaging(self.trainer, self.build_student())
        self.configure_model()
        lazy = isinstance(self._build_optimizer(), LazyAdamW)
        if lazy:
            checks.check_sparse_gradients(self.trainer, is_sharded=self.device_mesh is not None)
        set_sparse_gradients(self.build_student(), lazy)
        datamodule = get_datamodule(self.trainer)
        checks.check_lengths(datamodule, self.build_student(), self.active_teacher)
        if datamodule.allow_unlabeled and self.active_teacher is None and not self._needs_augmented:
            raise ValueError(
                "data.allow_unlabeled: no loss compares with a teacher, so nothing is learnt from rows without a "
                "label; add a teacher and a loss such as SoftTargetLoss, or ConsistencyLoss, or leave it out"
            )
        checks.check_augmentation(datamodule, self.losses)
        if (teacher := self.active_teacher) is not None:
            if self.task.num_labels is not None:
                teacher.check_num_labels(self.task.num_labels)
            if self.task.named_labels:
                teacher.align_classes(self.label_names or [], self._ignore_label_mismatch)
            teacher_checks.check_teacher_inputs(
                teacher, datamodule, self.losses, "tokenizer_mismatch" in self.ignore_checks
            )
            if not self.task.named_labels and self.task.num_labels is None:  # the classes are the tokens
                checks.check_vocab_sizes(self.build_student(), teacher)

    def on_fit_start(self) -> None:
        """Bring the teacher to the student's device, and open its cache."""
        super().on_fit_start()
        if (teacher := self.active_teacher) is None:
            return
        dtype = next(self.build_student().parameters()).dtype
        if self.teacher_cache is not None:
            self._open_cache(teacher, self.teacher_cache, dtype)
        teacher.to(self.device, dtype, self.device_mesh)
        if self.teacher_cache is None:
            teacher.load()

    def _open_cache(self, teacher: Teacher, cache: TeacherCache, dtype: torch.dtype) -> None:
        matmul = torch.backends.cuda.matmul
        matmul_precision = (
            matmul.fp32_precision if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
        )  # before 2.9
        teacher.unload()  # of an earlier fit: its folder may hold another since, whose rows these would become
        # not in setup: a checkpoint brings the seed by which the DataModule hides tokens, and is restored after it
        self.cached_teachers = cache.open(
            teacher,
            self.task,
            get_datamodule(self.trainer),
            ("train", "validation"),
            self.label_names or [],
            f"{self.trainer.precision} {dtype} {matmul_precision}",
        )
        # looked up while a batch is on the CPU; not as a method, about which Lightning would always warn
        warnings.filterwarnings("ignore", message="You have overridden `on_before_batch_transfer`")
        self.on_before_batch_transfer = self._add_teacher_logits  # type: ignore[method-assign]

    def on_train_start(self) -> None:
        """Count the steps of the run for ``loss_schedules``, and score the teacher."""
        if self.loss_schedules:  # not earlier: Lightning would set up the loader for it, see configure_optimizers
            steps = self.trainer.estimated_stepping_batches
            self._total_steps = require_total_steps(steps, "loss_schedules:", "leave loss_schedules out")
        self.score_teacher()
        self._training_started = True

    def score_teacher(self) -> None:
        """Score the teacher on the validation split, once, and refuse one that is guessing; a resumed run did this."""
        teacher = self.active_teacher
        if teacher is None or self.teacher_scores:
            return
        if self.trainer.val_dataloaders is None:
            rank_zero_warn("the teacher is not scored: there is no validation split, or it is not validated on now")
            return
        metrics = self.task.metrics(self.label_names or []).to(self.device)
        scored_teacher = self.cached_teachers.get("validation", teacher)
        scores, label_counts = teacher_checks.score_teacher(
            self.trainer, scored_teacher, self.task, metrics, self.to_device
        )
        name, ignore_weak_teacher = " + ".join(teacher.names), "weak_teacher" in self.ignore_checks
        teacher_checks.check_teacher_score(
            name, self.task, scores[self.task.monitor], label_counts, ignore_weak_teacher
        )
        self.teacher_scores = scores

    def to_device(self, batch: Batch) -> Batch:
        """A batch from a loader as the steps get it: through the hooks of module and DataModule, on the device."""
        batch = self._on_before_batch_transfer(batch)
        return self.remap_labels(self.trainer.strategy.batch_to_device(batch, self.device))

    # ---- steps

    def _add_teacher_logits(self, batch: Batch, dataloader_idx: int) -> Batch:
        batch = type(self).on_before_batch_transfer(self, batch, dataloader_idx)  # which this stands in for
        cached = self.cached_teachers.get("train") if self.trainer.training and self._training_started else None
        logits = cached.get(batch) if cached is not None else None
        return batch if logits is None else {**batch, TEACHER_LOGITS: logits}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The weighted sum of the losses.

        Raises:
            FloatingPointError: If it is not finite; names the loss and the rows.
        """
        if self.loss_schedules:
            self._apply_schedules()
        batch = self.remap_labels(batch)
        student = self(batch, self._requires)
        if self._needs_augmented:
            student = replace(student, augmented=self(with_inputs(batch, batch[AUGMENTED])))
        active_teacher = self.cached_teachers.get("train", self.active_teacher)
        teacher = active_teacher(batch, self._requires) if active_teacher is not None else None
        terms = {name: loss(student, teacher) for name, loss in self.losses.items()}
        weighted = torch.stack([self.losses[name].weight * term for name, term in terms.items()])
        total = weighted.sum()
        if not torch.isfinite(total):
            rows = batch["row_id"].tolist() if "row_id" in batch else f"of batch {batch_idx}"
            raise checks.nonfinite_loss_error(terms, f"epoch {self.current_epoch}, step {self.global_step}", rows)
        logged = {"train/loss": total, **{f"train/{name}": term for name, term in terms.items()}}
        self.log_dict({n: value.detach() for n, value in logged.items()}, prog_bar=True, batch_size=student.num_targets)
        return total if self.trainer.world_size == 1 else (weighted * self._rank_weights(student)).sum()

    def _apply_schedules(self) -> None:
        """Set the scheduled arguments of the losses, and log them as ``train/<loss name>_<argument>``."""
        losses = cast(dict[str, DistillationLoss], dict(self.losses.items()))
        values = apply_schedules(self.loss_schedules, losses, self.trainer.global_step / self._total_steps)
        self.log_dict({f"train/{name}": value for name, value in values.items()})

    def _rank_weights(self, student: Outputs) -> Tensor:
        """What each loss here counts for: strategies average gradients over devices, and these differ in rows."""
        losses = [loss for loss in self.losses.values() if isinstance(loss, DistillationLoss)]
        counts = torch.stack([loss.num_elements(student).to(self.device, torch.float32) for loss in losses])
        return counts / self.trainer.strategy.reduce(counts.clone(), reduce_op="mean").clamp(min=1e-6)

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count a batch into the validation metrics and into the losses that need no teacher."""
        outputs = self.update_metrics(batch, self.val_metrics)
        for name, mean in self.val_losses.items():
            assert isinstance(mean, MeanMetric)
            mean.update(self.losses[name](outputs, None), outputs.num_targets)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<metric>`` and ``val/<loss name>``."""
        super().on_validation_epoch_end()
        for name, mean in self.val_losses.items():
            assert isinstance(mean, MeanMetric)
            self.log(f"val/{name}", mean.compute(), sync_dist=True)
            mean.reset()

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the seed of the batches, and the scores so that a resumed run need not score the teacher again."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[STATE_KEY] = {
            "seed": self._seed,
            "teacher": self.teacher.source_repr if self.teacher is not None else None,
            "teacher_scores": self.teacher_scores,
            "scores": self.validation_scores(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load what ``on_save_checkpoint`` saved.

        Raises:
            ValueError: If the checkpoint's student has the labels in another order.
        """
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("student")
        names = labels.get_label_names(saved["config"].get("id2label")) if models.is_saved_config(saved) else None
        if names is not None and self.label_names and names != self.label_names:
            raise ValueError(
                f"ckpt_path: its student has the labels in the order {', '.join(names[:3])}, ..., this one "
                f"{', '.join(self.label_names[:3])}, ...; use DistillationModule.load_from_checkpoint"
            )
        state = checkpoint.get(STATE_KEY, {})
        self._seed = state.get("seed")
        if self.teacher is not None and self.teacher.source_repr == state.get("teacher"):
            self.teacher_scores = state["teacher_scores"]
