"""Score a prediction file by SQuAD's official rules, apart from this package and from torchmetrics.

The rules (Rajpurkar et al. 2016, section 6.1; for questions without an answer Rajpurkar et al. 2018): lower-case,
remove punctuation, the articles a, an and the, and superfluous spaces; an answer is an exact match if it equals one of
the references, and its F1 is that of the bag of words, the best over the references. Both are means over all
questions, in %; a question that the file does not answer counts 0. The versions differ where no word is left: v1.1
gives an F1 of 0; v2.0 leaves such references out, and without any the right answer is none. (torchmetrics, and so the
package, gives 100 where neither side has a word. SQuAD v1.1's dev set has three references like that, the answer ".".)

    python benchmarks/squad_rules.py <SQuAD folder>/dev-v1.1.json predictions.json
"""

import argparse
import json
import re
import string
from collections import Counter
from pathlib import Path


def normalise(text: str) -> list[str]:
    """The words that count."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", text).split()


def word_f1(answer: list[str], reference: list[str], version: str) -> float:
    """Harmonic mean of precision and recall of the words."""
    if version == "2.0" and not (answer and reference):
        return float(answer == reference)
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference)) if common else 0.0


def score(answer: str, references: list[str], version: str) -> tuple[float, float]:
    """Exact match and F1 of one answer, in %; no references = the question has no answer."""
    own, theirs = normalise(answer), [normalise(reference) for reference in references]
    if version == "2.0":
        theirs = [words for words in theirs if words] or [[]]
    return 100.0 * (own in theirs), 100.0 * max(word_f1(own, words, version) for words in theirs)


def score_file(data: Path, predictions: dict[str, str]) -> tuple[float, float]:
    """Exact match and F1 of a prediction file, in %."""
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
    """Print both numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="file in the original layout")
    parser.add_argument("predictions", type=Path, help="file {id: text}")
    args = parser.parse_args()
    exact_match, f1 = score_file(args.data, json.loads(args.predictions.read_text(encoding="utf-8")))
    print(f"exact match {exact_match:.4f}, F1 {f1:.4f}")


if __name__ == "__main__":
    main()
