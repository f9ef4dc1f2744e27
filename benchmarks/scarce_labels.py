"""Create versions of CLINC150 with few labels: only the first training examples of each class keep their label.

Writes two data sets in the original layout, with unchanged validation and test splits: ``labeled`` has only the
training examples with a label; ``partly_labeled`` has all of them, with the intent ``null`` where there is no label.

    python benchmarks/scarce_labels.py <CLINC150 folder>/data_oos_plus.json clinc150_10 --share 0.1
"""

import argparse
import json
from collections import Counter
from pathlib import Path


def main() -> None:
    """Write the two files and print their numbers of training examples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="CLINC150 in the original layout")
    parser.add_argument("output_dir", type=Path, help="folder to write to")
    parser.add_argument(
        "--share",
        type=float,
        default=0.1,
        help="fraction of each class that keeps its label, in (0, 1] (default: %(default)s)",
    )
    args = parser.parse_args()
    content = json.loads(args.file.read_text(encoding="utf-8"))
    parts = ("train", "oos_train")
    sizes = Counter(intent for part in parts for _, intent in content[part])
    seen: Counter[str] = Counter()
    partly_labeled: dict[str, list[list[str | None]]] = {}
    for part in parts:
        partly_labeled[part] = []
        for text, intent in content[part]:
            keep = seen[intent] < args.share * sizes[intent]
            seen[intent] += 1
            partly_labeled[part].append([text, intent if keep else None])
    labeled = {
        part: [example for example in examples if example[1] is not None] for part, examples in partly_labeled.items()
    }
    for name, train in (("labeled", labeled), ("partly_labeled", partly_labeled)):
        folder = args.output_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / args.file.name).write_text(json.dumps({**content, **train}), encoding="utf-8")
        print(f"{folder}: {sum(map(len, train.values())):,} training examples")


if __name__ == "__main__":
    main()
