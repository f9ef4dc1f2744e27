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

from lightning_kd.io.atomic import replaced_file
from lightning_kd.io.serialization import class_path
from lightning_kd.outputs import TEACHER_INPUTS, Batch, Need, Outputs, rows_of
from lightning_kd.teachers.fingerprint import fingerprint
from lightning_kd.teachers.logit_codec import Packing, StoredType
from lightning_kd.teachers.store import RowStore, locked
from lightning_kd.teachers.teacher import Teacher

FORMAT = 1
"""Changes with the meaning of the files."""

LOGITS = "teacher_logits"
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
    dtype: StoredType = "float32"
    top_k: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", os.fspath(self.folder))
        if self.dtype not in ("float32", "float16"):
            raise ValueError(f"teacher_cache.dtype: must be float32 or float16, got {self.dtype!r}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"teacher_cache.top_k: must be >= 1 or null, got {self.top_k}")

    def open(
        self, teacher: Teacher, datamodule: Any, splits: Sequence[str], label_names: list[str], precision: str
    ) -> "dict[str, CachedTeacher]":
        """The teacher for each of the splits that are loaded, its known rows at hand.

        Args:
            teacher: Its logits aligned with ``label_names``.
            datamodule: A DataModule with ``row_key`` and ``row_lengths``, as ``TextDataModule``.
            splits: Such as ``train``.
            label_names: The student's, which order the logits.
            precision: In which the teacher computes.

        Raises:
            ValueError: If the rows cannot be told apart, are drawn anew in each epoch, or a folder is damaged.
            OSError: If the folder cannot be made.
        """
        task = teacher.task
        if not hasattr(datamodule, "row_key"):
            data = "a data loader" if datamodule is None else type(datamodule).__name__
            raise ValueError(
                f"teacher_cache: {data} does not say when its rows change; give a DataModule derived from "
                "TextDataModule, or do without teacher_cache"
            )
        if self.top_k is not None and task.classes_are_positions:
            raise ValueError(f"teacher_cache.top_k: {type(task).__name__} has few classes, positions; set it to null")
        prints = [fingerprint(member.source, member.options) for member in teacher.members]
        opened = {}
        for split in splits:
            key = {
                "format": FORMAT,
                "teacher": prints,
                "combine": teacher.combine,
                "task": class_path(type(task)) or type(task).__qualname__,
                "labels": label_names,
                "split": split,
                "rows": datamodule.row_key(split),
                "precision": precision,
                **{name: value for name, value in asdict(self).items() if name != "folder"},
            }
            folder = Path(self.folder).expanduser() / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
            lengths = np.asarray(datamodule.row_lengths(split), dtype=np.float64)
            shares = lengths if task.size_follows_length else np.ones(len(lengths))
            store = RowStore(folder, shares)
            if not (folder / "about.json").exists():
                about = {"of": teacher.names, "number_of_rows": len(shares), **key}
                with locked(folder), replaced_file(folder / "about.json") as file:
                    file.write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
            rank_zero_info(f"Teacher cache {folder}: {len(store):,} of {len(shares):,} {split} rows are known")
            classes = len(label_names) or getattr(teacher.members[0].config(), "vocab_size", 0)
            opened[split] = CachedTeacher(teacher, prints, store, Packing(self.dtype, self.top_k), split, classes)
        return opened


class CachedTeacher:
    """A teacher that is asked for each row of a split once; called as ``Teacher`` is.

    Also where a row is new, what is returned is what was stored: a run that fills the cache and one that finds it
    filled see the same.

    Args:
        teacher: Loaded when the first row is not known.
        prints: The fingerprints of its networks.
        store: The rows of the split.
        packing: How logits are kept.
        split: Its name, for messages.
        classes: Number of labels, or of tokens; of no use where the classes are positions.
    """

    def __init__(
        self, teacher: Teacher, prints: list[str], store: RowStore, packing: Packing, split: str, classes: int
    ) -> None:
        self.teacher = teacher
        self.task = teacher.task
        self.store = store
        self.packing = packing
        self.split = split
        self._prints: list[str] | None = prints  # until they were compared
        self._classes = classes

    def __deepcopy__(self, memo: dict[int, Any]) -> "CachedTeacher":
        return self

    def look_up(self, batch: Batch) -> dict[str, Tensor] | None:
        """The logits of a batch on the CPU, (N, C) float32 for each head; None if the teacher has yet to see a row.

        Raises:
            ValueError: If a row is not what the teacher saw.
        """
        rows = _row_ids(batch)
        if not self.store.known(rows).all():
            self.store.refresh()  # another process may have been faster
            if not self.store.known(rows).all():
                return None
        return self._read(rows, batch)

    def _read(self, rows: NDArray[np.int64], batch: Batch) -> dict[str, Tensor]:
        names = self.task.heads
        if not len(rows):
            width = batch["input_ids"].shape[1] if self.task.classes_are_positions else self._classes
            return {name: torch.zeros(0, width) for name in names}
        if len(other := rows[self.store.origins(rows) != _origins(batch)]):
            raise ValueError(
                f"teacher_cache: row {other[0]} of the {self.split} split is not what the teacher saw, so it changes "
                "from epoch to epoch or from run to run; do without teacher_cache, or delete "
                f"{str(self.store.folder)!r} if only the code of the DataModule was changed"
            )
        parts: list[NDArray[np.float32]] = []
        for blocks, count, classes in self.store.read(rows):
            logits = self.packing.unpack(blocks, len(names), count, classes)
            parts.append(logits.transpose(1, 0, 2, 3).reshape(len(names), -1, classes))
        if self.task.classes_are_positions:
            width = batch["input_ids"].shape[1]
            parts = [np.pad(part, ((0, 0), (0, 0), (0, width - part.shape[-1]))) for part in parts]
        together = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))
        return dict(zip(names, together, strict=True))

    @torch.no_grad()
    def learn(self, batch: Batch) -> None:
        """Let the teacher see those rows of a batch that are not known, and keep its logits.

        Raises:
            FloatingPointError: If the teacher returns NaN, or what cannot be kept.
            ValueError: If the teacher was changed since the cache was opened.
        """
        rows = _row_ids(batch)
        wanted = set(rows[~self.store.known(rows)].tolist())
        every = batch["row_id"].tolist()
        places = [place for place, row in enumerate(every) if row in wanted]
        if not places:
            if self.teacher.divided:  # the other devices need this one's part of the weights
                self.teacher(rows_of({name: value for name, value in batch.items() if name != LOGITS}, [0]))
            return
        part = rows_of(batch, places)
        outputs = self.teacher(part)
        if self._prints is not None:  # its networks were loaded just now, maybe hours after they were looked at
            if any(
                print_ != fingerprint(member.source, member.options)
                for print_, member in zip(self._prints, self.teacher.members, strict=True)
                if isinstance(member.source, str)  # a module is at hand from the beginning
            ):
                raise ValueError(f"teacher: {' + '.join(self.teacher.names)} was changed during the run; start again")
            self._prints = None
        logits = torch.stack([outputs.heads[name].logits.float() for name in self.task.heads]).cpu().numpy()
        counts = self.task.distributions_per_row(part)
        sizes = [1] * len(places) if counts is None else counts.tolist()
        classes = [logits.shape[-1]] * len(places)
        if self.task.classes_are_positions:
            classes = part["attention_mask"].sum(dim=1).tolist()
        stops = np.cumsum(sizes)
        blocks = []
        for place, stop, size, width in zip(places, stops, sizes, classes, strict=True):
            own = logits[:, stop - size : stop, :width]
            self._check(own, every[place])
            blocks.append(self.packing.pack(own))
        self.store.write(np.array([every[place] for place in places]), blocks, sizes, classes, _origins(part))

    def _unknown_anywhere(self, unknown: bool, device: torch.device) -> bool:
        """Whether the teacher has to run: for this device's rows, or where it is divided for those of any."""
        if not self.teacher.divided:
            return unknown
        flag = torch.tensor(int(unknown), device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)

    def _check(self, logits: NDArray[np.float32], row: int) -> None:
        finite = np.isfinite(logits)  # a network may give -inf to what does not count
        if np.isnan(logits).any() or (self.packing.top_k is not None and not finite.all()):
            raise FloatingPointError(
                f"teacher: returns NaN or infinity for {self.split} row {row}; use another precision, or mend the row"
            )
        if self.packing.dtype == "float16" and (np.abs(logits[finite]) > np.finfo(np.float16).max).any():
            raise FloatingPointError(
                f"teacher_cache.dtype: a logit of {self.split} row {row} is too large for float16; use float32"
            )

    def __call__(self, batch: Batch, needs: frozenset[Need] = frozenset()) -> Outputs:
        """What the teacher returned, or returns, for a batch of the split."""
        logits = batch.get(LOGITS)
        if logits is None:
            logits = self.look_up(batch)
        if self._unknown_anywhere(logits is None, batch["row_id"].device):
            self.learn(batch)
            logits = self.look_up(batch)
        if logits is None:
            raise OSError(f"teacher_cache: what was written to {str(self.store.folder)!r} cannot be read; use another")
        device = batch["row_id"].device
        return self.task.from_logits({name: value.to(device) for name, value in logits.items()}, batch)


def _row_ids(batch: Batch) -> NDArray[np.int64]:
    """The rows of a batch that count."""
    rows: NDArray[np.int64] = batch["row_id"].cpu().numpy()
    return rows[rows >= 0]


def _origins(batch: Batch) -> NDArray[np.uint32]:
    """Checksums of the tokens of the rows that count, whatever they were padded to."""
    keep = batch["row_id"].cpu().numpy() >= 0
    sums = np.zeros(int(keep.sum()), "u4")
    for own in (batch, *batch.get(TEACHER_INPUTS, [])):
        ids, tokens = (own[name].cpu().numpy()[keep] for name in ("input_ids", "attention_mask"))
        sums = np.array([zlib.crc32(i[t > 0].tobytes(), s) for i, t, s in zip(ids, tokens, sums, strict=True)], "u4")
    return sums
