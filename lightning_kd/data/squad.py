"""SQuAD, questions about paragraphs that are answered by a span of the paragraph."""

from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
from lightning.pytorch.utilities import rank_zero_warn
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.base import TextDataModule
from lightning_kd.data.collators import prefix_teacher_columns
from lightning_kd.data.hub import load_hub_dataset
from lightning_kd.data.readers import SPLIT_NAMES
from lightning_kd.data.squad_format import questions_from_hub, questions_to_dataset, read_questions
from lightning_kd.data.squad_teacher import CLS_INDEX, check_tokenizer, context_span, encode_for_teacher
from lightning_kd.models import load_tokenizers
from lightning_kd.outputs import IGNORE_INDEX

HUB_IDS = {"1.1": "rajpurkar/squad", "2.0": "rajpurkar/squad_v2"}
"""Where the hub has each version."""


class SQuADDataModule(TextDataModule):
    """SQuAD v1.1 (Rajpurkar et al. 2016) or v2.0 (2018), or other data in its layout.

    A context that is too long for the network is cut into overlapping parts, each a row of its own with the whole
    question. The original layout is a folder with ``train-v1.1.json`` and ``dev-v1.1.json`` (or ``-v2.0``), or one such
    file. There is no test split: score on the validation split.

    Besides token ids a batch has what ``QuestionAnswering`` reads.

    Args:
        path: Hub id, or file or folder in the original layout; null = the hub's data set of this version.
        tokenizer: Fast tokenizer, or its hub id or folder. From the shell it follows the student unless given.
        version: 1.1, where each question has an answer, or 2.0, where some have none.
        stride: Tokens by which consecutive parts of a context overlap, >= 0. It must be smaller than the room that
            ``max_length`` and the question leave.
        predict_path: File in the original layout to answer, with or without answers; null = the validation split.
        max_length: Tokens of a row: question, part of the context and special tokens.
        teacher_tokenizer: The teacher's tokenizer where it is another than the student's, or its hub id or folder: it
            reads the same characters in its own tokens, and what it says of these is carried over to the student's. A
            list for the networks of an ensemble.
        kwargs: ``batch_size``, ``eval_batch_size``, ``num_workers``: see ``TextDataModule``.

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

    @cached_property
    def teacher_tokenizers(self) -> list[PreTrainedTokenizerBase]:
        """Those of what the teacher reads, one for each of its networks or one for all; empty = the student's."""
        return [] if self._teacher_tokenizer is None else load_tokenizers(self._teacher_tokenizer)

    @property
    def has_unanswerable(self) -> bool:
        """Whether some questions have no answer."""
        return self.version == "2.0"

    def load(self, split: str) -> datasets.Dataset | None:
        """The questions of a split.

        ``id``, ``question``, ``context``, ``question_index``; to train ``answer`` and ``answer_start``, to score also
        ``answers``, the texts that are right. A question whose answer is not where it is said to be in the context has
        ``answer_start`` -1; in training it is left out, with a warning.
        """
        if split == "predict":
            found = self._load_predict_questions()
            return (
                None
                if found is None
                else questions_to_dataset(*found).remove_columns(["answer", "answer_start", "answers"])
            )
        found = self._load_questions(split)
        if found is None:
            return None
        questions, where = found
        for question in questions:
            if self.version == "1.1" and not question["answers"]:
                raise ValueError(
                    f"data.version: question {question['id']!r} of {where} has no answer, so this is no SQuAD v1.1; "
                    'set data.version="2.0" and model.task.init_args.no_answer_threshold, or remove such questions'
                )
        rows = questions_to_dataset(questions, where)
        if split != "train":
            return rows
        starts = rows["answer_start"][:]
        unknown = [number for number, start in enumerate(starts) if start < 0]
        if unknown:
            rank_zero_warn(
                f"{len(unknown)} of {len(rows)} training questions have an answer that is not at its place in the "
                f"context, the first is {rows['id'][unknown[0]]!r}; they are left out"
            )
            rows = rows.select([number for number, start in enumerate(starts) if start >= 0]).flatten_indices()
        return rows.remove_columns(["answers"])

    def _missing_split_hint(self, split: str) -> str:
        name = "dev" if split in ("validation", "predict") else split
        files = f"name a folder with {name}-v{self.version}.json (data.version is {self.version})"
        other = {"test": "score the validation split with `validate`", "predict": "name a file with data.predict_path"}
        return f"{files}; or {other[split]}" if split in other else files

    def _encoding_key(self) -> str:
        return f"{super()._encoding_key()} {self.stride}"

    def _load_questions(self, split: str) -> tuple[list[dict[str, Any]], str] | None:
        """The questions of a split and where they are from; None where there is no such split."""
        local = Path(self.path).expanduser()
        if local.exists():
            file = self._find_file(local, split)
            return None if file is None else (read_questions(file), str(file))
        rows = self._hub_splits.get(split)
        return None if rows is None else (questions_from_hub(rows, self.path), f"{self.path} ({split})")

    def _load_predict_questions(self) -> tuple[list[dict[str, Any]], str] | None:
        if self.predict_path is None:
            return self._load_questions("validation")
        file = Path(self.predict_path).expanduser()
        if not file.is_file():
            raise ValueError(f"data.predict_path: there is no file {str(file)!r}")
        questions = read_questions(file)
        if not questions:
            raise ValueError(f"data.predict_path: {str(file)!r} has no questions")
        return questions, str(file)

    def _find_file(self, path: Path, split: str) -> Path | None:
        if path.is_file():
            return path if SPLIT_NAMES.get(path.stem.partition("-")[0], "train") == split else None
        names = [name for name, meaning in SPLIT_NAMES.items() if meaning == split]
        files = [path / f"{name}-v{self.version}.json" for name in names]
        return next((file for file in files if file.is_file()), None)

    @cached_property
    def _hub_splits(self) -> dict[str, datasets.Dataset]:
        loaded = load_hub_dataset(self.path, None)
        return {SPLIT_NAMES[split]: rows for split, rows in loaded.items() if split in SPLIT_NAMES}

    def encode(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Token ids of question and parts of the context, and what the task reads beside them.

        Raises:
            ValueError: If the tokenizer cannot say which characters a token stands for, or a question leaves no room
                for its context or less than the parts overlap.
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
            return_token_type_ids=True,  # a student may do without them (DistilBERT), its teacher not
        )
        encodings: list[Encoding] = encoded.encodings
        sample_mapping = encoded.pop("overflow_to_sample_mapping")
        columns: dict[str, list[Any]] = dict(encoded)
        columns["context_span"] = [context_span(encoding) for encoding in encodings]
        if "answer" in examples:
            answers = [(examples["answer_start"][sample], examples["answer"][sample]) for sample in sample_mapping]
            positions = [
                _answer_positions(encoding, tokens, start, text)
                for encoding, tokens, (start, text) in zip(encodings, columns["context_span"], answers, strict=True)
            ]
            columns["start_positions"], columns["end_positions"] = map(list, zip(*positions, strict=True))
        if "answers" in examples or "answer" not in examples:  # to score or to answer
            columns["offsets"] = [
                [
                    pair if sequence == 1 else (0, 0)
                    for pair, sequence in zip(encoding.offsets, encoding.sequence_ids, strict=True)
                ]
                for encoding in encodings
            ]
            columns["window_index"] = [
                number - sample_mapping.index(sample) for number, sample in enumerate(sample_mapping)
            ]
            for name in ("question_index", "id", "question", "context", "answers"):
                if name in examples:
                    columns[name] = [examples[name][sample] for sample in sample_mapping]
        if "answer" in examples or "answers" in examples:  # not to predict
            texts = [[column[sample] for sample in sample_mapping] for column in (questions, examples["context"])]
            for index, teacher_tokenizer in enumerate(self.teacher_tokenizers):
                columns |= prefix_teacher_columns(index, encode_for_teacher(teacher_tokenizer, encodings, *texts))
        return columns

    def _check_question_lengths(self, ids: list[str], questions: list[str], max_length: int) -> None:
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        longer = ", or raise data.max_length" if max_length == self.max_length else ", which the tokenizer limits"
        tokens = self.tokenizer(questions, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for name, question in zip(ids, tokens, strict=True):
            room = max_length - special - len(question)
            if room < 1:
                raise ValueError(
                    f"data.max_length: question {name!r} has {len(question)} tokens, which leaves no room for its "
                    f"context in {max_length}; shorten or remove the question{longer}"
                )
            if self.stride >= room:
                raise ValueError(
                    f"data.stride: {self.stride} is not smaller than the room that question {name!r} leaves for its "
                    f"context, {room} of {max_length} tokens{longer}; lower it"
                )


def _answer_positions(encoding: Encoding, context: tuple[int, int], start: int, text: str) -> tuple[int, int]:
    """The first and last token of the answer; ``CLS_INDEX`` where there is none or this part does not hold it whole.

    Args:
        encoding: Question and a part of the context.
        context: Its ``context_span``.
        start: Where the answer starts in the context, in characters; negative = unknown.
        text: The answer; empty = there is none.
    """
    if start < 0:
        return IGNORE_INDEX, IGNORE_INDEX
    first, after_last = context
    start, text = start + len(text) - len(text.lstrip()), text.strip()
    # characters such as spaces belong to no token
    tokens = [token for c in range(start, start + len(text)) if (token := encoding.char_to_token(c, 1)) is not None]
    if not tokens or encoding.offsets[first][0] > start or encoding.offsets[after_last - 1][1] < start + len(text):
        return CLS_INDEX, CLS_INDEX
    return tokens[0], tokens[-1]
