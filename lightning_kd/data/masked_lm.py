"""Plain text for masked language models."""

import hashlib
from functools import cached_property, partial
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.base import TextDataModule
from lightning_kd.data.collators import Collator, PromptTokenIds, collate_with_masking
from lightning_kd.data.masking import Masking, smoothed_weights
from lightning_kd.data.readers import Columns
from lightning_kd.data.splits import hold_out_validation
from lightning_kd.data.stream import StreamingTextDataset
from lightning_kd.data.text_source import TextSource
from lightning_kd.data.tokenization import NO_LIMIT, NUM_SPECIAL_TOKENS, Prompt, group_texts

MAX_SMOOTHING = 10
"""Largest exponent; beyond it, the weights of frequent tokens become 0 in float64."""


class MaskedLMDataModule(TextDataModule):
    """Plain text with masked tokens: new masks in each training epoch, fixed masks for evaluation.

    ``path`` is a Hub id, a file, or a folder with files named after splits, such as ``train.txt`` and
    ``validation.txt`` or ``wiki.train.raw``: one text per line, or .csv, .tsv or .jsonl with a column of texts. Any
    language, UTF-8.

    Args:
        path: Hub id, local file, or folder.
        tokenizer: Tokenizer with a mask token, or its Hub id or folder. On the command line, defaults to the student's
            tokenizer.
        text_column: Column of the texts, in tables and Hub datasets.
        config_name: Configuration of the Hub dataset, if it has several.
        line_by_line: If True, each text is one example, truncated to ``max_length``. If False, texts are joined with
            ``[SEP]`` between them and cut into examples of ``max_length`` tokens.
        mlm_probability: Fraction of the tokens to mask, in (0, 1).
        dynamic_masking: If True, draw new masks in each training epoch, as RoBERTa does. If False, keep the masks,
            which ``teacher_cache`` requires.
        whole_word_masking: Mask all tokens of a word, as split by the tokenizer. For XLM-R and similar tokenizers a
            word is a sequence without spaces, which in Chinese, Japanese or Thai may be a sentence. Requires a fast
            tokenizer.
        mlm_smoothing: Exponent in [0, 10] for the training masks: each token is drawn with its count to the power of
            ``-mlm_smoothing`` as its weight, so that rare tokens are masked more often. 0 gives all tokens equal
            weight; DistilBERT uses 0.7. Evaluation masks always use equal weights.
        validation_fraction: Fraction of the training texts to hold out if there is no validation split, in [0, 1).
        streaming: Read and tokenize the training texts during training, for corpora whose tokens do not fit on the disk
            (otherwise texts and tokens are written to the cache of ``datasets`` and memory-mapped). The length of an
            epoch is then unknown: set ``trainer.max_steps``.
        shuffle_buffer: Number of streamed examples that are shuffled together, >= 1.
        teacher_prompt: Template for the teacher's input only, with ``{text}`` in place of the text (prompt
            internalization). Teacher and student are compared at the masked tokens. The template's tokens are added to
            ``max_length``.
        max_length: Maximum number of tokens of an example, special tokens included.
        kwargs: ``batch_size``, ``eval_batch_size``, ``num_workers``, ``revision``,
            ``tokenizer_revision``; see ``TextDataModule``.

    Raises:
        ValueError: If an argument is out of range or two are mutually exclusive.
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
        if mlm_smoothing and whole_word_masking:
            raise ValueError("data.mlm_smoothing: cannot be combined with whole_word_masking; set one of them")
        conflicts = {
            "dynamic_masking": not dynamic_masking,
            "mlm_smoothing": mlm_smoothing > 0,
            "validation_fraction": validation_fraction > 0,
            "num_workers": self.num_workers > 0,
        }
        for name, is_set in conflicts.items():
            if streaming and is_set:
                raise ValueError(f"data.{name}: cannot be combined with streaming; remove one of them")
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

    # ---- teacher inputs

    @cached_property
    def _prompt_ids(self) -> PromptTokenIds | None:
        if self.teacher_prompt is None:
            return None
        before, after = self.teacher_prompt.format("\0").split("\0")
        encode = partial(self.tokenizer.encode, add_special_tokens=False)
        return encode(before), encode(after)

    def max_teacher_tokens(self) -> int | None:
        """Return ``max_length`` plus the tokens of the prompt; None without a prompt."""
        return None if self._prompt_ids is None else self.max_length + sum(map(len, self._prompt_ids))

    # ---- texts

    @cached_property
    def _source(self) -> TextSource:
        return TextSource(self.path, self.text_column, self.config_name, self.ENCODING_VERSION, self.revision)

    def load(self, split: str) -> datasets.Dataset | None:
        """Return the texts of a split, in a column ``text``.

        Raises:
            ValueError: If there are too few texts for ``validation_fraction``.
        """
        holds_out = self.validation_fraction > 0 and not self._source.has_split("validation")
        if holds_out and split in ("train", "validation") and self._source.has_split("train"):
            parts = hold_out_validation(self._source.load_split("train"), self.validation_fraction, self.path)
            return parts[split].flatten_indices()
        return self._source.load_split(split) if self._source.has_split(split) else None

    def _missing_split_hint(self, split: str) -> str:
        files = f"add a file named {split}.txt (or .csv, .tsv, .jsonl) to a local folder"
        can_hold_out = split == "validation" and not self.streaming
        return files + "; or hold out texts with data.validation_fraction=0.05" * can_hold_out

    def _load_splits(self, stage: str | None) -> None:
        if stage == "predict":
            raise ValueError("MaskedLMDataModule: nothing to predict; load the student with pipeline('fill-mask')")
        if self.streaming and stage in (None, "fit"):
            if not self._source.has_split("train"):
                raise ValueError(f"data.path: {self.path!r} has no train split; {self._missing_split_hint('train')}")
            if next(self._source.iter_texts("train"), None) is None:
                raise ValueError(f"data.path: the train split of {self.path!r} is empty")
            self._check_tokenizer()
            stage = "validate"
        super()._load_splits(stage)

    # ---- encoding

    def _check_tokenizer(self) -> None:
        tokenizer, limit = self.tokenizer, min(self.tokenizer.model_max_length, NO_LIMIT)
        if not NUM_SPECIAL_TOKENS < self.max_length <= limit:
            raise ValueError(
                f"data.max_length: must be in [{NUM_SPECIAL_TOKENS + 1}, {limit}], the positions that text and special "
                f"tokens have in the model of the tokenizer {tokenizer.name_or_path!r}, got {self.max_length}"
            )
        if self.whole_word_masking and not tokenizer.is_fast:
            raise ValueError(
                f"data.whole_word_masking: {tokenizer.name_or_path!r} is not a fast tokenizer and does not provide "
                "word boundaries; set it to false"
            )
        for role in ("mask_token", "cls_token", "sep_token"):
            if getattr(tokenizer, role) is None:
                raise ValueError(
                    f"data.tokenizer: {tokenizer.name_or_path!r} has no {role}; use an encoder's, such as BERT's"
                )

    def encode(self, examples: Columns) -> Columns:
        """Tokenize texts; with ``whole_word_masking`` also return the word of each token.

        Raises:
            ValueError: If ``max_length`` exceeds the tokenizer's limit or leaves no room, or the tokenizer has no mask.
        """
        self._check_tokenizer()
        texts = [text for text in examples["text"] if text and text.strip()]
        truncation = {"truncation": True, "max_length": self.max_length} if self.line_by_line else {}
        encoded = self.tokenizer(texts, add_special_tokens=self.line_by_line, **truncation)
        ids, word_ids = encoded["input_ids"], [part.word_ids for part in encoded.encodings or []]
        if not self.line_by_line:
            special = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
            ids, word_ids = group_texts(ids, word_ids, self.max_length, *special)
        columns: Columns = {"input_ids": ids, "attention_mask": [[1] * len(example) for example in ids]}
        if self.whole_word_masking:  # special tokens, which are never masked, have no word
            columns["word_ids"] = [[-1 if word is None else word for word in example] for example in word_ids]
        return columns

    def _encoding_key(self) -> str:
        return f"{super()._encoding_key()} {self.line_by_line} {self.whole_word_masking}"

    # ---- batches

    def cache_key(self, split: str) -> str:
        """Return a key of examples and masks, which depend on the seed of the run.

        Raises:
            ValueError: If the masks change from epoch to epoch.
        """
        if split == "train" and self.dynamic_masking:
            raise ValueError(
                f"data.{'streaming' if self.streaming else 'dynamic_masking'}: draws new masks in each epoch, so that "
                "cached logits would never be used again; set it to false, or remove teacher_cache"
            )
        settings: list[Any] = [self.mlm_probability]
        if split == "train":
            settings += [self.mlm_smoothing, self._seed]
        tokens = [self.tokenizer.mask_token_id, sorted(self.tokenizer.all_special_ids), len(self.tokenizer)]
        return f"{super().cache_key(split)} {settings} {tokens} {self.teacher_prompt}"

    def _describe_examples(self) -> dict[str, Any]:
        described = {"num_examples": None} if self.streaming else super()._describe_examples()
        key = f"{self._source.content_key('train', self.streaming)} {self.validation_fraction} {self._encoding_key()}"
        return {**described, "fingerprint": hashlib.sha256(key.encode()).hexdigest()[:32]}

    @cached_property
    def token_weights(self) -> NDArray[np.float64]:
        """Weight of each token id in training masks, (vocabulary,), from its count in the training split."""
        counts = np.zeros(len(self.tokenizer), dtype=np.int64)
        for chunk in self._splits["train"].data.column("input_ids").chunks:
            counts += np.bincount(chunk.flatten().to_numpy(), minlength=len(counts))
        return smoothed_weights(counts, self.mlm_smoothing)

    def collate(self, list_columns: set[str], train: bool) -> Collator:
        """Return the function that turns columns into a batch and masks tokens."""
        seed = self._seed if train else 0
        assert seed is not None
        weights = self.token_weights if train and self.mlm_smoothing else None
        tokenizer = self.tokenizer
        special = np.asarray(tokenizer.all_special_ids)
        masking = Masking(self.mlm_probability, tokenizer.mask_token_id, special, len(tokenizer), weights)
        return partial(collate_with_masking, tokenizer, masking, seed, self._prompt_ids, list_columns)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return length-grouped batches in random order, or a stream, resumable within an epoch."""
        if not self.streaming:
            return super().train_dataloader()
        assert self._seed is not None
        texts = partial(self._source.iter_texts, "train")
        stream = StreamingTextDataset(
            texts, self.encode, self.batch_size, self.shuffle_buffer, self._seed, **self._replica_kwargs()
        )
        return self._resumable_dataloader(
            stream, dataset=stream, batch_size=None, collate_fn=self.collate(set(), train=True)
        )
