"""Graphs of one fixed shape: traced, laid out as optimum-neuron reads them, and run for any number of rows."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AutoConfig, AutoTokenizer

from lightning_kd.export.compilers import Compiler, OperatorSupport, suppress_trace_warnings
from lightning_kd.export.input_adapter import PositionalModel, eager_attention, fill_missing_inputs
from lightning_kd.export.neuron import COMPILERS, has_neuron_device
from lightning_kd.models import input_names, max_positions
from lightning_kd.outputs import Batch


class Tracer:
    """A network about to be traced for one shape.

    Args:
        model: In eval mode, on the CPU.
        batch: Rows of any number and length; names the inputs.
        batch_size: Rows of the shape, >= 1.
        length: Tokens of the shape, >= 2.

    Raises:
        ValueError: If the network has fewer positions.
    """

    def __init__(self, model: "transformers.PreTrainedModel", batch: Batch, batch_size: int, length: int) -> None:
        positions = max_positions(model.config)
        if positions is not None and length > positions:
            raise ValueError(
                f"NeuronTrace.sequence_length: {length} is more than the network's {positions} positions; give "
                f"{positions} or less"
            )
        self.model = model
        self.shape = (batch_size, length)
        padded = {
            name: _pad_to_shape(batch[name][:batch_size, :length], name, model.config, self.shape)
            for name in input_names(model, batch)
        }
        if "attention_mask" in padded:
            # transformers leaves a mask out that is True everywhere, and the graph would then know none
            padded["attention_mask"][:, -1] = 0
        self.positional_model = PositionalModel(model, padded)
        self.example_inputs = self.positional_model.example_inputs(padded)

    def analyze(self, compiler: Compiler) -> OperatorSupport | None:
        """Which operators the compiler takes.

        Raises:
            ValueError: If it does not take the network.
        """
        support: OperatorSupport | None = self._run(compiler.analyze)
        return support

    def save(self, compiler: Compiler, folder: Path) -> None:
        """Trace, compile and write the graph.

        Raises:
            ValueError: If it cannot be compiled.
        """
        graph = self._run(compiler.trace)
        with suppress_trace_warnings():
            torch.jit.save(graph, str(folder / compiler.filename))

    def _run(self, fn: Any) -> Any:
        try:
            with eager_attention(self.model), suppress_trace_warnings(), torch.no_grad():
                return fn(self.positional_model, self.example_inputs)
        except ValueError:  # ours
            raise
        except Exception as error:  # a compiler raises whatever it raises
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"NeuronTrace: {type(self.model).__name__} cannot be traced: {reason:.300}; change the network, or "
                "leave NeuronTrace out"
            ) from error

    def neuron_config(self, compiler: Compiler, task: str, auto_cast: str, auto_cast_type: str) -> dict[str, Any]:
        """The section ``neuron`` of config.json.

        Keys as optimum-neuron writes them (``store_compilation_config`` in optimum/neuron/utils/argument_utils.py) and
        reads them (``_neuron_config_init`` in optimum/neuron/modeling_traced.py).

        Args:
            compiler: What compiles.
            task: Name of the transformers pipeline.
            auto_cast: See ``get_compiler``.
            auto_cast_type: Likewise.
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
    """Make the tokenizer in a folder pad and cut to one length, and give what the graph takes and no more.

    Args:
        folder: With a tokenizer, or without: then nothing is done.
        length: Tokens of a row.
        model_input_names: Names of the graph's inputs. optimum-neuron hands on token types wherever the tokenizer
            gives them.
    """
    if not (folder / "tokenizer_config.json").is_file():
        return
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = length
    tokenizer.model_input_names = model_input_names
    tokenizer.init_kwargs["model_input_names"] = model_input_names  # save_pretrained writes only what is here, too
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # for programs that read tokenizer.json alone
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
    """What compiled the graph in a folder; None if there is none."""
    file = folder / "config.json"
    section = json.loads(file.read_text(encoding="utf-8")).get("neuron", {}) if file.is_file() else {}
    compiler = COMPILERS.get(section.get("compiler_type", ""))
    return compiler if compiler is not None and (folder / compiler.filename).is_file() else None


def requires_missing_device(folder: Path) -> bool:
    """Whether a folder holds a graph for a Neuron device, and this machine has none."""
    compiler = detect_compiler(folder)
    return compiler is not None and compiler.runtime_module is not None and not has_neuron_device()


class TracedModel(nn.Module):
    """A folder with a traced graph as a network: inputs by name, tensors on the CPU, any number of rows.

    Rows are padded to the graph's length and run in batches of its size, the last one filled up; outputs are cut back.

    Args:
        folder: As ``NeuronTrace`` or optimum-neuron writes it.
        logits_per_token: True if the outputs have a position for each token, so that those of padding are cut off.

    Raises:
        ValueError: If the machine has no device or no software for it; on use, if rows have more tokens than the graph,
            or an input is missing.
    """

    def __init__(self, folder: Path, logits_per_token: bool = False) -> None:
        super().__init__()
        self.logits_per_token = logits_per_token
        compiler = detect_compiler(folder)
        if compiler is None:
            raise ValueError(f"{str(folder)!r} holds no traced graph, see NeuronTrace")
        if requires_missing_device(folder):
            raise ValueError(
                f"{str(folder)!r} was made by {compiler.compiler_type} and this machine has no Neuron device"
            )
        compiler().check_installed()
        if compiler.runtime_module is not None:
            importlib.import_module(compiler.runtime_module)  # knows the graph's operators
        self.config = AutoConfig.from_pretrained(folder)
        section = self.config.neuron
        self.shape = (section["static_batch_size"], section["static_sequence_length"])
        self.input_names: list[str] = section["input_names"]
        self.output_names: list[str] = section["output_names"]
        with suppress_trace_warnings():
            self.graph = torch.jit.load(str(folder / compiler.filename))

    def forward(self, **inputs: Tensor) -> Any:
        """The graph's outputs as attributes."""
        inputs = fill_missing_inputs(inputs, self.input_names)
        batch_size, max_length = self.shape
        rows, length = inputs[self.input_names[0]].shape
        if length > max_length:
            raise ValueError(
                f"rows of {length} tokens are longer than the {max_length} the graph was traced for; cut them"
            )
        parts = []
        for start in range(0, rows, batch_size):
            graph_inputs = (
                _pad_to_shape(inputs[name][start : start + batch_size], name, self.config, self.shape)
                for name in self.input_names
            )
            parts.append(self.graph(*graph_inputs))
        outputs = (torch.cat(tensors)[:rows] for tensors in zip(*parts, strict=True))
        return SimpleNamespace(
            **{
                name: output[:, :length] if self.logits_per_token else output
                for name, output in zip(self.output_names, outputs, strict=True)
            }
        )


def _pad_to_shape(rows: Tensor, name: str, config: Any, shape: tuple[int, int]) -> Tensor:
    """Rows (N, L) padded to a shape (B, M), N <= B, L <= M: by padding tokens, and by copies of the last row."""
    value = (config.pad_token_id or 0) if name == "input_ids" else 0
    rows = pad(rows, (0, shape[1] - rows.shape[1]), value=value)
    return torch.cat([rows, rows[-1:].expand(shape[0] - len(rows), -1)])  # a row of padding alone may give NaN
