"""Cache of a teacher's logits on disk, so that the teacher runs once per example.

``TeacherCache`` has the settings and the key; ``CachedTeacher`` reads and fills it, ``RowStore`` stores it.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_info

from lightning_kd.data.interface import DataModuleInterface
from lightning_kd.io.atomic import atomic_write
from lightning_kd.io.serialization import class_path
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.cache_store import RowStore, folder_lock
from lightning_kd.teachers.cached_teacher import CachedTeacher
from lightning_kd.teachers.logit_codec import LogitCodec, StorageDtype
from lightning_kd.teachers.teacher import Teacher

FORMAT_VERSION = 1
"""Part of the cache key; raise it when the format of the files changes."""

METADATA_NAME = "metadata.json"
"""File with the key and names for people."""


@dataclass(frozen=True)
class TeacherCache:
    """Settings of the cache of a teacher's logits.

    Each combination of teacher, examples and precision has its own subfolder, named after a hash of all three, so
    logits are never mixed up. Any number of runs and processes can share ``folder``.

    Args:
        folder: Folder of the cache; created if it does not exist.
        dtype: ``float32``, or ``float16`` for half the space, with 11 significant bits.
        top_k: Number of logits to store per distribution, >= 1, for large vocabularies; the remaining probability is
            spread evenly over the other classes (at temperature 1 the stored classes keep their probabilities). null =
            all.

    Raises:
        ValueError: If an argument is out of range.
    """

    folder: str
    dtype: StorageDtype = "float32"
    top_k: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"teacher_cache.dtype: must be float32 or float16, got {self.dtype!r}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"teacher_cache.top_k: must be >= 1 or null, got {self.top_k}")

    def open(
        self,
        teacher: Teacher,
        task: Task,
        datamodule: DataModuleInterface,
        splits: Sequence[str],
        label_names: list[str],
        precision: str,
    ) -> dict[str, CachedTeacher]:
        """Open the cache of each split.

        Args:
            teacher: The teacher, with its logits aligned to ``label_names``.
            task: The task.
            datamodule: The DataModule, with the splits set up.
            splits: Names of the splits, such as ``train``.
            label_names: The student's labels, in the order of the logits.
            precision: Description of the numerical precision in which the teacher runs.

        Returns:
            The cached teacher of each split.

        Raises:
            ValueError: If examples change from epoch to epoch or cannot be identified, or a folder is damaged or holds
                other logits than its name says.
            OSError: If the folder cannot be created.
        """
        if self.top_k is not None and (task.predicts_positions or task.head_kind != "categorical"):
            raise ValueError(
                f"teacher_cache.top_k: not for {type(task).__name__}, which has no fixed set of classes; set it to null"
            )
        fingerprints = teacher.fingerprints()
        vocab_size = getattr(teacher.models[0].config(), "vocab_size", 0)
        num_classes: int = len(label_names) or task.num_labels or vocab_size
        codec = LogitCodec(self.dtype, self.top_k)
        cached_teachers = {}
        for split in splits:
            key = {
                "format": FORMAT_VERSION,
                "teacher": fingerprints,
                "combine": teacher.combine,
                "task": class_path(type(task)) or type(task).__qualname__,
                "labels": label_names,
                "split": split,
                "rows": datamodule.cache_key(split),
                "precision": precision,
                **{name: value for name, value in asdict(self).items() if name != "folder"},
            }
            folder = Path(self.folder).expanduser() / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
            _check_metadata(folder, key)
            lengths = np.asarray(datamodule.row_lengths(split), dtype=np.float64)
            store = RowStore(folder, lengths if task.logits_per_token else np.ones(len(lengths)))
            if not (folder / METADATA_NAME).exists():
                metadata = {"teacher_names": teacher.names, "num_rows": len(lengths), **key}
                with folder_lock(folder), atomic_write(folder / METADATA_NAME) as file:
                    file.write_text(json.dumps(metadata, indent=2, ensure_ascii=False), encoding="utf-8")
            rank_zero_info(f"Teacher cache {folder}: {len(store):,} of {len(lengths):,} {split} examples cached")
            cached_teachers[split] = CachedTeacher(teacher, task, store, codec, split, num_classes, fingerprints)
        return cached_teachers


def _check_metadata(folder: Path, key: dict[str, Any]) -> None:
    """Raise if the logits in a folder are not those of the key, whose hash is its name, as after a wrong copy."""
    try:
        stored = json.loads((folder / METADATA_NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        stored = {}
    expected = json.loads(json.dumps(key))
    different = [name for name in expected if name not in stored or stored[name] != expected[name]]
    if different:
        raise ValueError(
            f"teacher_cache: {str(folder)!r} was filled with other logits (its {METADATA_NAME} differs in "
            f"{', '.join(different)}); delete it to fill it again"
        )
