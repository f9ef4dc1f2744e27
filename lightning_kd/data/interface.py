"""The attributes and methods of a DataModule that the rest of the library uses."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.augmentation import Augmentation
from lightning_kd.data.tokenization import Prompt
from lightning_kd.outputs import Batch


class DataModuleInterface:
    """Members that a DataModule may offer, with defaults for those that it lacks.

    ``TextDataModule`` implements all of it. Any other ``LightningDataModule`` may define the members that it supports;
    ``get_datamodule`` fills in the others.
    """

    path: str = ""
    """Hub id, file or folder of the dataset."""
    batch_size: int = 1
    """Training examples per batch and device."""
    max_length: int = 2**31 - 1
    """Maximum number of tokens of an example, without those of the prompt."""
    prompt: Prompt | None = None
    """Template that the student reads around each text."""
    teacher_prompt: Prompt | None = None
    """Template that the teacher reads around each text."""
    supports_teacher_tokenizer: bool = False
    """True if the DataModule has the argument ``teacher_tokenizer``."""
    allow_unlabeled: bool = False
    """True if training examples may lack a label."""
    augmentation: Augmentation | None = None
    """Augmentation of the training texts."""
    is_stochastic: bool = True
    """True if training examples change from epoch to epoch, as with dynamic masking."""
    teacher_cache_lookup: Callable[[Batch], Batch] | None = None
    """Adds cached teacher logits to a training batch; set during a fit with a teacher cache."""

    @property
    def class_name(self) -> str:
        """Class name for messages; empty without a DataModule."""
        return type(self).__name__

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        """The student's tokenizer."""
        return None

    @property
    def teacher_tokenizers(self) -> Sequence[PreTrainedTokenizerBase]:
        """Tokenizers of separate teacher inputs, one per model or one for all; empty if there are none."""
        return ()

    @property
    def label_names(self) -> list[str] | None:
        """Class names in index order, available before ``setup``; None for unlabeled data."""
        return None

    @property
    def has_unanswerable(self) -> bool:
        """True if some questions have no answer."""
        return False

    def max_tokens(self) -> int | None:
        """Return the maximum number of tokens of an example, prompt included; None if unknown."""
        return None

    def max_teacher_tokens(self) -> int | None:
        """Return the maximum number of tokens of a teacher input; None if the teacher reads the student's inputs."""
        return None

    def texts(self) -> dict[str, list[str]]:
        """Return the texts to predict by column, in the order of ``row_id``."""
        return {}

    def cache_key(self, split: str) -> str:
        """Return a key that changes whenever an example of a loaded split changes.

        Raises:
            ValueError: If the DataModule does not support teacher caches.
        """
        raise self._not_cacheable("cache_key")

    def describe_train_data(self) -> dict[str, Any]:
        """Return what identifies the training data by content, for checkpoints; empty if unknown.

        Returns:
            Plain data: ``fingerprint``, ``cached_as`` (key of ``num_common_examples``), ``num_examples`` (None for a
            stream), ``global_batch_size`` over all devices, ``tokenizers`` (their fingerprint), and ``settings``, the
            arguments that say neither where the data lie nor how fast they are read.
        """
        return {}

    def num_common_examples(self, cached_as: str) -> int | None:
        """Return how many of the first training examples are those of former training data.

        Args:
            cached_as: From ``describe_train_data`` of the former data.

        Returns:
            The number; None if the former data are not available.
        """
        return None

    def row_lengths(self, split: str) -> list[int]:
        """Return the number of tokens of each example of a loaded split, ordered by ``row_id``.

        Raises:
            ValueError: If the DataModule does not support teacher caches.
        """
        raise self._not_cacheable("row_lengths")

    def subset_dataloader(self, split: str, row_ids: Sequence[int], batch_size: int) -> DataLoader[Any]:
        """Return a loader of some examples of a loaded split.

        Args:
            split: Name of the split.
            row_ids: The examples, in this order.
            batch_size: Examples per batch.

        Raises:
            ValueError: If the DataModule does not support teacher caches.
        """
        raise self._not_cacheable("subset_dataloader")

    def _not_cacheable(self, method: str) -> ValueError:
        return ValueError(
            f"teacher_cache: {self.class_name or 'a DataLoader'} has no {method}; use a DataModule derived from "
            "TextDataModule, or remove teacher_cache"
        )


class _ForeignDataModule(DataModuleInterface):
    """View of a DataModule that does not implement the interface, or of None: defaults replace missing members."""

    _NOT_DELEGATED = ("class_name", "cache_key", "row_lengths", "subset_dataloader")  # a cache needs TextDataModule

    def __init__(self, datamodule: Any) -> None:
        self._datamodule = datamodule

    @property
    def class_name(self) -> str:
        return "" if self._datamodule is None else type(self._datamodule).__name__

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name not in self._NOT_DELEGATED:
            datamodule = super().__getattribute__("_datamodule")
            if hasattr(datamodule, name):
                return getattr(datamodule, name)
        return super().__getattribute__(name)


def as_datamodule_interface(datamodule: Any) -> DataModuleInterface:
    """Return the DataModule itself if it implements the interface, else a view with defaults; None is allowed."""
    return datamodule if isinstance(datamodule, DataModuleInterface) else _ForeignDataModule(datamodule)


def get_datamodule(trainer: Trainer | None) -> DataModuleInterface:
    """Return the trainer's DataModule as the rest of the library sees it.

    Lightning sets ``Trainer.datamodule`` without declaring it (2.6), so this is the only place that reads it.
    """
    return as_datamodule_interface(getattr(trainer, "datamodule", None))
