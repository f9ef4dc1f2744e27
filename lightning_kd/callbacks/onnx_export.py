"""Writes the best student as ONNX, in float32 and int8."""

from dataclasses import replace
from pathlib import Path

import transformers
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_kd.callbacks.export import Finished
from lightning_kd.callbacks.graph_export import GraphExport
from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.batches import some_rows
from lightning_kd.evaluation.parity import Parity, compare
from lightning_kd.export import onnx
from lightning_kd.io.atomic import replaced_folder

TOLERANCE = 1e-3
"""By how much a logit in float32 may differ: kernels sum in another order, which costs some 1e-5."""


class ONNXExport(GraphExport):
    """At the end of ``fit`` writes the best student as a graph for ONNX Runtime, for any number of rows of any length.

    The folder holds ``model.onnx``, configuration, tokenizer and card, as optimum's ``ORTModelFor…`` and its pipelines
    read them. The graph is checked against the student on rows of the validation split. Beside it comes a folder with
    the same in int8 (dynamic quantisation of weights and embeddings), a quarter of the size.

    Needs ``pip install 'lightning-kd[onnx]'``.

    Args:
        folder: Where to write; null = ``onnx`` in the run's log folder. The int8 twin gets ``-int8`` after the name.
        int8: Whether to write the twin.
        check_rows: Rows of the validation split on which graph and student are compared, >= 1.

    Raises:
        ValueError: If ``check_rows`` is not >= 1; before training, if a package is missing, the student has an
            operator without a counterpart, or a folder is somebody else's.
    """

    name = "onnx"
    key = "ONNXExport"
    what = "ONNX graph"

    def __init__(self, folder: str | None = None, int8: bool = True, check_rows: int = 256) -> None:
        super().__init__(folder)
        if check_rows < 1:
            raise ValueError(f"ONNXExport.check_rows: must be >= 1, got {check_rows}")
        self.int8 = int8
        self.check_rows = check_rows

    def folders(self, target: Path) -> list[Path]:
        """The graph's and its twin's."""
        return [target, self._twin(target)] if self.int8 else [target]

    @staticmethod
    def _twin(target: Path) -> Path:
        return target.with_name(f"{target.name}-int8")

    def check_installed(self) -> None:
        """ONNX and its runtime."""
        onnx.check_installed()

    def try_out(self, network: "transformers.PreTrainedModel", datamodule: TextDataModule) -> None:
        """Make the graph."""
        onnx.to_onnx(network, next(some_rows(datamodule, 1)))

    def write(self, target: Path, student: Finished) -> None:
        """Write the graph, then its twin from it."""
        student = replace(student, network=student.network.float())
        super().write(target, student)
        if not self.int8 and (twin := self._twin(target)).exists():
            rank_zero_warn(f"ONNXExport: {str(twin)!r} is of an earlier export and has not been written again")
        if self.int8:
            with replaced_folder(self._twin(target)) as folder:
                onnx.quantize(target / onnx.FILE, folder / onnx.FILE)
                self._describe(folder, student, "int8")
            rank_zero_info(f"ONNX graph in int8 written to {self._twin(target)}")

    def fill(self, folder: Path, student: Finished) -> None:
        """The graph in float32 and what belongs to it.

        Raises:
            ValueError: If the graph does not say what the student says.
        """
        batch = next(some_rows(student.datamodule, 1))
        onnx.to_onnx(student.network, batch).save(str(folder / onnx.FILE))
        parity = self._describe(folder, student, "float32")
        if parity.max_difference > TOLERANCE:
            raise ValueError(
                f"ONNXExport: the graph differs from the student ({parity}); please report this with the versions of "
                "torch, onnxscript and onnxruntime"
            )

    def _describe(self, folder: Path, student: Finished, precision: str) -> Parity:
        student.save_description(folder)
        rows = some_rows(student.datamodule, self.check_rows)
        parity = compare(student.task, student.network, onnx.OnnxNetwork(folder), rows)
        rank_zero_info(f"ONNX, {precision}: {parity}")
        student.save_card(folder, _section(student, precision, parity))
        return parity


def _section(student: Finished, precision: str, parity: Parity) -> str:
    auto_class = student.task.auto_class.replace("AutoModel", "ORTModel")
    return f"""
## ONNX, {precision}

Against the student in PyTorch, on rows of the validation split: {parity}.

```python
from optimum.onnxruntime import {auto_class}  # pip install optimum-onnx
network = {auto_class}.from_pretrained("<this folder>")
```
"""
