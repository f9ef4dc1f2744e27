"""Whether a student has only operators that an XLA compiler takes: lowers it to HLO and counts the instructions.

The compiler of Inf2 and Trn1, neuronx-cc, gets HLO, which torch-xla makes of the network; torch-xla is on the public
package index, the compiler is not. So this is a check that nothing stands in the way before the compiler, and no check
of the compiler. It goes wrong if an operator has no lowering (then it is computed on the host and named here), or if an
input has become a constant of the graph. Needs torch-xla and the PyTorch that belongs to it, which may be older than
the one of this package, in an environment of its own:

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
    """Print the instructions; exit with 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", required=True, help="Folder as StudentExport writes it.")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=128)
    args = parser.parse_args()
    [architecture] = AutoConfig.from_pretrained(args.student).architectures
    network = getattr(transformers, architecture).from_pretrained(args.student, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(args.student)
    padding = {"padding": "max_length", "truncation": True, "max_length": args.length}
    inputs = tokenizer(["what is this?"] * args.batch, return_tensors="pt", **padding)
    if getattr(network.config, "type_vocab_size", 0) < 2:
        inputs.pop("token_type_ids", None)
    with torch.no_grad():
        expected = list(network(**inputs).values())
        device = torch_xla.device()
        network.to(device)
        on_device = {name: tensor.to(device) for name, tensor in inputs.items()}
        torch_xla.sync()
        metrics.clear_all()
        outputs = list(network(**on_device).values())
        hlo = torch_xla._XLAC._get_xla_tensors_hlo(outputs)
        on_host = [name for name in metrics.counter_names() if name.startswith("aten::")]
        difference = max(float((a - b.cpu()).abs().max()) for a, b in zip(expected, outputs, strict=True))
    instructions = Counter(re.findall(r"^\s+(?:ROOT )?\S+ = (?:\([^=]*?\)|\S+) ([a-z][\w-]*)\(", hlo, re.MULTILINE))
    entry = hlo[hlo.index("\nENTRY") :]
    integers = len(re.findall(rf"= s64\[{args.batch},{args.length}\]\S* parameter\(", entry))
    for name, count in instructions.most_common():
        print(f"{count:6}  {name}")
    print(f"{instructions.total()} instructions of {len(instructions)} kinds; {integers} of {len(inputs)} inputs")
    print(f"on the host: {', '.join(on_host) or 'nothing'}; largest difference of an output {difference:.2g}")
    # one look at the mask's values is what transformers does while nothing is traced
    if set(on_host) - {"aten::_local_scalar_dense"} or integers < len(inputs) or difference > 1e-3:
        sys.exit("not fit for a compiler of HLO")


if __name__ == "__main__":
    main()
