"""Fixed-shape graphs: tracing, the folder layout of optimum-neuron, and a model that runs them on any batch size."""

import importlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoConfig, AutoTokenizer

from lightning_kd.export.compilers import Compiler, OperatorSupport, suppress_trace_warnings
from lightning_kd.export.input_adapter import GraphModel, PositionalModel, eager_attention
from lightning_kd.export.neuron import COMPILERS, has_neuron_device
from lightning_kd.models import input_names, max_positions
from lightning_kd.outputs import Batch

T = TypeVar("T")


class Tracer:
    """Traces a model for inputs of one shape.

    Args:
        model: The model in eval mode on the CPU.
        batch: Examples of any number and length; its keys determine the inputs.
        batch_size: Batch size of the graph, >= 1.
        length: Sequence length of the graph, >= 2.

    Raises:
        ValueError: If ``length`` exceeds the positions of the model.
    """

    def __init__(self, model: "transformers.PreTrainedModel", batch: Batch, batch_size: int, length: int) -> None:
        positions = max_positions(model.config)
        if positions is not None and length > positions:
            raise ValueError(
                f"NeuronTrace.sequence_length: {length} exceeds the {positions} positions of the model; use at most "
                f"{positions}"
            )
        self.model = model
        self.shape = (batch_size, length)
        padded = {
            name: _pad_to_shape(batch[name][:batch_size, :length], name, model.config, self.shape)
            for name in input_names(model, batch)
        }
        if "attention_mask" in padded:
            # transformers drops a mask of ones, and the graph would ignore its input
            padded["attention_mask"][:, -1] = 0
        self.positional_model = PositionalModel(model, padded)
        self.example_inputs = self.positional_model.example_inputs(padded)

    def analyze(self, compiler: Compiler) -> OperatorSupport | None:
        """Return the operators that the compiler supports; None if they are unknown.

        Raises:
            ValueError: If it cannot compile the model.
        """
        return self._run(compiler.analyze)

    def save(self, compiler: Compiler, folder: Path) -> None:
        """Trace and compile the model, and write the graph.

        Args:
            compiler: The compiler.
            folder: Existing folder to write to.

        Raises:
            ValueError: If the model cannot be compiled.
        """
        graph = self._run(compiler.trace)
        with suppress_trace_warnings():
            torch.jit.save(graph, str(folder / compiler.filename))

    def _run(self, fn: Callable[[PositionalModel, tuple[Tensor, ...]], T]) -> T:
        try:
            with eager_attention(self.model), suppress_trace_warnings(), torch.no_grad():
                return fn(self.positional_model, self.example_inputs)
        except ValueError:  # a message of this library
            raise
        except Exception as error:  # compilers raise any type
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"NeuronTrace: {type(self.model).__name__} cannot be traced: {reason:.300}; change the model, or "
                "remove NeuronTrace"
            ) from error

    def neuron_config(self, compiler: Compiler, task: str, auto_cast: str, auto_cast_type: str) -> dict[str, Any]:
        """Return the section ``neuron`` of config.json.

        optimum-neuron writes these keys in ``store_compilation_config`` (optimum/neuron/utils/argument_utils.py) and
        reads them in ``_neuron_config_init`` (optimum/neuron/modeling_traced.py).

        Args:
            compiler: The compiler of the graph.
            task: Name of the transformers pipeline.
            auto_cast: See ``get_compiler``.
            auto_cast_type: See ``get_compiler``.
        """
        cast = {"none": None, "matmult": "matmul", "all": "all"}[auto_cast]
        return {
            "compiler_type": compiler.compiler_type,
            "compiler_version": compiler.version,
            "inline_weights_to_neff": True,
            "static_batch_size": self.shape[0],
            "static_sequence_length": self.shape[1],
            "dynamic_batch_size": False,
            "tensor_parallel_size": 1,
            "auto_cast": cast,
            "auto_cast_type": None if cast is None else auto_cast_type,
            "input_names": self.positional_model.input_names,
            "output_names": self.positional_model.output_names,
            "int_dtype": "int64",
            "float_dtype": "fp32",
            "model_type": self.model.config.model_type.replace("_", "-"),
            "output_attentions": False,
            "output_hidden_states": False,
            "task": task,
        }


