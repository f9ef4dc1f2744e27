"""Check that a student has only operators that an XLA compiler supports: lower it to HLO and count the instructions.

neuronx-cc, the compiler of Inf2 and Trn1, reads HLO, which torch-xla generates. torch-xla is on PyPI, the compiler is
not, so this program checks the compiler's input but not the compiler. The check fails if an operator has no lowering
(it is then computed on the host and printed) or if an input has become a constant of the graph. torch-xla requires a
matching PyTorch, which may be older than lightning_kd's; install them in a separate environment:

    python -m venv xla && xla/bin/pip install torch==2.9.0 torch_xla==2.9.0 transformers
    xla/bin/python benchmarks/xla_check.py --student <folder> --length 64
"""

import argparse
import os
import re
import sys
from collections import Counter

os.environ.setdefault("PJRT_DEVICE", "CPU")

import torch
import torch_xla
import transformers
from torch_xla.debug import metrics
from transformers import AutoConfig, AutoTokenizer


def main() -> None:
    """Print the instructions; exit with status 1 if the check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True, help="folder written by StudentExport")
    parser.add_argument("--batch", type=int, default=1, help="examples per batch (default: %(default)s)")
    parser.add_argument("--length", type=int, default=128, help="tokens per example (default: %(default)s)")
    args = parser.parse_args()
    [architecture] = AutoConfig.from_pretrained(args.student).architectures
    model = getattr(transformers, architecture).from_pretrained(args.student, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(args.student)
    padding = {"padding": "max_length", "truncation": True, "max_length": args.length}
    inputs = tokenizer(["what is this?"] * args.batch, return_tensors="pt", **padding)
    if getattr(model.config, "type_vocab_size", 0) < 2:
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        expected = list(model(**inputs).values())
        device = torch_xla.device()
        model.to(device)
        on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
        torch_xla.sync()
        metrics.clear_all()
        outputs = list(model(**on_device).values())
        hlo = torch_xla._XLAC._get_xla_tensors_hlo(outputs)
        on_host = [name for name in metrics.counter_names() if name.startswith("aten::")]
        difference = max(float((a - b.cpu()).abs().max()) for a, b in zip(expected, outputs, strict=True))
    instructions = Counter(re.findall(r"^\s+(?:ROOT )?\S+ = (?:\([^=]*?\)|\S+) ([a-z][\w-]*)\(", hlo, re.MULTILINE))
    entry = hlo[hlo.index("\nENTRY") :]
    integers = len(re.findall(rf"= s64\[{args.batch},{args.length}\]\S* parameter\(", entry))
    for name, count in instructions.most_common():
        print(f"{count:6}  {name}")
    print(f"{instructions.total()} instructions of {len(instructions)} kinds; {integers} of {len(inputs)} inputs")
    print(f"on the host: {', '.join(on_host) or 'nothing'}; largest difference between outputs: {difference:.2g}")
    # transformers reads the mask's values once unless the model is traced
    if set(on_host) - {"aten::_local_scalar_dense"} or integers < len(inputs) or difference > 1e-3:
        sys.exit("the student cannot be compiled from HLO")


if __name__ == "__main__":
    main()
