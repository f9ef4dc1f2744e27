"""Writes the best student as a graph of one shape, compiled for AWS Inferentia and Trainium."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import transformers
from lightning.pytorch.utilities import rank_zero_info

from lightning_kd.callbacks.export import GraphExport
from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.batches import as_text_datamodule, validation_batches
from lightning_kd.evaluation.parity import Parity, measure_parity
from lightning_kd.export.compilers import OperatorSupport
from lightning_kd.export.neuron import get_compiler
from lightning_kd.export.student import TrainedStudent
from lightning_kd.export.tracing import TracedModel, Tracer, configure_tokenizer, requires_missing_device

MAX_LOGIT_DIFFERENCE = 1e-3
"""By how much a logit of plain TorchScript may differ; a Neuron device computes in lower precision where it is told."""


class NeuronTrace(GraphExport):
    """At the end of ``fit`` traces the best student for AWS Inferentia or Trainium, for one number of rows and tokens.

    The folder holds ``model.neuron``, configuration, tokenizer and card, as optimum-neuron's ``NeuronModelFor…`` read
    them; the tokenizer pads and cuts to the shape. The graph is checked against the student on rows of the validation
    split where the machine can run it.

    Needs the AWS Neuron SDK for the target; ``cpu`` goes the same way with ``torch.jit.trace`` and needs nothing.

    Args:
        output_dir: Where to write; null = ``neuron`` in the run's log folder.
        target: Machine that is going to run it. Inf2 and Trn1 are compiled for on any machine.
        batch_size: Rows that the graph takes at once, >= 1.
        sequence_length: Tokens of a row, >= 2 and at least the data's ``max_length``; null = that.
        auto_cast: Which float32 operations the compiler may compute in ``auto_cast_type``.
        auto_cast_type: ``tf32`` is not for Inf1.
        pipeline_cores: NeuronCores of Inf1 among which the network is split, >= 1.
        compiler_args: Further arguments as on the compiler's command line, such as ``[--model-type, transformer]``.
        num_check_examples: Rows of the validation split on which graph and student are compared, >= 1.

    Raises:
        ValueError: If an argument is out of range or the target does not know it; before training, if the compiler is
            missing or does not take an operator, the shape does not fit network or data, or the folder is somebody
            else's.
    """

    dirname = "neuron"
    config_key = "NeuronTrace"
    description = "Traced graph"

    def __init__(
        self,
        output_dir: str | None = None,
        target: Literal["inf1", "inf2", "trn1", "cpu"] = "inf2",
        batch_size: int = 1,
        sequence_length: int | None = None,
        auto_cast: Literal["none", "matmult", "all"] = "none",
        auto_cast_type: Literal["bf16", "fp16", "tf32"] = "bf16",
        pipeline_cores: int = 1,
        compiler_args: list[str] | None = None,
        num_check_examples: int = 256,
    ) -> None:
        super().__init__(output_dir)
        minimums = {"batch_size": 1, "sequence_length": 2, "pipeline_cores": 1, "num_check_examples": 1}
        values = (batch_size, sequence_length, pipeline_cores, num_check_examples)
        for (name, minimum), value in zip(minimums.items(), values, strict=True):
            if value is not None and value < minimum:
                raise ValueError(f"NeuronTrace.{name}: must be >= {minimum}, got {value}")
        if pipeline_cores > 1 and target != "inf1":
            raise ValueError(f"NeuronTrace.pipeline_cores: only inf1 splits networks, not {target}; leave it out")
        cores = ["--neuroncore-pipeline-cores", str(pipeline_cores)] if pipeline_cores > 1 else []
        self.compiler = get_compiler(target, auto_cast, auto_cast_type, cores + (compiler_args or []))
        self.target = target
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.auto_cast = auto_cast
        self.auto_cast_type = auto_cast_type
        self.num_check_examples = num_check_examples

    def check_installed(self) -> None:
        """The compiler."""
        self.compiler.check_installed()

    def dry_run(self, model: "transformers.PreTrainedModel", datamodule: TextDataModule) -> None:
        """Ask the compiler about its operators."""
        self._build_tracing(model, datamodule).analyze(self.compiler)

    def write_files(self, folder: Path, student: TrainedStudent) -> None:
        """The graph and what belongs to it.

        Raises:
            ValueError: If the graph does not say what the student says.
        """
        student = replace(student, model=student.model.float())
        tracing = self._build_tracing(student.model, as_text_datamodule(student.datamodule, self.config_key))
        support = tracing.analyze(self.compiler)
        tracing.save(self.compiler, folder)
        section = tracing.neuron_config(self.compiler, student.task.pipeline, self.auto_cast, self.auto_cast_type)
        student.save_config_and_tokenizer(folder, neuron=section)
        configure_tokenizer(folder, tracing.shape[1], tracing.positional_model.input_names)
        parity = self._check_parity(folder, student)
        rank_zero_info(f"Traced for {self.target}: {support or 'operators not analysed'}; {parity or 'not compared'}")
        student.save_card(folder, self._card_section(tracing, student, support, parity))

    def _build_tracing(self, model: "transformers.PreTrainedModel", datamodule: TextDataModule) -> Tracer:
        max_tokens = datamodule.max_tokens()
        length = self.sequence_length or max_tokens
        if length < max_tokens:
            raise ValueError(
                f"NeuronTrace.sequence_length: {length} is less than the data's max_length {max_tokens}, so that rows "
                f"would not fit; give {max_tokens}, or lower data.max_length"
            )
        return Tracer(model, next(validation_batches(datamodule, 1)), self.batch_size, length)

    def _check_parity(self, folder: Path, student: TrainedStudent) -> Parity | None:
        if requires_missing_device(folder):
            return None
        rows = validation_batches(as_text_datamodule(student.datamodule, self.config_key), self.num_check_examples)
        parity = measure_parity(student.task, student.model, TracedModel(folder, student.task.logits_per_token), rows)
        tolerance = MAX_LOGIT_DIFFERENCE if self.target == "cpu" else float("inf")
        if not parity.max_difference < tolerance:  # a logit that is no number counts as infinitely far
            raise ValueError(
                f"NeuronTrace: the graph differs from the student ({parity}); please report this with the versions of "
                "torch, transformers and the compiler"
            )
        return parity

    def _card_section(
        self, tracing: Tracer, student: TrainedStudent, support: OperatorSupport | None, parity: Parity | None
    ) -> str:
        rows, length = tracing.shape
        compiler = self.compiler
        flags = " ".join(getattr(compiler, "flags", []))
        auto_class = student.task.auto_class.replace("AutoModel", "NeuronModel")
        if compiler.runtime_module is None:
            usage = "from pathlib import Path\n\nfrom lightning_kd.export.tracing import TracedModel\n\n"
            logits_per_token = ", logits_per_token=True" if student.task.logits_per_token else ""
            usage += f'model = TracedModel(Path("<this folder>"){logits_per_token})'
        else:
            usage = f"from optimum.neuron import {auto_class}  # pip install optimum-neuron, on {self.target}\n"
            usage += f'model = {auto_class}.from_pretrained("<this folder>")'
        lines = [
            f"## Traced for {self.target}",
            "",
            f"- Shape: {rows} rows of {length} tokens; inputs {', '.join(tracing.positional_model.input_names)}, in "
            f"this order",
            f"- Compiler: {compiler.compiler_type} {compiler.version}{f', `{flags}`' if flags else ''}",
            f"- Operators: {support or 'not analysed'}",
            f"- Against the student in PyTorch, on rows of the validation split: {parity}"
            if parity is not None
            else "- Not compared with the student: the machine that compiled it has no Neuron device",
            "",
            "```python",
            usage,
            "```",
            "",
        ]
        return "\n" + "\n".join(lines)
