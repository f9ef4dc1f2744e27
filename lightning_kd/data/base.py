"""The base of all DataModules: loads, tokenises once, and owns the loaders."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.collators import Collator, collate, is_text_feature
from lightning_kd.data.dataloader import Position, ResumableDataLoader, ResumableSampler, TokenizedDataset
from lightning_kd.data.encoding_key import encoder_key, tokenizer_key
from lightning_kd.data.interface import DataModuleInterface
from lightning_kd.data.samplers import EvaluationSampler, LengthGroupedSampler
from lightning_kd.io.atomic import check_writable, disk_full_errors
from lightning_kd.models import load_tokenizer
from lightning_kd.outputs import Batch


class TextDataModule(LightningDataModule, DataModuleInterface):
    """Base of the DataModules.

    A subclass says how to load its splits (``load``) and how rows become token ids (``encode``).

    Args:
        path: Hub id, local file, or folder in the data set's original layout.
        tokenizer: Tokenizer, or its hub id or folder. From the shell it follows the student unless given.
        batch_size: Rows of a training batch on one device, >= 1.
        eval_batch_size: Rows of an evaluation batch on one device; None = twice ``batch_size``.
        max_length: Longer texts are cut to this number of tokens, >= 1 (to the tokenizer's limit if that is less).
        num_workers: Processes that prepare batches; 0 prepares them in the training process.

    Raises:
        ValueError: If a number is out of range.
    """

    ENCODING_VERSION: ClassVar[int] = 1
    """Raise it where rows become something else than before: tokenised rows and teacher caches are made anew."""

    is_stochastic = False

    def __init__(
        self,
        path: str,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        max_length: int = 128,
        num_workers: int = 0,
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
        self._tokenizer = tokenizer
        self._splits: dict[str, datasets.Dataset] = {}
        self._seed: int | None = None
        self._position: Position = {"epoch": 0, "batches": 0}
        self._train_dataloader: ResumableDataLoader | None = None
        self.teacher_cache_lookup: Callable[[Batch], Batch] | None = None
        """Adds cached teacher logits to a batch; set by the module that has a ``teacher_cache``."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, loaded on first use.

        Raises:
            ValueError: If none was given.
        """
        if self._tokenizer is None:
            raise ValueError("data.tokenizer: none given; name the student's hub id or folder")
        if isinstance(self._tokenizer, (str, Path)):
            self._tokenizer = load_tokenizer(str(self._tokenizer), "data.tokenizer")
        return self._tokenizer

    @property
    def label_names(self) -> list[str] | None:
        """The names of the classes in index order, before ``setup`` too; None where there are no labels."""
        return None

    @property
    def teacher_tokenizers(self) -> list[PreTrainedTokenizerBase]:
        """Those of what the teacher reads, one for each of its networks or one for all; empty = the student's."""
        return []

    def max_tokens(self) -> int:
        """Tokens that a row may have at most."""
        return int(min(self.max_length, self.tokenizer.model_max_length))

    @abstractmethod
    def load(self, split: str) -> datasets.Dataset | None:
        """The raw rows of ``train``, ``validation``, ``test`` or ``predict``; None where there is no such split."""

    @abstractmethod
    def encode(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Token ids, and labels where there are some, of a batch of raw rows by column.

        A raw row may become several rows. Texts reach the batch as they are, as lists. With ``teacher_tokenizers`` also
        the columns of ``collate.prefix_teacher_columns``.
        """

    def prepare_data(self) -> None:
        """Tokenise on one process, so that the others find the result in the cache of ``datasets``."""
        self._load_splits(self.trainer.state.fn if self.trainer else None)

    def setup(self, stage: str) -> None:
        """Load the tokenised splits of a stage."""
        self._load_splits(stage)
        if stage == "fit":  # of this run, unless a checkpoint brings another
            seed = torch.initial_seed()
            self._seed = int(self.trainer.strategy.broadcast(seed) if self.trainer else seed)
            epochs = self.trainer.fit_loop.epoch_progress.current.completed if self.trainer else 0
            self._position, self._train_dataloader = {"epoch": epochs, "batches": 0}, None

    def state_dict(self) -> dict[str, Any]:
        """The seed of the order of rows, and where training is in it."""
        return {"seed": self._seed, "position": self._train_position()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the seed of an interrupted run, where it was."""
        self._seed, self._position, self._train_dataloader = state_dict["seed"], state_dict["position"], None

    def _train_position(self) -> Position:
        return self._position if self._train_dataloader is None else self._train_dataloader.state_dict()

    def _load_splits(self, stage: str | None) -> None:
        splits = {
            "fit": ("train", "validation"),
            "validate": ("validation",),
            "test": ("test",),
            "predict": ("predict",),
        }[stage or "fit"]
        for split in splits:
            if split not in self._splits:  # prepare_data has done it on the first process
                self._splits[split] = self._tokenize(split)

    def _tokenize(self, split: str) -> datasets.Dataset:
        raw = self.load(split)
        if raw is None:
            raise ValueError(f"data.path: {self.path!r} has no {split} split; {self._missing_split_hint(split)}")
        if len(raw) == 0:
            raise ValueError(f"data.path: the {split} split of {self.path!r} is empty")
        # rows to predict have no labels; their names may even be unknown, where the training data are not at hand
        label_names = None if split == "predict" else self.label_names
        key = hashlib.sha256(f"{raw._fingerprint} {label_names} {self._encoding_key()}".encode()).hexdigest()[:32]
        cache = Path(datasets.config.HF_DATASETS_CACHE) / "lightning_kd"
        file = cache / f"{key}.arrow"
        if not file.exists():  # a cache that others have filled may be read-only
            check_writable(cache, "HF_DATASETS_CACHE")
            cache.mkdir(parents=True, exist_ok=True)
        with disk_full_errors(file):
            rows = raw.map(
                self._encode_with_length,
                batched=True,
                remove_columns=raw.column_names,
                cache_file_name=str(file),
                new_fingerprint=key,
                desc=f"Tokenising {split}",
            )
        if "length" not in rows.column_names or len(rows) == 0:
            raise ValueError(f"data.path: the {split} split of {self.path!r} has no text that makes a token")
        return rows

    def _missing_split_hint(self, split: str) -> str:
        return f"add a file named {split}.csv (or .tsv, .jsonl) to a local folder"

    def _encoding_key(self) -> str:
        tokenizers = [tokenizer_key(tokenizer) for tokenizer in (self.tokenizer, *self.teacher_tokenizers)]
        return json.dumps([encoder_key(type(self), TextDataModule), self.max_length, tokenizers])

    def _encode_with_length(self, examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        encoded = self.encode(examples)
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        return encoded

    def _replica_kwargs(self) -> dict[str, int]:
        if self.trainer is None:
            return {"num_replicas": 1, "rank": 0}
        return {"num_replicas": self.trainer.world_size, "rank": self.trainer.global_rank}

    def cache_key(self, split: str) -> str:
        """What changes whenever a row of a loaded split does, for whoever keeps results by ``row_id``.

        Raises:
            ValueError: If a row is not the same in each epoch.
        """
        if split == "train" and self.is_stochastic:
            raise ValueError(
                f"teacher_cache: {type(self).__name__} draws rows anew in each epoch, so that the teacher never sees "
                "one twice; do without it"
            )
        return str(self._splits[split]._fingerprint)

    def row_lengths(self, split: str) -> list[int]:
        """The number of tokens of each row of a loaded split."""
        lengths: list[int] = self._splits[split]["length"][:]
        return lengths

    def max_teacher_tokens(self) -> int | None:
        """The number of tokens of the longest row that the teacher reads in its own encoding; None = it has none."""
        names = [f"teacher_{index}:input_ids" for index in range(len(self.teacher_tokenizers))]
        columns = [rows.data.column(name) for rows in self._splits.values() for name in names if name in rows.features]
        chunks = [chunk for column in columns for chunk in column.chunks if len(chunk)]
        return max((int(chunk.value_lengths().to_numpy().max()) for chunk in chunks), default=None)

    def subset_dataloader(self, split: str, row_ids: Sequence[int], batch_size: int) -> DataLoader[Any]:
        """Chosen rows of a loaded split, in the order given."""
        arguments = self._dataloader_kwargs(self._splits[split], train=split == "train")
        return DataLoader(sampler=row_ids, batch_size=batch_size, **arguments)

    def train_dataloader(self) -> DataLoader[Any]:
        """Length-grouped batches in random order, resumable in the middle of an epoch."""
        rows = self._splits["train"]
        assert self._seed is not None
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]
            return DataLoader(batch_size=self.batch_size, **self._dataloader_kwargs(rows, train=True))
        sampler = LengthGroupedSampler(
            rows["length"][:],
            self.batch_size,
            seed=self._seed,
            encode_epoch=self.is_stochastic,
            **self._replica_kwargs(),
        )
        arguments = {"sampler": sampler, "batch_size": self.batch_size, **self._dataloader_kwargs(rows, train=True)}
        return self._resumable_dataloader(sampler, **arguments)

    def _resumable_dataloader(self, resumable_sampler: ResumableSampler, **arguments: Any) -> DataLoader[Any]:
        start, trainer = self._position, cast(Any, self.trainer)
        if trainer is not None and trainer.reload_dataloaders_every_n_epochs and not trainer.fit_loop.restarting:
            start = self._train_position()  # where the loader stopped that this one follows
        self._train_dataloader = ResumableDataLoader(trainer, resumable_sampler, start, **arguments)
        return self._train_dataloader

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation split, the batch of the longest rows first."""
        return self._eval_dataloader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """The test split, the batch of the longest rows first."""
        return self._eval_dataloader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The rows to predict, the batch of the longest first."""
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
        """What makes a batch of columns, with ``row_id``, ``epoch`` and ``length`` among them.

        Args:
            list_columns: Columns that stay lists.
            train: Whether the batch is to train on; else it must be the same in each epoch.
        """
        # no method: workers that are not forked would get the trainer
        return partial(collate, self.tokenizer, list_columns, teacher_tokenizers=self.teacher_tokenizers)

    def _dataloader_kwargs(self, rows: datasets.Dataset, train: bool = False) -> dict[str, Any]:
        dataset: Dataset[Any] = TokenizedDataset(rows)
        list_columns = {name for name, feature in rows.features.items() if is_text_feature(feature)}
        return {
            "dataset": dataset,
            "collate_fn": self.collate(list_columns, train),
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
        }
