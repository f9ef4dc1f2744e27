"""A frozen teacher sees each row once: its logits are kept on disk and looked up by ``row_id``."""

import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from lightning_kd.data.interface import DataModuleInterface
from lightning_kd.io.atomic import atomic_write
from lightning_kd.io.serialization import class_path
from lightning_kd.outputs import TEACHER_INPUTS, Batch, Outputs, Requirement, select_examples
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.fingerprint import fingerprint
from lightning_kd.teachers.logit_codec import LogitCodec, StorageDtype
from lightning_kd.teachers.store import RowStore, folder_lock
from lightning_kd.teachers.teacher import Teacher

FORMAT_VERSION = 1
"""Changes with the meaning of the files."""

TEACHER_LOGITS = "teacher_logits"
"""Entry of a batch whose rows were all found before it went to the device."""


@dataclass(frozen=True)
class TeacherCache:
    """Where a teacher's logits are kept.

    Each teacher, set of rows and precision has a folder of its own within ``folder``, named after a fingerprint of
    them all: nothing is ever read that belongs to another. Any number of runs and processes may share it.

    Args:
        folder: Made where it does not exist.
        dtype: ``float32``, or ``float16`` for half the room, rounded to 11 bits.
        top_k: Logits of each distribution to keep, >= 1, for large vocabularies; the other classes share the rest of
            the probability evenly (exact at temperature 1). null = all.

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
    ) -> "dict[str, CachedTeacher]":
        """The teacher for each of the splits that are loaded, its known rows at hand.

        Args:
            teacher: Its logits aligned with ``label_names``.
            task: The task.
            datamodule: A DataModule with ``cache_key`` and ``row_lengths``, as ``TextDataModule``.
            splits: Such as ``train``.
            label_names: The student's, which order the logits.
            precision: In which the teacher computes.

        Raises:
            ValueError: If the rows cannot be told apart, are drawn anew in each epoch, or a folder is damaged.
            OSError: If the folder cannot be made.
        """
        if self.top_k is not None and task.predicts_positions:
            raise ValueError(f"teacher_cache.top_k: {type(task).__name__} has few classes, positions; set it to null")
        fingerprints = [fingerprint(model.source, model.options) for model in teacher.models]
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
            lengths = np.asarray(datamodule.row_lengths(split), dtype=np.float64)
            expected_sizes = lengths if task.logits_per_token else np.ones(len(lengths))
            store = RowStore(folder, expected_sizes)
            if not (folder / "metadata.json").exists():
                metadata = {"teacher_names": teacher.names, "num_rows": len(expected_sizes), **key}
                with folder_lock(folder), atomic_write(folder / "metadata.json") as file:
                    file.write_text(json.dumps(metadata, indent=2, ensure_ascii=False), encoding="utf-8")
            rank_zero_info(f"Teacher cache {folder}: {len(store):,} of {len(expected_sizes):,} {split} rows are known")
            num_classes = len(label_names) or getattr(teacher.models[0].config(), "vocab_size", 0)
            cached_teachers[split] = CachedTeacher(
                teacher, task, fingerprints, store, LogitCodec(self.dtype, self.top_k), split, num_classes
            )
        return cached_teachers


class CachedTeacher:
    """A teacher that is asked for each row of a split once; called as ``Teacher`` is.

    Also where a row is new, what is returned is what was stored: a run that fills the cache and one that finds it
    filled see the same.

    Args:
        teacher: Loaded when the first row is not known.
        task: The task.
        fingerprints: The fingerprints of its networks.
        store: The rows of the split.
        codec: How logits are kept.
        split: Its name, for messages.
        num_classes: Number of labels, or of tokens; of no use where the classes are positions.
    """

    def __init__(
        self,
        teacher: Teacher,
        task: Task,
        fingerprints: list[str],
        store: RowStore,
        codec: LogitCodec,
        split: str,
        num_classes: int,
    ) -> None:
        self.teacher = teacher
        self.task = task
        self.store = store
        self.codec = codec
        self.split = split
        self._fingerprints: list[str] | None = fingerprints  # until they were compared
        self._num_classes = num_classes

    def __deepcopy__(self, memo: dict[int, Any]) -> "CachedTeacher":
        return self

    def get(self, batch: Batch) -> dict[str, Tensor] | None:
        """The logits of a batch on the CPU, (N, C) float32 for each head; None if the teacher has yet to see a row.

        Raises:
            ValueError: If a row is not what the teacher saw.
        """
        rows = _row_ids(batch)
        if not self.store.contains(rows).all():
            self.store.refresh()  # another process may have been faster
            if not self.store.contains(rows).all():
                return None
        return self._read(rows, batch)

    def _read(self, rows: NDArray[np.int64], batch: Batch) -> dict[str, Tensor]:
        names = self.task.heads
        if not len(rows):
            width = batch["input_ids"].shape[1] if self.task.predicts_positions else self._num_classes
            return {name: torch.zeros(0, width) for name in names}
        if len(changed := rows[self.store.tags(rows) != _token_checksums(batch)]):
            raise ValueError(
                f"teacher_cache: row {changed[0]} of the {self.split} split is not what the teacher saw, so it changes "
                "from epoch to epoch or from run to run; do without teacher_cache, or delete "
                f"{str(self.store.folder)!r} if only the code of the DataModule was changed"
            )
        parts: list[NDArray[np.float32]] = []
        for blocks, num_distributions, num_classes in self.store.read(rows):
            logits = self.codec.decode(blocks, len(names), num_distributions, num_classes)
            parts.append(logits.transpose(1, 0, 2, 3).reshape(len(names), -1, num_classes))
        if self.task.predicts_positions:
            width = batch["input_ids"].shape[1]
            parts = [np.pad(part, ((0, 0), (0, 0), (0, width - part.shape[-1]))) for part in parts]
        stacked = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))
        return dict(zip(names, stacked, strict=True))

    @torch.no_grad()
    def fill(self, batch: Batch) -> None:
        """Let the teacher see those rows of a batch that are not known, and keep its logits.

        Raises:
            FloatingPointError: If the teacher returns NaN, or what cannot be kept.
            ValueError: If the teacher was changed since the cache was opened.
        """
        rows = _row_ids(batch)
        missing = set(rows[~self.store.contains(rows)].tolist())
        row_ids = batch["row_id"].tolist()
        indices = [index for index, row in enumerate(row_ids) if row in missing]
        if not indices:
            if self.teacher.is_sharded:  # the other devices need this one's part of the weights
                self.teacher(
                    select_examples({name: value for name, value in batch.items() if name != TEACHER_LOGITS}, [0])
                )
            return
        missing_batch = select_examples(batch, indices)
        outputs = self.teacher(missing_batch)
        if self._fingerprints is not None:  # its networks were loaded just now, maybe hours after they were looked at
            if any(
                expected != fingerprint(model.source, model.options)
                for expected, model in zip(self._fingerprints, self.teacher.models, strict=True)
                if isinstance(model.source, str)  # a module is at hand from the beginning
            ):
                raise ValueError(f"teacher: {' + '.join(self.teacher.names)} was changed during the run; start again")
            self._fingerprints = None
        logits = torch.stack([outputs.heads[name].logits.float() for name in self.task.heads]).cpu().numpy()
        counts = self.task.num_distributions(missing_batch)
        num_distributions = [1] * len(indices) if counts is None else counts.tolist()
        num_classes = [logits.shape[-1]] * len(indices)
        if self.task.predicts_positions:
            num_classes = missing_batch["attention_mask"].sum(dim=1).tolist()
        stops = np.cumsum(num_distributions)
        blocks = []
        for index, stop, size, width in zip(indices, stops, num_distributions, num_classes, strict=True):
            row_logits = logits[:, stop - size : stop, :width]
            self._check_logits(row_logits, row_ids[index])
            blocks.append(self.codec.encode(row_logits))
        self.store.write(
            np.array([row_ids[index] for index in indices]),
            blocks,
            num_distributions,
            num_classes,
            _token_checksums(missing_batch),
        )

    def _missing_on_any_rank(self, missing: bool, device: torch.device) -> bool:
        """Whether the teacher has to run: for this device's rows, or where it is divided for those of any."""
        if not self.teacher.is_sharded:
            return missing
        flag = torch.tensor(int(missing), device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def _check_logits(self, logits: NDArray[np.float32], row: int) -> None:
        finite = np.isfinite(logits)  # a network may give -inf to what does not count
        if np.isnan(logits).any() or (self.codec.top_k is not None and not finite.all()):
            raise FloatingPointError(
                f"teacher: returns NaN or infinity for {self.split} row {row}; use another precision, or mend the row"
            )
        if self.codec.dtype == "float16" and (np.abs(logits[finite]) > np.finfo(np.float16).max).any():
            raise FloatingPointError(
                f"teacher_cache.dtype: a logit of {self.split} row {row} is too large for float16; use float32"
            )

    def __call__(self, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """What the teacher returned, or returns, for a batch of the split."""
        logits = batch.get(TEACHER_LOGITS)
        if logits is None:
            logits = self.get(batch)
        if self._missing_on_any_rank(logits is None, batch["row_id"].device):
            self.fill(batch)
            logits = self.get(batch)
        if logits is None:
            raise OSError(f"teacher_cache: what was written to {str(self.store.folder)!r} cannot be read; use another")
        device = batch["row_id"].device
        return self.task.from_logits({name: value.to(device) for name, value in logits.items()}, batch)


def _row_ids(batch: Batch) -> NDArray[np.int64]:
    """The rows of a batch that count."""
    rows: NDArray[np.int64] = batch["row_id"].cpu().numpy()
    return rows[rows >= 0]


def _token_checksums(batch: Batch) -> NDArray[np.uint32]:
    """Checksums of the tokens of the rows that count, whatever they were padded to."""
    keep = batch["row_id"].cpu().numpy() >= 0
    sums = np.zeros(int(keep.sum()), "u4")
    for inputs in (batch, *batch.get(TEACHER_INPUTS, [])):
        ids, tokens = (inputs[name].cpu().numpy()[keep] for name in ("input_ids", "attention_mask"))
        sums = np.array([zlib.crc32(i[t > 0].tobytes(), s) for i, t, s in zip(ids, tokens, sums, strict=True)], "u4")
    return sums
