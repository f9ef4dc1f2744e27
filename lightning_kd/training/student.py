"""The half of a run that needs no teacher: a student that is built, scored, and used for predictions."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_kd import models
from lightning_kd.data.interface import get_datamodule
from lightning_kd.io.checkpoint_io import checked_checkpoint
from lightning_kd.io.serialization import check_restorable, unserializable_marker
from lightning_kd.models import labels
from lightning_kd.models.prompt_config import check_prompt, set_config_prompt
from lightning_kd.outputs import Batch, Outputs, Requirement
from lightning_kd.tasks.base import Task
from lightning_kd.training.watchdog import exit_with_parent_process

if TYPE_CHECKING:
    from typing_extensions import Self


class StudentModule(LightningModule):
    """A network with the heads of a task: validates, tests and predicts, and is rebuilt from its checkpoint.

    The base of ``DistillationModule``, which adds what training needs.

    Args:
        task: What is predicted and how it is scored.
        student: Hub id or folder; or a mapping (see ``models.parse_student``); or a module.
        label_names: Names of the classes in index order, where the data do not say them.
        ignore_label_mismatch: Take label sets of the same size to be the same, whatever their names.

    Raises:
        ValueError: If the student was given as a module and is missing after a checkpoint was loaded.
    """

    def __init__(
        self,
        task: Task,
        student: str | dict[str, Any] | nn.Module,
        label_names: list[str] | None,
        ignore_label_mismatch: bool,
    ) -> None:
        super().__init__()
        check_restorable(student, "student")
        student = models.parse_student(student)
        self.task = task
        self.student: nn.Module | None = student if isinstance(student, nn.Module) else None
        self.label_names = label_names
        self._user_label_names = label_names
        self._student_source = student
        self._ignore_label_mismatch = ignore_label_mismatch
        self._label_index: Tensor | None = None
        self._metric_names: list[str] = []
        self.save_hyperparameters(
            {
                "student": unserializable_marker(student) if isinstance(student, nn.Module) else student,
                "label_names": label_names,
            }
        )

    def teacher_label_names(self) -> list[str] | None:
        """The labels a teacher knows; None without a teacher or names."""
        return None

    def build_student(self) -> nn.Module:
        """Build the student if it is not built yet, and settle the order of its labels.

        Called in ``setup`` and when a checkpoint is loaded; a callback that needs the student earlier may call it too.

        Raises:
            OSError: If the student or the teacher's configuration cannot be loaded.
            ValueError: If student and teacher, or student and data, know different labels.
        """
        if not hasattr(self, "val_metrics"):
            source = self._student_source
            names = self._resolve_label_names(source) if self.task.named_labels else None
            if isinstance(source, nn.Module) and names:
                models.set_label_names(source, names)
            if isinstance(source, nn.Module) and self.task.num_labels is not None:
                models.check_num_labels(source, self.task.num_labels, "student")
            if self.student is None:
                assert not isinstance(source, nn.Module)
                self.student = models.build_student(source, self.task.auto_class, names or self.task.num_labels)
                self.hparams["student"] = {"config": models.config_to_dict(self.student)}
            if not self.task.named_labels:
                self.label_names = []
            else:
                self.label_names = names or list((models.get_id2label(self.student) or {}).values())
                if not self.label_names:
                    raise ValueError(
                        "label_names: neither data, student nor teacher name the classes; pass label_names=[...]"
                    )
            self.val_metrics = self.task.metrics(self.label_names)
            self.test_metrics = self.task.metrics(self.label_names)
        assert self.student is not None
        return self.student

    def _resolve_label_names(self, source: str | dict[str, Any] | nn.Module) -> list[str] | None:
        if models.is_saved_config(source):
            return None  # a configuration from a checkpoint has settled its labels; neither teacher nor hub is asked
        student_names = labels.get_label_names(models.get_id2label(models.pretrained_config(source)))
        return labels.resolve_label_names(
            student_names, self.teacher_label_names(), self._data_label_names(), self._ignore_label_mismatch
        )

    @_restricted_classmethod
    def load_from_checkpoint(
        cls,  # noqa: N805  made a class method by the decorator, which refuses an instance
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> "Self":
        """As Lightning's, but a checkpoint from elsewhere is never unpickled unless ``weights_only=False`` asks for it.

        Raises:
            ValueError: If the checkpoint is damaged, or holds more than tensors and plain data.
        """
        with checked_checkpoint(checkpoint_path):
            return super().load_from_checkpoint(
                checkpoint_path, map_location, hparams_file, strict, weights_only is not False, **kwargs
            )

    def configure_model(self) -> None:
        """Build the student; also called by ``load_from_checkpoint``, where there is no trainer."""
        self.build_student()

    def _data_label_names(self) -> list[str] | None:
        return get_datamodule(self._trainer).label_names or self._user_label_names

    def setup(self, stage: str) -> None:
        """Build the student and check that the data name the labels it knows.

        Raises:
            ValueError: If they do not, and that was not accepted.
        """
        exit_with_parent_process(self.trainer)
        datamodule = get_datamodule(self.trainer)
        self.task.check_data(datamodule)
        student, prompt = self.build_student(), datamodule.prompt
        if stage == "fit":
            set_config_prompt(student, prompt)
            if models.is_saved_config(self.hparams["student"]):
                self.hparams["student"] = {"config": models.config_to_dict(student)}
        else:
            check_prompt(student, prompt, "the student", "prompt")
        if stage != "predict" and (data_names := self._data_label_names()):
            remedy = "use the data this student was made for"
            self._label_index = labels.align_labels(
                data_names,
                self.label_names or [],
                "data and student",
                remedy,
                self._ignore_label_mismatch,
                subset=True,
            )

    def forward(self, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """What the student returns for a batch."""
        assert self.student is not None
        return self.task.run(self.student, batch, requires)

    def remap_labels(self, batch: Batch) -> Batch:
        """The batch with its labels, which are in the data's order, in the student's."""
        if self._label_index is None or "labels" not in batch:
            return batch
        batch_labels = batch["labels"]
        self._label_index = index = self._label_index.to(batch_labels.device)
        return {**batch, "labels": labels.remap_labels(batch_labels, index)}

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count a batch into the test metrics."""
        self.update_metrics(batch, self.test_metrics)

    def update_metrics(self, batch: Batch, metrics: MetricCollection) -> Outputs:
        """Run the student on a batch of labelled rows and count it into the metrics."""
        outputs: Outputs = self(self.remap_labels(batch))
        self.task.update(metrics, outputs, batch)
        return outputs

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<metric>``."""
        self._log_metrics("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log ``test/<metric>``."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, split: str, metrics: MetricCollection) -> None:
        scores = metrics.compute()
        self._metric_names = list(scores)
        for name, score in scores.items():
            # torchmetrics has summed over the devices already; without sync_dist Lightning would warn
            self.log(f"{split}/{name}", score, prog_bar=name == self.task.monitor, sync_dist=True)
        metrics.reset()

    def validation_scores(self) -> dict[str, float]:
        """``val/<metric>`` of the latest validation."""
        names = [f"val/{name}" for name in self._metric_names]
        metrics = self.trainer.callback_metrics
        return {name: float(metrics[name]) for name in names if name in metrics}

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """The rows of a prediction file, each with its ``row_id`` where the batch has them."""
        rows = self.task.predictions(self(batch), batch, self.label_names or [])
        if "row_id" not in batch:
            return rows
        row_ids = [row_id for row_id in batch["row_id"].tolist() if row_id >= 0]
        return [{"row_id": row_id, **row} for row_id, row in zip(row_ids, rows, strict=True)]
