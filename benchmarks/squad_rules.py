"""Score a prediction file by SQuAD's official rules, independently of lightning_kd.

The rules are those of Rajpurkar et al. 2016, section 6.1, and, for questions without an answer, Rajpurkar et al. 2018.
Texts are lowercased; punctuation, the articles a, an and the, and extra spaces are removed. An answer is an exact match
if it equals a reference. Its F1 is computed on bags of words and is the best over the references. Both are means over
all questions, in %; a question missing from the file counts as 0.

The versions differ if no word remains: v1.1 gives an F1 of 0; v2.0 drops such references, and if none remains, the
correct answer is the empty one. The dev split of SQuAD v1.1 has three such references, the answer ".".

    python benchmarks/squad_rules.py <SQuAD folder>/dev-v1.1.json predictions.json
"""

import argparse
import json
import re
import string
from collections import Counter
from pathlib import Path


def normalize(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def word_f1(answer: list[str], reference: list[str], version: str) -> float:
    """Return the harmonic mean of precision and recall of the words, in [0, 1]."""
    if version == "2.0" and not (answer and reference):
        return float(answer == reference)
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference)) if common else 0.0


def score(answer: str, references: list[str], version: str) -> tuple[float, float]:
    """Score one answer.

    Args:
        answer: The predicted answer; empty = the question has no answer.
        references: Accepted answers; none = the question has no answer.
        version: Version of SQuAD, ``1.1`` or ``2.0``.

    Returns:
        Exact match and F1, in %.
    """
    words, reference_words = normalize(answer), [normalize(reference) for reference in references]
    if version == "2.0":
        reference_words = [reference for reference in reference_words if reference] or [[]]
    f1 = max(word_f1(words, reference, version) for reference in reference_words)
    return 100.0 * (words in reference_words), 100.0 * f1


def score_file(data: Path, predictions: dict[str, str]) -> tuple[float, float]:
    """Return exact match and F1, in %, of predictions by question id."""
    content = json.loads(data.read_text(encoding="utf-8"))
    version = str(content.get("version", "1.1")).lstrip("v")
    questions = [qa for article in content["data"] for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    scores = [
        score(predictions[qa["id"]], [answer["text"] for answer in qa["answers"]], version)
        if qa["id"] in predictions
        else (0.0, 0.0)
        for qa in questions
    ]
    exact_match, f1 = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    return exact_match, f1


def main() -> None:
    """Print exact match and F1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="SQuAD file in the original layout")
    parser.add_argument("predictions", type=Path, help="JSON file of answers by question id")
    args = parser.parse_args()
    exact_match, f1 = score_file(args.data, json.loads(args.predictions.read_text(encoding="utf-8")))
    print(f"exact match {exact_match:.4f}, F1 {f1:.4f}")


if __name__ == "__main__":
    main()
