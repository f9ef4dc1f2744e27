"""Cut a part of SQuAD v1.1 in the original layout: whole paragraphs, drawn at random.

python benchmarks/squad_slice.py <SQuAD folder> squad_10k --train 10000 --dev 2000
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any


def cut(content: dict[str, Any], questions: int, seed: int) -> dict[str, Any]:
    """Draw paragraphs until there are that many questions, and leave out the last ones that are too many."""
    places = [(a, p) for a, article in enumerate(content["data"]) for p in range(len(article["paragraphs"]))]
    random.Random(seed).shuffle(places)
    chosen = []
    for a, p in places:
        paragraph = content["data"][a]["paragraphs"][p]
        kept = paragraph["qas"][: max(questions, 0)]
        if kept:
            title = content["data"][a]["title"]
            chosen.append({"title": title, "paragraphs": [{"context": paragraph["context"], "qas": kept}]})
        questions -= len(kept)
    return {**content, "data": chosen}


def main() -> None:
    """Write both splits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="SQuAD v1.1 in the original layout")
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--train", type=int, default=10_000, help="questions of the training split")
    parser.add_argument("--dev", type=int, default=2_000, help="questions of the validation split")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for split, questions in (("train", args.train), ("dev", args.dev)):
        name = f"{split}-v1.1.json"
        part = cut(json.loads((args.folder / name).read_text(encoding="utf-8")), questions, args.seed)
        (args.out / name).write_text(json.dumps(part), encoding="utf-8")
        count = sum(len(paragraph["qas"]) for article in part["data"] for paragraph in article["paragraphs"])
        print(f"{args.out / name}: {count:,} questions")


if __name__ == "__main__":
    main()
