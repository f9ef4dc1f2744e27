"""Make CLINC150 with few labels: the first rows of each class keep theirs, the others lose it.

Writes two data sets in the original layout, with validation and test as they are: ``labelled`` has only the training
rows that keep their label, ``partly_labelled`` all training rows, the intent of the others ``null``.

    python benchmarks/scarce_labels.py <CLINC150 folder>/data_oos_plus.json clinc150_10 --share 0.1
"""

import argparse
import json
from collections import Counter
from pathlib import Path


def main() -> None:
    """Write the two files and print how many rows there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="CLINC150 in the original layout")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--share", type=float, default=0.1, help="share of each class that keeps its label")
    args = parser.parse_args()
    content = json.loads(args.file.read_text(encoding="utf-8"))
    parts = ("train", "oos_train")
    sizes = Counter(intent for part in parts for _, intent in content[part])
    seen: Counter[str] = Counter()
    partly: dict[str, list[list[str | None]]] = {}
    for part in parts:
        partly[part] = []
        for text, intent in content[part]:
            keep = seen[intent] < args.share * sizes[intent]
            seen[intent] += 1
            partly[part].append([text, intent if keep else None])
    labelled = {part: [row for row in rows if row[1] is not None] for part, rows in partly.items()}
    for name, train in (("labelled", labelled), ("partly_labelled", partly)):
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / args.file.name).write_text(json.dumps({**content, **train}), encoding="utf-8")
        print(f"{folder}: {sum(map(len, train.values())):,} training rows")


if __name__ == "__main__":
    main()