def configure_tokenizer(folder: Path, length: int, model_input_names: list[str]) -> None:
    """Make the tokenizer of a folder pad and truncate to one length, and return only the graph's inputs.

    Args:
        folder: A model folder; without a tokenizer, nothing is done.
        length: Sequence length of the graph.
        model_input_names: Names of the graph's inputs, because optimum-neuron passes all outputs of the tokenizer.
    """
    if not (folder / "tokenizer_config.json").is_file():
        return
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer.model_max_length = length
    tokenizer.model_input_names = model_input_names
    tokenizer.init_kwargs["model_input_names"] = model_input_names  # save_pretrained writes these
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:  # for readers of tokenizer.json only
        backend.enable_truncation(length)
        backend.enable_padding(
            length=length,
            pad_id=tokenizer.pad_token_id,
            pad_token=tokenizer.pad_token,
            pad_type_id=tokenizer.pad_token_type_id,
            direction=tokenizer.padding_side,
        )
    tokenizer.save_pretrained(folder)


def detect_compiler(folder: Path) -> type[Compiler] | None:
    """Return the compiler of the graph in a folder; None without a graph."""
    file = folder / "config.json"
    section = json.loads(file.read_text(encoding="utf-8")).get("neuron", {}) if file.is_file() else {}
    compiler = COMPILERS.get(section.get("compiler_type", ""))
    return compiler if compiler is not None and (folder / compiler.filename).is_file() else None


def requires_missing_device(folder: Path) -> bool:
    """True if a folder holds a graph for a Neuron device, but this machine has no such device."""
    compiler = detect_compiler(folder)
    return compiler is not None and compiler.runtime_module is not None and not has_neuron_device()


class TracedModel(GraphModel):
    """Runs a traced graph on CPU tensors given by name, for any batch size.

    Inputs are padded to the shape of the graph and run in batches of its size; the outputs are truncated to the
    input.

    Args:
        folder: Folder written by ``NeuronTrace`` or optimum-neuron.
        logits_per_token: True if the outputs have one position per token, so that those of padding are removed.

    Raises:
        ValueError: If the machine lacks the device or its software; on use, if the input is longer than the graph, or
            an input is missing.
    """

    def __init__(self, folder: Path, logits_per_token: bool = False) -> None:
        super().__init__()
        self.logits_per_token = logits_per_token
        compiler = detect_compiler(folder)
        if compiler is None:
            raise ValueError(f"folder: {str(folder)!r} has no traced graph; create one with NeuronTrace")
        if requires_missing_device(folder):
            raise ValueError(
                f"folder: {str(folder)!r} was compiled by {compiler.compiler_type}, and this machine has no Neuron "
                "device; run it on one that has"
            )
        compiler().check_installed()
        if compiler.runtime_module is not None:
            importlib.import_module(compiler.runtime_module)  # registers the graph's operators
        self.config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        section = self.config.neuron
        self.shape = (section["static_batch_size"], section["static_sequence_length"])
        self.max_length = self.shape[1]
        self.input_names, self.output_names = section["input_names"], section["output_names"]
        with suppress_trace_warnings():
            self.graph = torch.jit.load(str(folder / compiler.filename))

    def run_graph(self, inputs: list[Tensor]) -> Iterable[Tensor]:
        """Return the outputs of the graph."""
        num_examples, length = inputs[0].shape
        parts = []
        for batch in zip(*(tensor.split(self.shape[0]) for tensor in inputs), strict=True):
            named = zip(self.input_names, batch, strict=True)
            parts.append(self.graph(*(_pad_to_shape(tensor, name, self.config, self.shape) for name, tensor in named)))
        outputs = (torch.cat(tensors)[:num_examples] for tensors in zip(*parts, strict=True))
        return (output[:, :length] for output in outputs) if self.logits_per_token else outputs


def _pad_to_shape(tensor: Tensor, name: str, config: Any, shape: tuple[int, int]) -> Tensor:
    """Pad (N, L) to (B, M), N <= B, L <= M, with padding tokens and with copies of the last example."""
    value = (config.pad_token_id or 0) if name == "input_ids" else 0
    tensor = pad(tensor, (0, shape[1] - tensor.shape[1]), value=value)
    copies = tensor[-1:].expand(shape[0] - len(tensor), -1)  # an example of padding only could give NaN
    return torch.cat([tensor, copies])
