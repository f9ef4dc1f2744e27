"""Compiles the best student for AWS Inferentia and Trainium."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import transformers
from lightning.pytorch.utilities import rank_zero_info

from lightning_kd.callbacks.export_base import MAX_LOGIT_DIFFERENCE, GraphExport
from lightning_kd.data import TextDataModule
from lightning_kd.evaluation.batches import as_text_datamodule, validation_batches
from lightning_kd.evaluation.parity import Parity
from lightning_kd.export.compilers import OperatorSupport
from lightning_kd.export.neuron import get_compiler
from lightning_kd.export.student import TrainedStudent
from lightning_kd.export.tracing import TracedModel, Tracer, configure_tokenizer, requires_missing_device


class NeuronTrace(GraphExport):
    """Traces the best student at the end of ``fit`` for AWS Inferentia or Trainium, for a fixed input shape.

    The folder has ``model.neuron``, configuration, tokenizer and model card, as expected by optimum-neuron's
    ``NeuronModelFor…``; the tokenizer pads and truncates to the shape. If this machine can run the graph, it is
    compared with the student on examples of the validation split.

    Needs the AWS Neuron SDK of the target; ``cpu`` uses ``torch.jit.trace`` and needs no SDK.

    Args:
        output_dir: Folder to write; null = ``neuron`` in the run's log folder.
        target: Machine that will run the graph. Graphs for Inf2 and Trn1 can be compiled on any machine.
        batch_size: Batch size of the graph, >= 1.
        sequence_length: Sequence length of the graph, >= 2 and at least the data's ``max_length``; null = that length.
        auto_cast: The float32 operations that the compiler may compute in ``auto_cast_type``.
        auto_cast_type: Lower precision; Inf1 does not support ``tf32``.
        pipeline_cores: Number of Inf1 NeuronCores to split the model across, >= 1.
        compiler_args: Additional arguments, as on the compiler's command line, such as ``[--model-type, transformer]``.
        num_check_examples: Number of validation examples on which the graph is compared with the student, >= 1.

    Raises:
        ValueError: If an argument is out of range or not supported by the target; before training, if the compiler is
            missing or does not support an operator, the shape does not fit model or data, or the folder must not be
            replaced.
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
        super().__init__(output_dir, num_check_examples)
        for name, value, minimum in (
            ("batch_size", batch_size, 1),
            ("sequence_length", sequence_length, 2),
            ("pipeline_cores", pipeline_cores, 1),
        ):
            if value is not None and value < minimum:
                raise ValueError(f"NeuronTrace.{name}: must be >= {minimum}, got {value}")
        if pipeline_cores > 1 and target != "inf1":
            raise ValueError(f"NeuronTrace.pipeline_cores: only inf1 splits models, not {target}; remove it")
        cores = ["--neuroncore-pipeline-cores", str(pipeline_cores)] if pipeline_cores > 1 else []
        self.compiler = get_compiler(target, auto_cast, auto_cast_type, cores + (compiler_args or []))
        self.target = target
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.auto_cast = auto_cast
        self.auto_cast_type = auto_cast_type

    def check_installed(self) -> None:
        """Raise if the compiler is missing."""
        self.compiler.check_installed()

    def dry_run(self, model: "transformers.PreTrainedModel", datamodule: TextDataModule) -> None:
        """Check that the compiler supports the operators of the model."""
        self._build_tracer(model, datamodule).analyze(self.compiler)

    def write_files(self, folder: Path, student: TrainedStudent) -> None:
        """Write the graph, configuration, tokenizer and model card.

        Raises:
            ValueError: If the outputs of graph and student differ.
        """
        student = replace(student, model=student.model.float())
        tracer = self._build_tracer(student.model, as_text_datamodule(student.datamodule, self.config_key))
        support = tracer.analyze(self.compiler)
        tracer.save(self.compiler, folder)
        section = tracer.neuron_config(self.compiler, student.task.pipeline, self.auto_cast, self.auto_cast_type)
        student.save_config_and_tokenizer(folder, neuron=section)
        configure_tokenizer(folder, tracer.shape[1], tracer.positional_model.input_names)
        parity = None
        if not requires_missing_device(folder):
            # a Neuron device may compute in lower precision
            tolerance = MAX_LOGIT_DIFFERENCE if self.target == "cpu" else None
            parity = self.compare(student, TracedModel(folder, student.task.logits_per_token), tolerance)
        rank_zero_info(f"Traced for {self.target}: {support or 'operators not analyzed'}; {parity or 'not compared'}")
        student.save_card(folder, self._card_section(tracer, student, support, parity))

    def _build_tracer(self, model: "transformers.PreTrainedModel", datamodule: TextDataModule) -> Tracer:
        max_tokens = datamodule.max_tokens()
        length = self.sequence_length or max_tokens
        if length < max_tokens:
            raise ValueError(
                f"NeuronTrace.sequence_length: {length} is less than the data's max_length {max_tokens}; use at least "
                f"{max_tokens}, or lower data.max_length"
            )
        return Tracer(model, next(validation_batches(datamodule, 1)), self.batch_size, length)

    def _card_section(
        self, tracer: Tracer, student: TrainedStudent, support: OperatorSupport | None, parity: Parity | None
    ) -> str:
        batch_size, length = tracer.shape
        compiler = self.compiler
        input_names = ", ".join(tracer.positional_model.input_names)
        flags = " ".join(compiler.flags)
        auto_class = student.task.auto_class.replace("AutoModel", "NeuronModel")
        if compiler.runtime_module is None:
            usage = "from pathlib import Path\n\nfrom lightning_kd.export.tracing import TracedModel\n\n"
            logits_per_token = ", logits_per_token=True" if student.task.logits_per_token else ""
            usage += f'model = TracedModel(Path("<this folder>"){logits_per_token})'
        else:
            usage = f"from optimum.neuron import {auto_class}  # pip install optimum-neuron, on {self.target}\n"
            usage += f'model = {auto_class}.from_pretrained("<this folder>")'
        comparison = "Not compared with the student: compiled without a Neuron device"
        if parity is not None:
            comparison = f"Compared with the student in PyTorch on validation examples: {parity}"
        return f"""
## Traced for {self.target}

- Shape: {batch_size} examples of {length} tokens; inputs {input_names}, in this order
- Compiler: {compiler.compiler_type} {compiler.version}{f", `{flags}`" if flags else ""}
- Operators: {support or "not analyzed"}
- {comparison}

```python
{usage}
```
"""
