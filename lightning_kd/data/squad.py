"""SQuAD: questions that are answered by a span of a paragraph."""

from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
from lightning.pytorch.utilities import rank_zero_warn
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.base import TextDataModule
from lightning_kd.data.collators import prefix_teacher_columns
from lightning_kd.data.readers import Columns
from lightning_kd.data.splits import SPLIT_NAMES, load_hub_splits
from lightning_kd.data.squad_format import questions_from_hub, read_questions
from lightning_kd.data.squad_teacher import (
    CLS_INDEX,
    check_tokenizer,
    context_offsets,
    context_span,
    encode_for_teacher,
)
from lightning_kd.outputs import IGNORE_INDEX

HUB_IDS = {"1.1": "rajpurkar/squad", "2.0": "rajpurkar/squad_v2"}
"""Hub id of each version."""


class SQuADDataModule(TextDataModule):
    """SQuAD v1.1 (Rajpurkar et al. 2016) or v2.0 (2018), or other data in its format.

    A context that is longer than the model allows is split into overlapping windows. Each window is an example with the
    whole question. The original layout is a folder with ``train-v1.1.json`` and ``dev-v1.1.json`` (or ``-v2.0``), or
    one such file. There is no test split; use the validation split for scores.

    Batches have token ids and the entries that ``QuestionAnswering`` documents.

    Args:
        path: Hub id, or file or folder in the original layout; None for the Hub's dataset of this version.
        tokenizer: Fast tokenizer, or its Hub id or folder. On the command line, defaults to the student's tokenizer.
        version: 1.1 (each question has an answer) or 2.0 (some questions have none).
        stride: Number of tokens by which consecutive windows overlap, >= 0. Must be smaller than the number of context
            tokens that ``max_length`` and the question leave.
        predict_path: File in the original format to predict, with or without answers; None for the validation split.
        max_length: Maximum number of tokens of a window: question, context and special tokens.
        teacher_tokenizer: The teacher's tokenizer if it differs from the student's, or its Hub id or folder; a list for
            the models of an ensemble. The teacher reads the same text in its tokenization, and its predictions
            are aligned with the student's tokens.
        kwargs: ``batch_size``, ``eval_batch_size``, ``num_workers``, ``revision``,
            ``tokenizer_revision``; see ``TextDataModule``.

    Raises:
        ValueError: If ``version`` or ``stride`` is out of range.
    """

    ENCODING_VERSION = 1
    supports_teacher_tokenizer = True

    def __init__(
        self,
        path: str | None = None,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        version: str | float = "1.1",
        stride: int = 128,
        predict_path: str | None = None,
        max_length: int = 384,
        teacher_tokenizer: str | PreTrainedTokenizerBase | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        version = str(version)
        if version not in HUB_IDS:
            raise ValueError(f"data.version: must be one of {', '.join(HUB_IDS)}, got {version}")
        if not 0 <= stride < max_length:
            raise ValueError(f"data.stride: must be >= 0 and less than data.max_length ({max_length}), got {stride}")
        super().__init__(path or HUB_IDS[version], tokenizer, max_length=max_length, **kwargs)
        self.version = version
        self.stride = stride
        self.predict_path = predict_path
        self._teacher_tokenizer = teacher_tokenizer

    @property
    def has_unanswerable(self) -> bool:
        """True if some questions have no answer."""
        return self.version == "2.0"

    def load(self, split: str) -> datasets.Dataset | None:
        """Return the questions of a split.

        Returns:
            Columns ``id``, ``question``, ``context`` and ``question_index``; also ``answer`` and ``answer_start``
            except to predict, and ``answers``, all accepted texts, to evaluate. ``answer_start`` is -1 if the answer
            is not at that position of the context; such questions are left out of training, with a warning.

        Raises:
            ValueError: If a file cannot be read, or a question of version 1.1 has no answer.
        """
        rows = self._load_predict_questions() if split == "predict" else self._load_questions(split)
        if rows is None:
            return None
        if split == "predict":
            return rows.remove_columns(["answer", "answer_start", "answers"])
        answers = rows["answers"][:]
        if self.version == "1.1" and [] in answers:
            raise ValueError(
                f"data.version: question {rows['id'][answers.index([])]!r} of {self.path} ({split}) has no answer, so "
                'this is not SQuAD v1.1; set data.version="2.0" and model.task.init_args.no_answer_threshold, or '
                "remove such questions"
            )
        if split != "train":
            return rows
        starts = rows["answer_start"][:]
        misplaced = [index for index, start in enumerate(starts) if start < 0]
        if misplaced:
            rank_zero_warn(
                f"{len(misplaced)} of {len(rows)} training questions, the first is {rows['id'][misplaced[0]]!r}, have "
                "an answer that the context does not have at answer_start; they are left out"
            )
            rows = rows.select([index for index, start in enumerate(starts) if start >= 0]).flatten_indices()
        return rows.remove_columns(["answers"])

    def _missing_split_hint(self, split: str) -> str:
        name = "dev" if split in ("validation", "predict") else split
        files = f"use a folder with {name}-v{self.version}.json (data.version is {self.version})"
        other = {"test": "evaluate the validation split with `validate`", "predict": "set data.predict_path to a file"}
        return f"{files}; or {other[split]}" if split in other else files

    def _encoding_key(self) -> str:
        return f"{super()._encoding_key()} {self.stride}"

    def _load_questions(self, split: str) -> datasets.Dataset | None:
        local = Path(self.path).expanduser()
        if local.exists():
            file = self._find_file(local, split)
            return None if file is None else read_questions(file)
        rows = self._hub_splits.get(split)
        return None if rows is None else questions_from_hub(rows, self.path, split)

    def _load_predict_questions(self) -> datasets.Dataset | None:
        if self.predict_path is None:
            return self._load_questions("validation")
        file = Path(self.predict_path).expanduser()
        if not file.is_file():
            raise ValueError(f"data.predict_path: {str(file)!r} is not a file")
        rows = read_questions(file)
        if not len(rows):
            raise ValueError(f"data.predict_path: {str(file)!r} has no questions")
        return rows

    def _find_file(self, path: Path, split: str) -> Path | None:
        if path.is_file():
            return path if SPLIT_NAMES.get(path.stem.partition("-")[0], "train") == split else None
        names = [name for name, meaning in SPLIT_NAMES.items() if meaning == split]
        files = [path / f"{name}-v{self.version}.json" for name in names]
        return next((file for file in files if file.is_file()), None)

    @cached_property
    def _hub_splits(self) -> dict[str, datasets.Dataset]:
        return load_hub_splits(self.path, revision=self.revision)

    def encode(self, examples: Columns) -> Columns:
        """Tokenize questions with the windows of their contexts.

        Raises:
            ValueError: If the tokenizer does not provide offsets, or a question leaves room for no more than
                ``stride`` context tokens.
        """
        tokenizer, questions = self.tokenizer, [question.strip() for question in examples["question"]]
        check_tokenizer(tokenizer, "data.tokenizer")
        max_length = min(self.max_length, tokenizer.model_max_length)
        self._check_question_lengths(examples["id"], questions, max_length)
        encoded = tokenizer(
            questions,
            examples["context"],
            truncation="only_second",
            max_length=max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_token_type_ids=True,  # for a teacher such as BERT even if the student (DistilBERT) has none
        )
        encodings: list[Encoding] = encoded.encodings
        sample_mapping = encoded.pop("overflow_to_sample_mapping")
        columns: Columns = dict(encoded)
        columns["context_span"] = [context_span(encoding) for encoding in encodings]
        windows = {name: [values[sample] for sample in sample_mapping] for name, values in examples.items()}
        if "answer" in examples:  # not to predict
            answers = zip(encodings, columns["context_span"], windows["answer_start"], windows["answer"], strict=True)
            positions = [_answer_positions(*answer) for answer in answers]
            columns["start_positions"], columns["end_positions"] = map(list, zip(*positions, strict=True))
            texts = [questions[sample] for sample in sample_mapping], windows["context"]
            for index, teacher_tokenizer in enumerate(self.teacher_tokenizers):
                columns |= prefix_teacher_columns(index, encode_for_teacher(teacher_tokenizer, encodings, *texts))
        if "answers" in examples or "answer" not in examples:  # to evaluate or to predict
            columns["offsets"] = [context_offsets(encoding) for encoding in encodings]
            columns["window_index"] = [
                index - sample_mapping.index(sample) for index, sample in enumerate(sample_mapping)
            ]
            names = ("question_index", "id", "question", "context", "answers")
            columns |= {name: windows[name] for name in names if name in windows}
        return columns

    def _check_question_lengths(self, ids: list[str], questions: list[str], max_length: int) -> None:
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        is_tokenizer_limit = max_length < self.max_length
        remedy = " (the limit of the tokenizer)" if is_tokenizer_limit else ", or raise data.max_length"
        tokens = self.tokenizer(questions, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for name, question in zip(ids, tokens, strict=True):
            room = max_length - special - len(question)
            if room < 1:
                raise ValueError(
                    f"data.max_length: question {name!r} has {len(question)} tokens, which leaves no room for its "
                    f"context in {max_length}; shorten or remove the question{remedy}"
                )
            if self.stride >= room:
                raise ValueError(
                    f"data.stride: {self.stride} is not smaller than the {room} of {max_length} tokens that question "
                    f"{name!r} leaves for its context; lower it{remedy}"
                )


def _answer_positions(encoding: Encoding, context: tuple[int, int], start: int, text: str) -> tuple[int, int]:
    """Return the first and last token of the answer; ``CLS_INDEX`` if the window does not contain the whole answer.

    Args:
        encoding: Question and window.
        context: ``context_span`` of the window.
        start: First character of the answer in the context; negative if unknown, which gives ``IGNORE_INDEX``.
        text: The answer; empty if there is none.
    """
    if start < 0:
        return IGNORE_INDEX, IGNORE_INDEX
    first, after_last = context
    start, text = start + len(text) - len(text.lstrip()), text.strip()
    # some characters, such as spaces, have no token
    tokens = [token for c in range(start, start + len(text)) if (token := encoding.char_to_token(c, 1)) is not None]
    if not tokens or encoding.offsets[first][0] > start or encoding.offsets[after_last - 1][1] < start + len(text):
        return CLS_INDEX, CLS_INDEX
    return tokens[0], tokens[-1]
