"""A teacher that runs once per example: its logits are stored on disk and looked up by ``row_id``."""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_kd.outputs import TEACHER_INPUTS, TEACHER_LOGITS, Batch, Outputs, Requirement, select_examples
from lightning_kd.tasks.base import Task
from lightning_kd.teachers.cache_store import RowStore
from lightning_kd.teachers.fingerprint import fingerprint
from lightning_kd.teachers.logit_codec import LogitCodec
from lightning_kd.teachers.teacher import Teacher

TOKEN_INPUTS = ("input_ids", "token_type_ids", "position_ids")
"""Inputs of a model with one value per token."""


@dataclass(eq=False)
class CachedTeacher:
    """A teacher for one split that stores the logits of each example it has run on; called like ``Teacher``.

    New logits are read back as stored (rounded), so a run that fills the cache equals a run that reads it.

    Attributes:
        teacher: The teacher; loaded when an example is missing.
        task: The task.
        store: Stores the encoded logits of the split.
        codec: Encodes the logits.
        split: Name of the split, for messages.
        num_classes: Number of classes (labels or tokens); unused if the task predicts positions.
        unchecked_fingerprints: Fingerprint of each model of the teacher; compared and emptied once they are loaded.
    """

    teacher: Teacher
    task: Task
    store: RowStore
    codec: LogitCodec
    split: str
    num_classes: int
    unchecked_fingerprints: list[str]

    def __deepcopy__(self, memo: dict[int, Any]) -> "CachedTeacher":
        return self

    @torch.no_grad()
    def __call__(self, batch: Batch, requires: frozenset[Requirement] = frozenset()) -> Outputs:
        """Return the teacher's outputs for a batch of the split, and store the missing ones."""
        device = batch["row_id"].device
        logits = batch[TEACHER_LOGITS] if TEACHER_LOGITS in batch else self.get(batch)
        if self._missing_on_any_rank(logits is None, device):
            self.fill(batch)
            logits = self.get(batch)
        if logits is None:
            raise OSError(f"teacher_cache: cannot read back logits from {str(self.store.folder)!r}; use another folder")
        return self.task.from_logits({name: value.to(device) for name, value in logits.items()}, batch)

    def get(self, batch: Batch) -> dict[str, Tensor] | None:
        """Look up the logits of a batch.

        Returns:
            Float32 logits (N, C) of each head on the CPU; None if an example is missing.

        Raises:
            ValueError: If an example has changed since its logits were stored.
        """
        rows = _row_ids(batch)
        if not self.store.contains(rows).all():
            self.store.refresh()  # another process may have written them
            if not self.store.contains(rows).all():
                return None
        names = self.task.heads
        num_positions = batch["input_ids"].shape[1]
        if not len(rows):
            width = num_positions if self.task.predicts_positions else self.num_classes
            return {name: torch.zeros(0, width) for name in names}
        if len(changed := rows[self.store.tags(rows) != _input_checksums(batch)]):
            raise ValueError(
                f"teacher_cache: {self.split} example {changed[0]} differs from the one cached, so examples change "
                "between epochs or runs; remove teacher_cache, or, if only the code of the DataModule has changed, "
                f"delete {str(self.store.folder)!r}"
            )
        parts: list[NDArray[np.float32]] = []
        for blocks, num_distributions, num_classes in self.store.read(rows):
            logits = self.codec.decode(blocks, len(names), num_distributions, num_classes)
            parts.append(logits.transpose(1, 0, 2, 3).reshape(len(names), -1, num_classes))
        if self.task.predicts_positions:
            parts = [np.pad(part, ((0, 0), (0, 0), (0, num_positions - part.shape[-1]))) for part in parts]
        stacked = torch.from_numpy(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))
        return dict(zip(names, stacked, strict=True))

    @torch.no_grad()
    def fill(self, batch: Batch) -> None:
        """Run the teacher on the examples of a batch that are not stored yet, and store its logits.

        Raises:
            FloatingPointError: If the logits are NaN or cannot be stored.
            ValueError: If the teacher has changed since the cache was opened.
        """
        rows = _row_ids(batch)
        missing = rows[~self.store.contains(rows)]
        indices = np.flatnonzero(np.isin(batch["row_id"].cpu(), missing)).tolist()
        if indices:
            missing_batch = select_examples(batch, indices)
            outputs = self.teacher(missing_batch)
            self._check_teacher_unchanged()
            self._write(missing_batch, outputs)
        elif self.teacher.is_sharded:  # the other devices need this device's shard of the weights
            inputs = {name: value for name, value in batch.items() if name != TEACHER_LOGITS}
            self.teacher(select_examples(inputs, [0]))

    def _check_teacher_unchanged(self) -> None:
        """Compare the fingerprints once the models are loaded, possibly hours after the cache was opened."""
        for expected, model in zip(self.unchecked_fingerprints, self.teacher.models, strict=False):
            if isinstance(model.source, str) and expected != fingerprint(model.source, model.pinned_options):
                raise ValueError(f"teacher: {model.name!r} was changed during the run; start again")
        self.unchecked_fingerprints = []

    def _write(self, batch: Batch, outputs: Outputs) -> None:
        logits = torch.stack([outputs.heads[name].logits.float() for name in self.task.heads]).cpu().numpy()
        rows = _row_ids(batch)
        num_distributions = self.task.num_distributions(batch).tolist()
        num_classes = [logits.shape[-1]] * len(rows)
        if self.task.predicts_positions:
            num_classes = batch["attention_mask"].sum(dim=1).tolist()
        stops = np.cumsum(num_distributions)
        blocks = []
        for row, stop, count, width in zip(rows.tolist(), stops, num_distributions, num_classes, strict=True):
            row_logits = logits[:, stop - count : stop, :width]
            self._check_logits(row_logits, row)
            blocks.append(self.codec.encode(row_logits))
        self.store.write(rows, blocks, num_distributions, num_classes, _input_checksums(batch))

    def _check_logits(self, logits: NDArray[np.float32], row: int) -> None:
        finite = np.isfinite(logits)  # -inf is allowed for masked classes
        if np.isnan(logits).any() or (self.codec.top_k is not None and not finite.all()):
            raise FloatingPointError(
                f"teacher: NaN or infinite logits for {self.split} example {row}; use another precision, or fix the "
                "example"
            )
        if self.codec.dtype == "float16" and (np.abs(logits[finite]) > np.finfo(np.float16).max).any():
            raise FloatingPointError(
                f"teacher_cache.dtype: a logit of {self.split} example {row} overflows float16; use float32"
            )

    def _missing_on_any_rank(self, missing: bool, device: torch.device) -> bool:
        """Return True if the teacher must run: for this rank's examples or, if it is sharded, those of any rank."""
        if not self.teacher.is_sharded:
            return missing
        flag = torch.tensor(int(missing), device=device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag)


def _row_ids(batch: Batch) -> NDArray[np.int64]:
    """Return the row ids of a batch without padding rows."""
    rows: NDArray[np.int64] = batch["row_id"].cpu().numpy()
    return rows[rows >= 0]


def _input_checksums(batch: Batch) -> NDArray[np.uint32]:
    """Return a checksum of the teacher's token inputs for each example, (N,), independent of padding."""
    keep = batch["row_id"].cpu().numpy() >= 0
    sums = np.zeros(int(keep.sum()), "u4")
    for inputs in (batch, *batch.get(TEACHER_INPUTS, [])):
        tokens = inputs["attention_mask"].cpu().numpy()[keep] > 0
        for values in (inputs[name].cpu().numpy()[keep] for name in TOKEN_INPUTS if name in inputs):
            sums = np.array([zlib.crc32(v[t].tobytes(), s) for v, t, s in zip(values, tokens, sums, strict=True)], "u4")
    return sums
