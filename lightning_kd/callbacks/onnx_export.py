"""Exports the best student to ONNX, in float32 and int8."""

from dataclasses import replace
from pathlib import Path

import transformers
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_kd.callbacks.export_base import MAX_LOGIT_DIFFERENCE, GraphExport
from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.batches import as_text_datamodule, validation_batches
from lightning_kd.export import onnx
from lightning_kd.export.student import TrainedStudent
from lightning_kd.io.atomic import atomic_directory


class ONNXExport(GraphExport):
    """Exports the best student at the end of ``fit`` as an ONNX graph for any batch size and sequence length.

    The folder has ``model.onnx``, configuration, tokenizer and model card, as expected by optimum's ``ORTModelFor…``
    and its pipelines. The graph is compared with the student on examples of the validation split. A second folder has
    an int8 version (dynamic quantization of weights and embeddings), a quarter of the size. It scales
    activations over the whole batch, so its predictions depend slightly on the other examples of the batch.

    Needs ``pip install 'lightning-kd[onnx]'``.

    Args:
        output_dir: Folder to write; null = ``onnx`` in the run's log folder. The int8 folder has the suffix ``-int8``.
        int8: If True, also write an int8 version.
        num_check_examples: Number of validation examples on which the graph is compared with the student, >= 1.

    Raises:
        ValueError: If ``num_check_examples`` is less than 1; before training, if a package is missing, ONNX does not
            support an operator of the student, or a folder must not be replaced.
    """

    dirname = "onnx"
    config_key = "ONNXExport"
    description = "ONNX graph"

    def __init__(self, output_dir: str | None = None, int8: bool = True, num_check_examples: int = 256) -> None:
        super().__init__(output_dir, num_check_examples)
        self.int8 = int8

    def variant_dirs(self, target: Path) -> list[Path]:
        """Return the folders of the float32 and the int8 graph."""
        return [target, self._int8_dir(target)] if self.int8 else [target]

    @staticmethod
    def _int8_dir(target: Path) -> Path:
        return target.with_name(f"{target.name}-int8")

    def check_installed(self) -> None:
        """Raise if ONNX or ONNX Runtime is missing."""
        onnx.check_installed()

    def dry_run(self, model: "transformers.PreTrainedModel", datamodule: TextDataModule) -> None:
        """Export the model without writing it."""
        onnx.to_onnx(model, next(validation_batches(datamodule, 1)))

    def write(self, target: Path, student: TrainedStudent) -> None:
        """Write the float32 graph and its int8 version, both or neither."""
        student = replace(student, model=student.model.float())
        int8_dir = self._int8_dir(target)
        if not self.int8:
            super().write(target, student)
            if int8_dir.exists():
                rank_zero_warn(f"ONNXExport: {str(int8_dir)!r} is from an earlier export and was not updated")
            return
        with atomic_directory(int8_dir) as int8_folder, atomic_directory(target) as folder:
            self.write_files(folder, student)
            onnx.quantize(folder / onnx.ONNX_WEIGHTS_NAME, int8_folder / onnx.ONNX_WEIGHTS_NAME)
            self._compare_and_describe(int8_folder, student, "int8", None)
        rank_zero_info(f"{self.description} written to {target}, int8 to {int8_dir}")

    def write_files(self, folder: Path, student: TrainedStudent) -> None:
        """Write the float32 graph, configuration, tokenizer and model card.

        Raises:
            ValueError: If the outputs of graph and student differ.
        """
        batch = next(validation_batches(as_text_datamodule(student.datamodule, self.config_key), 1))
        onnx.to_onnx(student.model, batch).save(str(folder / onnx.ONNX_WEIGHTS_NAME))
        self._compare_and_describe(folder, student, "float32", MAX_LOGIT_DIFFERENCE)

    def _compare_and_describe(
        self, folder: Path, student: TrainedStudent, precision: str, tolerance: float | None
    ) -> None:
        student.save_config_and_tokenizer(folder)
        graph, name = onnx.ONNXModel(folder), f"the {precision} graph"
        parity = str(self.compare(student, graph, tolerance, name))
        note = ""
        if precision == "int8":
            parity += f"; at batch size 1: {self.compare(student, graph, tolerance, name, batch_size=1)}"
            note = (
                "\nActivations are scaled over the whole batch, so predictions depend slightly on its other examples.\n"
            )
        rank_zero_info(f"ONNX, {precision}: {parity}")
        auto_class = student.task.auto_class.replace("AutoModel", "ORTModel")
        section = f"""
## ONNX, {precision}

Compared with the student in PyTorch on validation examples: {parity}.
{note}
```python
from optimum.onnxruntime import {auto_class}  # pip install optimum-onnx
model = {auto_class}.from_pretrained("<this folder>")
```
"""
        student.save_card(folder, section)
