"""Questions in SQuAD's format, from a file or the Hub."""

from pathlib import Path
from typing import Any

import datasets

from lightning_kd.data.readers import check_columns, read_json

Question = dict[str, Any]
"""``id``, ``question``, ``context``, ``answers`` (texts) and ``starts`` (the first character of each)."""


def read_questions(file: Path) -> datasets.Dataset:
    """Read the questions of a file in SQuAD's format; see ``SQuADDataModule.load`` for the columns.

    Raises:
        ValueError: If the file has a different format, an id is not unique, or a question or context has no text; the
            message names the question.
    """
    content = read_json(file)
    questions: list[Question] = []
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    answers = [] if qa.get("is_impossible") else qa.get("answers", [])
                    answers = [answer for answer in answers if answer["text"].strip()]
                    questions.append(
                        {
                            "id": qa["id"],
                            "question": qa["question"],
                            "context": paragraph["context"],
                            "answers": [answer["text"] for answer in answers],
                            "starts": [answer["answer_start"] for answer in answers],
                        }
                    )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file}, question {len(questions) + 1}: not in SQuAD's format (data, paragraphs, context, qas: id, "
            f"question, answers: text, answer_start): {type(error).__name__} {error}"
        ) from error
    return _to_dataset(questions, str(file))


def questions_from_hub(rows: datasets.Dataset, path: str, split: str) -> datasets.Dataset:
    """Return the questions of a split of a Hub dataset; see ``SQuADDataModule.load`` for the columns.

    Args:
        rows: The split.
        path: Hub id, for messages.
        split: Name of the split, for messages.

    Raises:
        ValueError: If a column is missing, an id is not unique, or a question or context has no text.
    """
    required = ["id", "question", "context", "answers"]
    check_columns(f"data.path: {path!r}", required, rows.column_names)
    questions = [
        {"id": i, "question": q, "context": c, "answers": a["text"], "starts": a["answer_start"]}
        for i, q, c, a in zip(*(rows[name] for name in required), strict=True)
    ]
    return _to_dataset(questions, f"{path} ({split})")


def _first_answer_start(question: Question) -> int:
    """Return where the first answer starts in the context; 0 if there is none, -1 if the context differs there."""
    if not question["answers"]:
        return 0
    start, text = question["starts"][0], question["answers"][0]
    return start if isinstance(start, int) and start >= 0 and question["context"].startswith(text, start) else -1


def _to_dataset(questions: list[Question], where: str) -> datasets.Dataset:
    seen: set[str] = set()
    for number, question in enumerate(questions, 1):
        if not isinstance(question["id"], str):
            raise ValueError(f"{where}, question {number}: the id must be a string, got {question['id']!r}; quote it")
        if question["id"] in seen:
            raise ValueError(f"{where}: the id {question['id']!r} is not unique; change one")
        seen.add(question["id"])
        for field in ("question", "context"):
            if not isinstance(question[field], str) or not question[field].strip():
                raise ValueError(f"{where}: question {question['id']!r} has no {field}; add it or remove the question")
    columns: dict[str, list[Any]] = {
        name: [question[name] for question in questions] for name in ("id", "question", "context", "answers")
    }
    columns["question_index"] = list(range(len(questions)))
    columns["answer"] = [question["answers"][0] if question["answers"] else "" for question in questions]
    columns["answer_start"] = [_first_answer_start(question) for question in questions]
    text = datasets.Value("string")
    features = {"id": text, "question": text, "context": text, "answers": datasets.List(text), "answer": text}
    numbers = {"question_index": datasets.Value("int64"), "answer_start": datasets.Value("int64")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features({**features, **numbers}))
