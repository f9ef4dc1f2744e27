"""Writes the best student as a graph of one shape, compiled for AWS Inferentia and Trainium."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import transformers
from lightning.pytorch.utilities import rank_zero_info

from lightning_kd.callbacks.export import Finished
from lightning_kd.callbacks.graph_export import GraphExport
from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.batches import some_rows
from lightning_kd.evaluation.parity import Parity, compare
from lightning_kd.export.compilers import Support
from lightning_kd.export.neuron import compiler_for
from lightning_kd.export.tracing import TracedNetwork, Tracing, fix_tokenizer, for_another_machine

TOLERANCE = 1e-3
"""By how much a logit of plain TorchScript may differ; a Neuron device computes in lower precision where it is told."""


class NeuronTrace(GraphExport):
    """At the end of ``fit`` traces the best student for AWS Inferentia or Trainium, for one number of rows and tokens.

    The folder holds ``model.neuron``, configuration, tokenizer and card, as optimum-neuron's ``NeuronModelFor…`` read
    them; the tokenizer pads and cuts to the shape. The graph is checked against the student on rows of the validation
    split where the machine can run it.

    Needs the AWS Neuron SDK for the target; ``cpu`` goes the same way with ``torch.jit.trace`` and needs nothing.

    Args:
        folder: Where to write; null = ``neuron`` in the run's log folder.
        target: Machine that is going to run it. Inf2 and Trn1 are compiled for on any machine.
        batch_size: Rows that the graph takes at once, >= 1.
        sequence_length: Tokens of a row, >= 2 and at least the data's ``max_length``; null = that.
        auto_cast: Which float32 operations the compiler may compute in ``auto_cast_type``.
        auto_cast_type: ``tf32`` is not for Inf1.
        pipeline_cores: NeuronCores of Inf1 among which the network is split, >= 1.
        compiler_args: Further arguments as on the compiler's command line, such as ``[--model-type, transformer]``.
        check_rows: Rows of the validation split on which graph and student are compared, >= 1.

    Raises:
        ValueError: If an argument is out of range or the target does not know it; before training, if the compiler is
            missing or does not take an operator, the shape does not fit network or data, or the folder is somebody
            else's.
    """

    name = "neuron"
    key = "NeuronTrace"
    what = "Traced graph"

    def __init__(
        self,
        folder: str | None = None,
        target: Literal["inf1", "inf2", "trn1", "cpu"] = "inf2",
        batch_size: int = 1,
        sequence_length: int | None = None,
        auto_cast: Literal["none", "matmult", "all"] = "none",
        auto_cast_type: Literal["bf16", "fp16", "tf32"] = "bf16",
        pipeline_cores: int = 1,
        compiler_args: list[str] | None = None,
        check_rows: int = 256,
    ) -> None:
        super().__init__(folder)
        least = {"batch_size": 1, "sequence_length": 2, "pipeline_cores": 1, "check_rows": 1}
        given = (batch_size, sequence_length, pipeline_cores, check_rows)
        for (name, lowest), value in zip(least.items(), given, strict=True):
            if value is not None and value < lowest:
                raise ValueError(f"NeuronTrace.{name}: must be >= {lowest}, got {value}")
        if pipeline_cores > 1 and target != "inf1":
            raise ValueError(f"NeuronTrace.pipeline_cores: only inf1 splits networks, not {target}; leave it out")
        cores = ["--neuroncore-pipeline-cores", str(pipeline_cores)] if pipeline_cores > 1 else []
        self.compiler = compiler_for(target, auto_cast, auto_cast_type, cores + (compiler_args or []))
        self.device = target  # not self.target: that is a method
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.auto_cast = auto_cast
        self.auto_cast_type = auto_cast_type
        self.check_rows = check_rows

    def check_installed(self) -> None:
        """The compiler."""
        self.compiler.check_installed()

    def try_out(self, network: "transformers.PreTrainedModel", datamodule: TextDataModule) -> None:
        """Ask the compiler about its operators."""
        self._tracing(network, datamodule).support(self.compiler)

    def fill(self, folder: Path, student: Finished) -> None:
        """The graph and what belongs to it.

        Raises:
            ValueError: If the graph does not say what the student says.
        """
        student = replace(student, network=student.network.float())
        tracing = self._tracing(student.network, student.datamodule)
        support = tracing.support(self.compiler)
        tracing.save(self.compiler, folder)
        section = tracing.section(self.compiler, student.task.pipeline, self.auto_cast, self.auto_cast_type)
        student.save_description(folder, neuron=section)
        fix_tokenizer(folder, tracing.shape[1], tracing.by_name.inputs)
        parity = self._parity(folder, student)
        rank_zero_info(f"Traced for {self.device}: {support or 'operators not analysed'}; {parity or 'not compared'}")
        student.save_card(folder, self._section(tracing, student, support, parity))

    def _tracing(self, network: "transformers.PreTrainedModel", datamodule: TextDataModule) -> Tracing:
        longest = datamodule.longest_row()
        length = self.sequence_length or longest
        if length < longest:
            raise ValueError(
                f"NeuronTrace.sequence_length: {length} is less than the data's max_length {longest}, so that rows "
                f"would not fit; give {longest}, or lower data.max_length"
            )
        return Tracing(network, next(some_rows(datamodule, 1)), self.batch_size, length)

    def _parity(self, folder: Path, student: Finished) -> Parity | None:
        if for_another_machine(folder):
            return None
        rows = some_rows(student.datamodule, self.check_rows)
        parity = compare(student.task, student.network, TracedNetwork(folder), rows)
        tolerance = TOLERANCE if self.device == "cpu" else float("inf")
        if not parity.max_difference < tolerance:  # a logit that is no number counts as infinitely far
            raise ValueError(
                f"NeuronTrace: the graph differs from the student ({parity}); please report this with the versions of "
                "torch, transformers and the compiler"
            )
        return parity

    def _section(self, tracing: Tracing, student: Finished, support: Support | None, parity: Parity | None) -> str:
        rows, length = tracing.shape
        compiler = self.compiler
        flags = " ".join(getattr(compiler, "flags", []))
        auto_class = student.task.auto_class.replace("AutoModel", "NeuronModel")
        if compiler.module is None:
            how = "from pathlib import Path\n\nfrom lightning_kd.export.tracing import TracedNetwork\n\n"
            how += 'network = TracedNetwork(Path("<this folder>"))'
        else:
            how = f"from optimum.neuron import {auto_class}  # pip install optimum-neuron, on {self.device}\n"
            how += f'network = {auto_class}.from_pretrained("<this folder>")'
        lines = [
            f"## Traced for {self.device}",
            "",
            f"- Shape: {rows} rows of {length} tokens; inputs {', '.join(tracing.by_name.inputs)}, in this order",
            f"- Compiler: {compiler.kind} {compiler.version}{f', `{flags}`' if flags else ''}",
            f"- Operators: {support or 'not analysed'}",
            f"- Against the student in PyTorch, on rows of the validation split: {parity}"
            if parity is not None
            else "- Not compared with the student: the machine that compiled it has no Neuron device",
            "",
            "```python",
            how,
            "```",
            "",
        ]
        return "\n" + "\n".join(lines)
