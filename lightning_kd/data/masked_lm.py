"""Plain text for masked language models."""

from functools import cached_property, partial
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.base import TextDataModule
from lightning_kd.data.blocks import group_texts
from lightning_kd.data.collators import Collator
from lightning_kd.data.masked_rows import PromptTokenIds, mask_and_collate
from lightning_kd.data.masking import Masking, smoothed_weights
from lightning_kd.data.stream import StreamingTextDataset
from lightning_kd.data.text_source import TextSource
from lightning_kd.data.tokenization import Prompt

MAX_SMOOTHING = 10
"""Beyond this the weights of frequent tokens are 0 in float64."""


class MaskedLMDataModule(TextDataModule):
    """Plain text, some of whose tokens are hidden: others in each epoch of training, always the same for scoring.

    ``path`` is a hub id, a file, or a folder with files named after splits, such as ``train.txt`` and
    ``validation.txt`` or ``wiki.train.raw``: a text per line, or .csv, .tsv or .jsonl with a column of texts. Any
    language, UTF-8.

    Args:
        path: Hub id, local file, or folder.
        tokenizer: Tokenizer with a mask token, or its hub id or folder. From the shell it follows the student unless
            given.
        text_column: Column of the text, in tables and hub data sets.
        config_name: Configuration of the hub data set, where it has several.
        line_by_line: If True, each text is one example, truncated to ``max_length``. If False, texts are joined with
            ``[SEP]`` between them and cut into examples of ``max_length`` tokens.
        mlm_probability: Share of the tokens to hide, in (0, 1).
        dynamic_masking: Hide other tokens in each epoch of training, as RoBERTa was trained; false hides the same,
            which a ``teacher_cache`` needs.
        whole_word_masking: Hide words whole, as the tokenizer splits them: for XLM-R and its like what stands between
            spaces, which in Chinese, Japanese or Thai may be a sentence. Needs a fast tokenizer.
        mlm_smoothing: In training hide rare tokens more often, each with a weight of its count to the power of minus
            this, in [0, 10]; 0 = all alike, DistilBERT takes 0.7. Scores are always those of tokens hidden alike.
        validation_fraction: Share of the training texts to hold out where there is no validation split, in [0, 1).
        streaming: Read and tokenise the training texts while training instead of before, for corpora whose tokens are
            not to lie on the disk (otherwise texts and tokens are written to the cache of ``datasets`` and mapped
            into memory). An epoch then has no known length: set ``trainer.max_steps``.
        shuffle_buffer: Rows of a stream that are shuffled together.
        teacher_prompt: Template around each row that the teacher reads, ``{text}`` in the place of the text, and the
            student is to do without (prompt internalisation): they are compared at the hidden tokens. Its tokens come
            on top of ``max_length``.
        max_length: Tokens of a row at most, special tokens included.
        kwargs: ``batch_size``, ``eval_batch_size``, ``num_workers``: see ``TextDataModule``.

    Raises:
        ValueError: If an argument is out of range, or two do not go together.
    """

    ENCODING_VERSION = 1

    def __init__(
        self,
        path: str,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        text_column: str = "text",
        config_name: str | None = None,
        line_by_line: bool = False,
        mlm_probability: float = 0.15,
        dynamic_masking: bool = True,
        whole_word_masking: bool = False,
        mlm_smoothing: float = 0.0,
        validation_fraction: float = 0.0,
        streaming: bool = False,
        shuffle_buffer: int = 10_000,
        teacher_prompt: str | None = None,
        max_length: int = 128,
        **kwargs: Any,
    ) -> None:
        super().__init__(path, tokenizer, max_length=max_length, **kwargs)
        if not 0 < mlm_probability < 1:
            raise ValueError(f"data.mlm_probability: must be in (0, 1), got {mlm_probability}")
        if not 0 <= mlm_smoothing <= MAX_SMOOTHING:
            raise ValueError(f"data.mlm_smoothing: must be in [0, {MAX_SMOOTHING}], got {mlm_smoothing}")
        if not 0 <= validation_fraction < 1:
            raise ValueError(f"data.validation_fraction: must be in [0, 1), got {validation_fraction}")
        if shuffle_buffer < 1:
            raise ValueError(f"data.shuffle_buffer: must be >= 1, got {shuffle_buffer}")
        if streaming and not dynamic_masking:
            raise ValueError("data.dynamic_masking: false does not go with streaming; set one of them")
        for name, enabled in (("whole_word_masking", whole_word_masking), ("streaming", streaming)):
            if mlm_smoothing and enabled:
                raise ValueError(f"data.mlm_smoothing: does not go with {name}; set one of them")
        if streaming and (validation_fraction or self.num_workers):
            name = "validation_fraction" if validation_fraction else "num_workers"
            raise ValueError(f"data.{name}: does not go with streaming; set it to 0")
        self.text_column = text_column
        self.config_name = config_name
        self.line_by_line = line_by_line
        self.mlm_probability = mlm_probability
        self.is_stochastic = self.dynamic_masking = dynamic_masking
        self.whole_word_masking = whole_word_masking
        self.mlm_smoothing = mlm_smoothing
        self.validation_fraction = validation_fraction
        self.streaming = streaming
        self.shuffle_buffer = shuffle_buffer
        self.teacher_prompt = (
            None if teacher_prompt is None else Prompt(teacher_prompt, ("text",), "data.teacher_prompt")
        )

    # ---- what the teacher reads

    @property
    def teacher_tokenizers(self) -> list[PreTrainedTokenizerBase]:
        """The student's, where there is a prompt."""
        return [] if self.teacher_prompt is None else [self.tokenizer]

    @cached_property
    def _prompt_ids(self) -> PromptTokenIds | None:
        if self.teacher_prompt is None:
            return None
        before, after = self.teacher_prompt.format("\0").split("\0")
        encode = partial(self.tokenizer.encode, add_special_tokens=False)
        return encode(before), encode(after)

    def max_teacher_tokens(self) -> int | None:
        """``max_length`` and the tokens of the prompt."""
        return None if self._prompt_ids is None else self.max_length + sum(map(len, self._prompt_ids))

    # ---- texts

    @cached_property
    def _source(self) -> TextSource:
        return TextSource(self.path, self.text_column, self.config_name, self.ENCODING_VERSION)

    def load(self, split: str) -> datasets.Dataset | None:
        """The texts of a split, in a column ``text``."""
        held_out = (
            self.validation_fraction and not self._source.has_split("validation") and split in ("train", "validation")
        )
        if not self._source.has_split("train" if held_out else split):
            return None
        rows = self._source.load_split("train" if held_out else split)
        if held_out and len(rows) == 1:
            raise ValueError(
                f"data.validation_fraction: {self.path!r} has one text only, which cannot be parted; add some"
            )
        if held_out and len(rows):
            parts = rows.train_test_split(self.validation_fraction, seed=0)
            return parts["train" if split == "train" else "test"].flatten_indices()
        return rows

    def _missing_split_hint(self, split: str) -> str:
        files = f"add a file named {split}.txt (or .csv, .tsv, .jsonl) to a local folder"
        hold_out = "; or hold out texts with data.validation_fraction=0.05" if not self.streaming else ""
        return files + hold_out * (split == "validation")

    def _load_splits(self, stage: str | None) -> None:
        if stage == "predict":
            raise ValueError("MaskedLMDataModule has nothing to predict; load the student with pipeline('fill-mask')")
        if self.streaming and stage in (None, "fit"):
            if not self._source.has_split("train"):
                raise ValueError(f"data.path: {self.path!r} has no train split; {self._missing_split_hint('train')}")
            if next(self._source.iter_texts("train"), None) is None:
                raise ValueError(f"data.path: the train split of {self.path!r} is empty")
            self._check_length()
            stage = "validate"
        super()._load_splits(stage)

    # ---- rows

    def _check_length(self) -> None:
        special = 2
        limit = self.tokenizer.model_max_length
        if self.max_length > limit:
            raise ValueError(
                f"data.max_length: {self.max_length} is more than the {limit} positions that the tokenizer "
                f"{self.tokenizer.name_or_path!r} says the network has; lower it"
            )
        if self.max_length <= special:
            raise ValueError(f"data.max_length: {self.max_length} leaves no room for text; give {special + 1} or more")
        if self.whole_word_masking and not self.tokenizer.is_fast:
            raise ValueError(
                f"data.whole_word_masking: the tokenizer {self.tokenizer.name_or_path!r} is not a fast one and does "
                "not say where words begin; set it to false"
            )
        for role in ("mask_token", "cls_token", "sep_token"):
            if getattr(self.tokenizer, role) is None:
                raise ValueError(
                    f"data.tokenizer: {self.tokenizer.name_or_path!r} has no {role}; use an encoder's, such as BERT's"
                )

    def encode(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Token ids of blocks or lines, and with ``whole_word_masking`` the word of each token.

        Raises:
            ValueError: If ``max_length`` is more than the network's positions or leaves no room, or the tokenizer has
                no mask.
        """
        self._check_length()
        lines = [text for text in examples["text"] if text and text.strip()]
        if self.line_by_line:
            encoded = self.tokenizer(lines, truncation=True, max_length=self.max_length)
            ids, word_ids = encoded["input_ids"], [part.word_ids for part in encoded.encodings or []]
        else:
            encoded = self.tokenizer(lines, add_special_tokens=False)
            word_ids = [part.word_ids for part in encoded.encodings or []]
            special = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
            ids, word_ids = group_texts(encoded["input_ids"], word_ids, self.max_length, *special)
        columns: dict[str, list[Any]] = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
        if self.whole_word_masking:
            # special tokens belong to no word; they are never chosen
            columns["word_ids"] = [[-1 if word is None else word for word in row] for row in word_ids]
        return columns

    def _encoding_key(self) -> str:
        return f"{super()._encoding_key()} {self.line_by_line} {self.whole_word_masking}"

    # ---- batches

    def cache_key(self, split: str) -> str:
        """The masks count, too; they depend on the run's seed."""
        if split == "train" and self.dynamic_masking:
            raise ValueError(
                f"data.{'streaming' if self.streaming else 'dynamic_masking'}: hides other tokens in each epoch, so "
                "that the teacher never sees a row twice; set it to false, or do without teacher_cache"
            )
        masking_settings = (
            [self.mlm_probability, self.mlm_smoothing, self._seed] if split == "train" else [self.mlm_probability]
        )
        tokens = [self.tokenizer.mask_token_id, sorted(self.tokenizer.all_special_ids), len(self.tokenizer)]
        return f"{super().cache_key(split)} {masking_settings} {tokens} {self.teacher_prompt}"

    @cached_property
    def token_weights(self) -> NDArray[np.float64]:
        """How likely each token is to be hidden in training, (vocabulary,), by its count in the training split."""
        counts = np.zeros(len(self.tokenizer), dtype=np.int64)
        for chunk in self._splits["train"].data.column("input_ids").chunks:
            counts += np.bincount(chunk.flatten().to_numpy(), minlength=len(counts))
        return smoothed_weights(counts, self.mlm_smoothing)

    def collate(self, list_columns: set[str], train: bool) -> Collator:
        """Hide tokens as well."""
        seed = self._seed if train else 0
        assert seed is not None
        weights = self.token_weights if train and self.mlm_smoothing else None
        special = np.asarray(self.tokenizer.all_special_ids)
        vocab_size, mask_token_id = len(self.tokenizer), self.tokenizer.mask_token_id
        masking = Masking(self.mlm_probability, mask_token_id, special, vocab_size, weights)
        return partial(mask_and_collate, self.tokenizer, masking, seed, self._prompt_ids, list_columns)

    def train_dataloader(self) -> DataLoader[Any]:
        """Length-grouped batches in random order, or a stream; resumable in the middle of an epoch."""
        if not self.streaming:
            return super().train_dataloader()
        assert self._seed is not None
        stream = StreamingTextDataset(
            partial(self._source.iter_texts, "train"),
            self.encode,
            self.batch_size,
            self.shuffle_buffer,
            self._seed,
            **self._replica_kwargs(),
        )
        return self._resumable_dataloader(
            stream, dataset=stream, batch_size=None, collate_fn=self.collate(set(), train=True)
        )
