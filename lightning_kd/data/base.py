"""Base class of the DataModules: loads and tokenizes splits, and builds their DataLoaders."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.collators import Collator, collate, is_text_feature
from lightning_kd.data.encoding_cache import (
    encode_dataset,
    encoder_state,
    get_fingerprint,
    load_encoded,
    tokenizer_state,
)
from lightning_kd.data.interface import DataModuleInterface
from lightning_kd.data.readers import Columns
from lightning_kd.data.resumable_dataloader import Position, ResumableDataLoader, ResumableSampler, TokenizedDataset
from lightning_kd.data.samplers import EvaluationSampler, LengthGroupedSampler
from lightning_kd.io.serialization import is_serializable, to_builtins
from lightning_kd.models import is_hub_id, load_tokenizer, load_tokenizers
from lightning_kd.outputs import Batch

SPLITS = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": ("predict",)}
"""Splits of each stage."""

RESUMABLE_ARGUMENTS = frozenset(
    {"path", "revision", "predict_path", "tokenizer", "tokenizer_revision", "teacher_tokenizer"}
    | {"batch_size", "eval_batch_size", "num_workers"}
)
"""Arguments that may change when a run is resumed, or are compared by content."""


class TextDataModule(LightningDataModule, DataModuleInterface):
    """Base class of the DataModules.

    A subclass implements ``load``, which reads a split, and ``encode``, which tokenizes examples.

    Args:
        path: Hub id, local file, or folder in the dataset's original layout.
        tokenizer: Tokenizer, or its Hub id or folder. On the command line, defaults to the student's tokenizer.
        batch_size: Training examples per batch and device, >= 1.
        eval_batch_size: Evaluation examples per batch and device, >= 1; None for twice ``batch_size``.
        max_length: Maximum number of tokens of an example, >= 1; longer texts are truncated. The tokenizer's limit
            applies too.
        num_workers: Worker processes of a DataLoader, >= 0.
        revision: Branch, tag or commit of a dataset on the Hub.
        tokenizer_revision: Branch, tag or commit of a tokenizer on the Hub. On the command line, defaults to that of a
            student with pretrained weights.

    Raises:
        ValueError: If an argument is out of range, or a revision is given for something that is not on the Hub.
    """

    ENCODING_VERSION: ClassVar[int] = 1
    """Version of ``load`` and ``encode``. If it changes, splits are tokenized again and teacher caches filled again."""

    is_stochastic = False
    _teacher_tokenizer: str | PreTrainedTokenizerBase | list[str] | None = None

    def __init__(
        self,
        path: str,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        max_length: int = 128,
        num_workers: int = 0,
        revision: str | None = None,
        tokenizer_revision: str | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.batch_size = batch_size
        self.eval_batch_size = 2 * batch_size if eval_batch_size is None else eval_batch_size
        self.max_length = max_length
        self.num_workers = num_workers
        for name, minimum in (("batch_size", 1), ("eval_batch_size", 1), ("max_length", 1), ("num_workers", 0)):
            if getattr(self, name) < minimum:
                raise ValueError(f"data.{name}: must be >= {minimum}, got {getattr(self, name)}")
        for name, value, source in (
            ("revision", revision, path),
            ("tokenizer_revision", tokenizer_revision, tokenizer),
        ):
            if value is not None and source is not None and not is_hub_id(source):
                raise ValueError(f"data.{name}: only for a Hub id, got {value!r} for {source!r:.80}; remove it")
        self.revision = revision
        self.tokenizer_revision = tokenizer_revision
        self._tokenizer = tokenizer
        self._splits: dict[str, datasets.Dataset] = {}
        self._seed: int | None = None
        self._position: Position = {"epoch": 0, "batches": 0}
        self._train_dataloader: ResumableDataLoader | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The student's tokenizer, loaded on first use.

        Raises:
            ValueError: If the argument ``tokenizer`` is None.
        """
        if self._tokenizer is None:
            raise ValueError("data.tokenizer: not given; set it to the student's Hub id or folder")
        if isinstance(self._tokenizer, (str, Path)):
            options = {} if self.tokenizer_revision is None else {"revision": self.tokenizer_revision}
            self._tokenizer = load_tokenizer(str(self._tokenizer), "data.tokenizer", options)
        return self._tokenizer

    @cached_property
    def teacher_tokenizers(self) -> list[PreTrainedTokenizerBase]:
        """Tokenizers of separate teacher inputs, one per model or one for all; empty if there are none."""
        if self._teacher_tokenizer is not None:
            return load_tokenizers(self._teacher_tokenizer)
        return [] if self.teacher_prompt is None else [self.tokenizer]

    def max_tokens(self) -> int:
        """Return the maximum number of tokens of an example, prompt included."""
        extra = 0 if self.prompt is None else self.prompt.num_tokens(self.tokenizer)
        return int(min(self.max_length + extra, self.tokenizer.model_max_length))

    @abstractmethod
    def load(self, split: str) -> datasets.Dataset | None:
        """Return the raw examples of ``train``, ``validation``, ``test`` or ``predict``; None if there are none."""

    @abstractmethod
    def encode(self, examples: Columns) -> Columns:
        """Tokenize a batch of raw examples by column.

        An example may become several. String columns are passed on to the batch as lists.

        Returns:
            Token ids and, where known, labels; with ``teacher_tokenizers`` also the columns of
            ``collators.prefix_teacher_columns``.
        """

    def prepare_data(self) -> None:
        """Tokenize in one process; the others find the result in the cache of ``datasets``."""
        self._load_splits(self.trainer.state.fn if self.trainer else None)

    def setup(self, stage: str) -> None:
        """Load the tokenized splits of a stage."""
        self._load_splits(stage)
        if stage == "fit":  # replaced by load_state_dict when a run is resumed
            seed = torch.initial_seed()
            self._seed = int(self.trainer.strategy.broadcast(seed) if self.trainer else seed)
            epochs = self.trainer.fit_loop.epoch_progress.current.completed if self.trainer else 0
            self._position, self._train_dataloader = {"epoch": epochs, "batches": 0}, None

    def state_dict(self) -> dict[str, Any]:
        """Return the seed of the order of examples, and the position of training in it."""
        return {"seed": self._seed, "position": self._train_position()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the seed and the position of an interrupted run."""
        self._seed, self._position, self._train_dataloader = state_dict["seed"], state_dict["position"], None

    def _train_position(self) -> Position:
        return self._position if self._train_dataloader is None else self._train_dataloader.state_dict()

    def _load_splits(self, stage: str | None) -> None:
        for split in SPLITS[stage or "fit"]:
            if split not in self._splits:  # prepare_data has loaded it in the first process
                self._splits[split] = self._tokenize(split)

    def _tokenize(self, split: str) -> datasets.Dataset:
        raw = self.load(split)
        if raw is None:
            raise ValueError(f"data.path: {self.path!r} has no {split} split; {self._missing_split_hint(split)}")
        if len(raw) == 0:
            raise ValueError(f"data.path: the {split} split of {self.path!r} is empty")
        # not for the predict split: it has no labels, and reading their names may need the training data
        label_names = None if split == "predict" else self.label_names
        key = hashlib.sha256(f"{get_fingerprint(raw)} {label_names} {self._encoding_key()}".encode()).hexdigest()[:32]
        rows = encode_dataset(raw, self._encode_with_length, key, f"Tokenizing {split}")
        if "length" not in rows.column_names or len(rows) == 0:
            raise ValueError(f"data.path: the {split} split of {self.path!r} has no text with a token")
        return rows

    def _missing_split_hint(self, split: str) -> str:
        return f"add a file named {split}.csv (or .tsv, .jsonl) to a local folder"

    @cached_property
    def _tokenizer_states(self) -> list[Any]:
        return [tokenizer_state(tokenizer) for tokenizer in (self.tokenizer, *self.teacher_tokenizers)]

    def _encoding_key(self) -> str:
        return json.dumps([encoder_state(type(self), TextDataModule), self.max_length, self._tokenizer_states])

    def _encode_with_length(self, examples: Columns) -> Columns:
        encoded = self.encode(examples)
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        return encoded

    def _replica_kwargs(self) -> dict[str, int]:
        if self.trainer is None:
            return {"num_replicas": 1, "rank": 0}
        return {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}

    def cache_key(self, split: str) -> str:
        """Return a key that changes whenever an example of a loaded split changes.

        Raises:
            ValueError: If the examples change from epoch to epoch.
        """
        # a teacher reads the texts without augmentation
        if split == "train" and self.is_stochastic and self.augmentation is None:
            raise ValueError(
                f"teacher_cache: examples of {type(self).__name__} change in each epoch, so that cached logits would "
                "never be used again; remove teacher_cache"
            )
        return get_fingerprint(self._splits[split])

    def describe_train_data(self) -> dict[str, Any]:
        """Return what identifies the training data by content, for checkpoints."""
        codes = [code for cls in type(self).__mro__ if (code := getattr(cls.__init__, "__code__", None)) is not None]  # type: ignore[misc]
        names = {name for code in codes for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]}
        settings = {n: to_builtins(v) for n, v in vars(self).items() if n in names - RESUMABLE_ARGUMENTS}
        return {
            **self._describe_examples(),
            "global_batch_size": int(self.batch_size) * self._replica_kwargs()["num_replicas"],
            "tokenizers": hashlib.sha256(json.dumps(self._tokenizer_states).encode()).hexdigest()[:12],
            "settings": {n: v if is_serializable(v) else type(v).__name__ for n, v in settings.items()},
        }

    def _describe_examples(self) -> dict[str, Any]:
        rows = self._splits["train"]
        return {"fingerprint": get_fingerprint(rows), "cached_as": get_fingerprint(rows), "num_examples": len(rows)}

    def num_common_examples(self, cached_as: str) -> int | None:
        """Return how many of the first training examples are those of a split in the cache of ``datasets``."""
        former, rows = load_encoded(cached_as), self._splits.get("train")
        if former is None or rows is None:
            return None
        pairs = enumerate(zip(former, rows, strict=False))
        return next((index for index, (old, new) in pairs if old != new), min(len(former), len(rows)))

    def row_lengths(self, split: str) -> list[int]:
        """Return the number of tokens of each example of a loaded split, ordered by ``row_id``."""
        lengths: list[int] = self._splits[split]["length"][:]
        return lengths

    def max_teacher_tokens(self) -> int | None:
        """Return the maximum number of tokens of a teacher input; None if the teacher reads the student's inputs."""
        names = [f"teacher_{index}:input_ids" for index in range(len(self.teacher_tokenizers))]
        columns = [rows.data.column(name) for rows in self._splits.values() for name in names if name in rows.features]
        chunks = [chunk for column in columns for chunk in column.chunks if len(chunk)]
        return max((int(chunk.value_lengths().to_numpy().max()) for chunk in chunks), default=None)

    def subset_dataloader(self, split: str, row_ids: Sequence[int], batch_size: int) -> DataLoader[Any]:
        """Return a loader of some examples of a loaded split.

        Args:
            split: Name of the split.
            row_ids: The examples, in this order.
            batch_size: Examples per batch.
        """
        arguments = self._dataloader_kwargs(self._splits[split], train=split == "train")
        return DataLoader(sampler=row_ids, batch_size=batch_size, **arguments)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return length-grouped batches in random order, resumable within an epoch."""
        rows = self._splits["train"]
        assert self._seed is not None
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            return DataLoader(batch_size=self.batch_size, **self._dataloader_kwargs(rows, train=True))
        settings: dict[str, Any] = {"seed": self._seed, "encode_epoch": self.is_stochastic, **self._replica_kwargs()}
        sampler = LengthGroupedSampler(rows["length"][:], self.batch_size, **settings)
        arguments = {"sampler": sampler, "batch_size": self.batch_size, **self._dataloader_kwargs(rows, train=True)}
        return self._resumable_dataloader(sampler, **arguments)

    def _resumable_dataloader(self, resumable_sampler: ResumableSampler, **arguments: Any) -> DataLoader[Any]:
        start, trainer = self._position, cast(Any, self.trainer)
        if trainer is not None and trainer.reload_dataloaders_every_n_epochs and not trainer.fit_loop.restarting:
            start = self._train_position()  # continue from the loader that is replaced
        self._train_dataloader = ResumableDataLoader(trainer, resumable_sampler, start, **arguments)
        return self._train_dataloader

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation split, the batch of the longest examples first."""
        return self._eval_dataloader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the test split, the batch of the longest examples first."""
        return self._eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the examples to predict, the batch of the longest first."""
        return self._eval_dataloader("predict")

    def _eval_dataloader(self, split: str) -> DataLoader[Any]:
        rows = self._splits[split]
        sampler = EvaluationSampler(rows["length"][:], self.eval_batch_size, **self._replica_kwargs())
        return DataLoader(sampler=sampler, batch_size=self.eval_batch_size, **self._dataloader_kwargs(rows))

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Look up cached teacher logits while the batch is on the CPU, after the module's hook has changed the batch.

        Lightning prefers this hook to the module's and warns if there are both, so the module's is called from here.
        """
        assert self.trainer is not None
        batch = self.trainer.lightning_module.on_before_batch_transfer(batch, dataloader_idx)
        return batch if self.teacher_cache_lookup is None else self.teacher_cache_lookup(batch)

    def collate(self, list_columns: set[str], train: bool) -> Collator:
        """Return the function that turns columns, with ``row_id``, ``epoch`` and ``length``, into a batch.

        Args:
            list_columns: Columns that stay lists.
            train: True for training; otherwise batches must be the same in each epoch.
        """
        # not a method: the trainer would be pickled for workers that are not forked
        return partial(collate, self.tokenizer, list_columns, teacher_tokenizers=self.teacher_tokenizers)

    def _dataloader_kwargs(self, rows: datasets.Dataset, train: bool = False) -> dict[str, Any]:
        list_columns = {name for name, feature in rows.features.items() if is_text_feature(feature)}
        return {
            "dataset": TokenizedDataset(rows),
            "collate_fn": self.collate(list_columns, train),
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
