"""Draw a random subset of SQuAD v1.1 in whole paragraphs and write it in the original layout.

python benchmarks/squad_slice.py <SQuAD folder> squad_10k --train 10000 --dev 2000
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any


def draw_subset(content: dict[str, Any], questions: int, seed: int) -> dict[str, Any]:
    """Draw random paragraphs until there are enough questions, and cut the last paragraph to the exact number.

    Args:
        content: A SQuAD file.
        questions: Number of questions.
        seed: Seed of the draw.
    """
    indices = [(a, p) for a, article in enumerate(content["data"]) for p in range(len(article["paragraphs"]))]
    random.Random(seed).shuffle(indices)
    articles = []
    for a, p in indices:
        paragraph = content["data"][a]["paragraphs"][p]
        kept = paragraph["qas"][: max(questions, 0)]
        if kept:
            title = content["data"][a]["title"]
            articles.append({"title": title, "paragraphs": [{"context": paragraph["context"], "qas": kept}]})
        questions -= len(kept)
    return {**content, "data": articles}


def main() -> None:
    """Write both splits and print their numbers of questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="SQuAD v1.1 in the original layout")
    parser.add_argument("output_dir", type=Path, help="folder to write to")
    parser.add_argument(
        "--train", type=int, default=10_000, help="questions of the training split (default: %(default)s)"
    )
    parser.add_argument(
        "--dev", type=int, default=2_000, help="questions of the validation split (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: %(default)s)")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for split, questions in (("train", args.train), ("dev", args.dev)):
        name = f"{split}-v1.1.json"
        subset = draw_subset(json.loads((args.folder / name).read_text(encoding="utf-8")), questions, args.seed)
        (args.output_dir / name).write_text(json.dumps(subset), encoding="utf-8")
        count = sum(len(paragraph["qas"]) for article in subset["data"] for paragraph in article["paragraphs"])
        print(f"{args.output_dir / name}: {count:,} questions")


if __name__ == "__main__":
    main()
