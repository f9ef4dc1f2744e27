"""A fake of the AWS Neuron SDK's compilers, which are not on PyPI.

The functions have the documented signatures and reject undocumented arguments. They call ``torch.jit.trace``, so that
they return TorchScript modules as the real ones do. Sources:

- torch_neuronx.trace and .analyze: aws-neuron-sdk, frameworks/torch/torch-neuronx/api-reference-guide/inference
- torch_neuron.trace: aws-neuron-sdk, frameworks/torch/torch-neuron/api-compilation-python-api.rst
- torch_neuron.analyze_model: logs in aws-neuron-sdk issues 328 and 630
- flags: aws-neuron-sdk, compiler/neuronx-cc and compiler/neuron-cc, command line references
"""

import logging
import sys
from collections import Counter
from types import ModuleType

import torch

log = logging.getLogger("Neuron")

NEURONX_FLAGS = {
    "--target": {"inf2", "trn1", "trn1n", "trn2"},
    "--auto-cast": {"none", "matmult", "all"},
    "--auto-cast-type": {"bf16", "fp16", "tf32", "fp8_e4m3"},
    "--model-type": {"generic", "transformer", "unet-inference"},
    "--optlevel": {"1", "2", "3"},
}
NEURON_FLAGS = {
    "--fast-math": {
        "all",
        "none",
        "fp32-cast-all",
        "fp32-cast-all-fp16",
        "fp32-cast-matmult",
        "fp32-cast-matmult-bf16",
        "fp32-cast-matmult-fp16",
    },
    "--neuroncore-pipeline-cores": {str(n) for n in range(1, 17)},
}
NEURON_TRACE_KEYWORDS = {
    "compiler_args": list,
    "compiler_timeout": int,
    "compiler_workdir": str,
    "subgraph_builder_function": object,
    "minimum_segment_size": int,
    "single_fusion_ratio_threshold": float,
    "fallback": bool,
    "dynamic_batch_size": bool,
    "optimizations": list,
}


def check_flags(flags, allowed):
    flags = flags.split() if isinstance(flags, str) else flags or []
    assert all(isinstance(flag, str) for flag in flags)
    pairs = dict(zip(flags[::2], flags[1::2], strict=True))
    for flag, value in pairs.items():
        if value not in allowed.get(flag, ()):
            raise RuntimeError(f"unrecognized arguments: {flag} {value}\nusage: ...")
    return pairs


def check_inputs(func, example_inputs):
    assert callable(func)
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    assert all(isinstance(tensor, torch.Tensor) for tensor in inputs)
    return inputs


def count_operators(func, inputs):
    """Count the ``aten`` operators by kind."""
    graph = torch.jit.trace(func, inputs).inlined_graph
    return Counter(node.kind() for node in graph.nodes() if node.kind().startswith("aten::"))


class FakeNeuronSDK:
    """The modules; ``calls`` holds the keywords of each call, ``unsupported`` the kinds of unsupported operators."""

    def __init__(self, monkeypatch, unsupported=()):
        self.calls = []
        self.unsupported = set(unsupported)
        contents = {
            "torch_neuronx": {"trace": self.neuronx_trace, "analyze": self.neuronx_analyze},
            "neuronxcc": {"__version__": "2.21.18209.0+043b1bf7"},
            "torch_neuron": {"trace": self.neuron_trace, "analyze_model": self.neuron_analyze_model},
            "neuroncc": {"__version__": "1.24.0.0+d58fa6134"},
        }
        for name, members in contents.items():
            module = ModuleType(name)
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, name, module)

    def neuronx_trace(
        self,
        func,
        example_inputs,
        *_,
        input_output_aliases={},  # noqa: B006  as in the original
        compiler_workdir=None,
        compiler_args=None,
        partitioner_config=None,
        inline_weights_to_neff=True,
        cpu_backend=False,
    ):
        assert not _, "keywords given by position"
        inputs = check_inputs(func, example_inputs)
        assert compiler_args is None or isinstance(compiler_args, (str, list))
        flags = check_flags(compiler_args, NEURONX_FLAGS)
        assert isinstance(cpu_backend, bool)
        assert not cpu_backend or "--target" in flags
        self.calls.append({"flags": flags, "cpu_backend": cpu_backend})
        return torch.jit.trace(func, inputs)

    def neuronx_analyze(
        self,
        func,
        example_inputs,
        compiler_workdir=None,
        additional_ignored_ops=frozenset(),
        max_workers=4,
        is_hf_transformers=False,
        cleanup=False,
    ):
        assert compiler_workdir is None or isinstance(compiler_workdir, str)
        found = count_operators(func, check_inputs(func, example_inputs))
        unsupported = [kind for kind in found.elements() if kind in self.unsupported]
        return {
            "torch_neuronx_version": "2.8.0.2.10.13553",
            "neuronx_cc_version": "2.21.18209.0+043b1bf7",
            "support_percentage": f"{100 * (1 - len(unsupported) / found.total()):.2f}%",
            "supported_operators": {kind: n for kind, n in found.items() if kind not in self.unsupported},
            "unsupported_operators": [
                {"kind": kind, "failureAt": "neuronx-cc", "call": "a.py(6): f\n", "opGraph": "graph()"}
                for kind in unsupported
            ],
        }

    def neuron_trace(self, model, example_inputs, **kwargs):
        for name, kind in NEURON_TRACE_KEYWORDS.items():
            assert isinstance(kwargs.get(name, kind()), kind)
        flags = check_flags(kwargs.get("compiler_args"), NEURON_FLAGS)
        self.calls.append({"flags": flags})
        others = {name: value for name, value in kwargs.items() if name not in NEURON_TRACE_KEYWORDS}
        return torch.jit.trace(model, check_inputs(model, example_inputs), **others)

    def neuron_analyze_model(self, model, example_inputs):
        found = count_operators(model, check_inputs(model, example_inputs))
        unsupported = [kind for kind in found if kind in self.unsupported]
        count = sum(found[kind] for kind in unsupported)
        total = found.total()
        log.info("The following operations are currently supported in torch-neuron for this model:")
        for kind in ["prim::Constant", *(kind for kind in found if kind not in self.unsupported)]:
            log.info(kind)
        if unsupported:
            log.info("The following operations are currently not supported in torch-neuron for this model:")
            for kind in unsupported:
                log.info(kind)
        share = f"{100 * (1 - count / total):.2f}%"
        log.info(f"99.00% of all operations (including primitives) ({2 * total} of {2 * total}) are supported")
        log.info(f"{share} of arithmetic operations ({total - count} of {total}) are supported")
