"""Whether a teacher reads the words that were written: tokenizers compared over the whole vocabulary."""

import hashlib
import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn
from transformers import PreTrainedTokenizerBase

from lightning_kd.data.interface import DataModuleInterface
from lightning_kd.losses.base import DistillationLoss
from lightning_kd.models.loading import load_tokenizer
from lightning_kd.models.prompt_config import check_prompt
from lightning_kd.teachers.teacher import Teacher


def _tokenizer_parts(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What decides which ids a text becomes and what an id means."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else {}
    return {
        "vocabulary": sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])),
        "special tokens": sorted(
            (str(role), str(token), tokenizer.convert_tokens_to_ids(str(token)))
            for role, token in tokenizer.special_tokens_map.items()
            if isinstance(token, str)
        ),
        "model": state.get("model", {}).get("type"),
        "normalizer": state.get("normalizer"),
    }


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the whole vocabulary, the special tokens, the normaliser (lower-casing, accents) and the kind of model.

    Truncation and padding settings do not count.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(_tokenizer_parts(tokenizer), sort_keys=True).encode()).hexdigest()


def _describe_difference(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> str:
    teacher_parts, student_parts = _tokenizer_parts(teacher), _tokenizer_parts(student)
    part = next(part for part in teacher_parts if teacher_parts[part] != student_parts[part])
    first, second = teacher_parts[part], student_parts[part]
    if isinstance(first, dict) and isinstance(second, dict):
        key = next(key for key in {**first, **second} if first.get(key) != second.get(key))
        return f"{part}: {key} {first.get(key)!r:.80} against {second.get(key)!r:.80}"
    if not isinstance(first, list):
        return f"{part} {first!r:.80} against {second!r:.80}"
    teacher_entry, student_entry = next((t, o) for t, o in zip_longest(first, second) if t != o)
    if part != "vocabulary":
        return f"{part}: {teacher_entry} against {student_entry}"
    names = [repr(entry[0]) if entry else "nothing" for entry in (teacher_entry, student_entry)]
    entries = f"{len(first)} against {len(second)} entries"
    return f"{entries}, first difference: {names[0]} against {names[1]} at id {(teacher_entry or student_entry)[1]}"


def check_tokenizers(
    teacher: Teacher,
    tokenizer: PreTrainedTokenizerBase,
    ignore_mismatch: bool,
    teacher_tokenizers: Sequence[PreTrainedTokenizerBase] = (),
    supports_teacher_tokenizer: bool = False,
) -> None:
    """Refuse a teacher whose tokenizer would have made other ids of the texts than those it is to read.

    Args:
        teacher: Its networks.
        tokenizer: The student's.
        ignore_mismatch: Let it pass.
        teacher_tokenizers: Tokenizers of what the teacher reads, one for each network or one for all; empty = the
            student's.
        supports_teacher_tokenizer: Whether the data could encode the texts for the teacher, too.

    Raises:
        ValueError: If the fingerprints differ and ``ignore_mismatch`` is False.
    """
    for index, model in enumerate(teacher.models):
        if not isinstance(model.source, str):
            continue  # a module comes without a tokenizer: nothing to compare
        try:
            expected = load_tokenizer(model.source, "teacher tokenizer", model.options)
        except OSError as error:
            rank_zero_warn(f"tokenizers not compared: {error}")
            continue
        actual = teacher_tokenizers[min(index, len(teacher_tokenizers) - 1)] if teacher_tokenizers else tokenizer
        if ignore_mismatch or tokenizer_fingerprint(expected) == tokenizer_fingerprint(actual):
            continue
        reader = "data.teacher_tokenizer" if teacher_tokenizers else "student"
        names: Any = teacher.names if len(teacher.models) > 1 else model.name
        remedy = (
            f"let it read the texts in its own encoding with data.teacher_tokenizer={names!r}, "
            * supports_teacher_tokenizer
        )
        raise ValueError(
            f"teacher {model.name!r} and {reader} {actual.name_or_path!r} have different tokenizers "
            f"({_describe_difference(expected, actual)}), so the teacher would read other words than were "
            f"written; {remedy}choose a student with the teacher's vocabulary, or accept it with "
            "--model.ignore_checks+=tokenizer_mismatch (ignore_checks=['tokenizer_mismatch'])"
        )


def check_separate_tokenization(
    tokenizers: Sequence[PreTrainedTokenizerBase], losses: nn.ModuleDict, teacher: Teacher
) -> None:
    """Refuse what does not go with a teacher that reads the rows in an encoding of its own.

    Raises:
        ValueError: If a loss compares layers, or there are neither one tokenizer nor one for each network.
    """
    if len(tokenizers) not in (1, len(teacher.models)):
        raise ValueError(
            f"data.teacher_tokenizer: names {len(tokenizers)} tokenizers for {len(teacher.models)} networks; name one "
            "for each, or one for all"
        )
    for name, loss in losses.items():
        assert isinstance(loss, DistillationLoss)
        if loss.requires:
            raise ValueError(
                f"losses.{name}: compares {' and '.join(sorted(loss.requires))} token by token, and the teacher reads "
                "other tokens (data.teacher_tokenizer, data.teacher_prompt); use losses on logits"
            )


def check_teacher_inputs(
    teacher: Teacher, datamodule: DataModuleInterface, losses: nn.ModuleDict, ignore_mismatch: bool
) -> None:
    """Check that each network of a teacher reads what it was trained to read.

    Args:
        teacher: Its networks.
        datamodule: Makes the batches.
        losses: All of them.
        ignore_mismatch: Let other tokenizers pass.

    Raises:
        ValueError: See ``check_tokenizers`` and ``check_separate_tokenization``.
    """
    teacher_tokenizers = datamodule.teacher_tokenizers
    if teacher_tokenizers:
        check_separate_tokenization(teacher_tokenizers, losses, teacher)
    tokenizer = datamodule.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    check_tokenizers(
        teacher,
        tokenizer,
        ignore_mismatch,
        teacher_tokenizers,
        datamodule.supports_teacher_tokenizer,
    )
    argument, prompt = (
        ("teacher_prompt", datamodule.teacher_prompt) if teacher_tokenizers else ("prompt", datamodule.prompt)
    )
    for model in teacher.models:
        check_prompt(model.config(), prompt, f"teacher {model.name!r}", argument)
