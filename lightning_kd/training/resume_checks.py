"""Compare a run with the checkpoint that it resumes from."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_kd.data.interface import DataModuleInterface
from lightning_kd.io.serialization import UNSERIALIZABLE_KEY, class_from_config
from lightning_kd.models import is_saved_config
from lightning_kd.training.loss_schedules import Schedule

IgnorableChange = Literal["changed_teacher", "changed_data", "changed_batches"]
IGNORABLE_CHANGES: tuple[str, ...] = get_args(IgnorableChange)
"""Changes since the checkpoint that ``ignore_checks`` accepts, for one call."""

Changes = dict[str, tuple[Any, Any]]
"""Value in the checkpoint and value of this call, by config key."""

NEW_RUN = "resume without this change, or start a new run with --model.student=<run folder>/student"

OTHER_FIELDS = frozenset(
    {"id2label", "label2id", "num_labels", "architectures", "_name_or_path", "transformers_version", "dtype"}
    | {"torch_dtype", "attn_implementation", "text_prompt"}
)
"""Fields of a transformers configuration that are not part of the architecture."""

LR_KEYS = ("optimizer.", "lr_scheduler", "warmup_ratio", "trainer.max_", "trainer.accumulate_grad_batches")
"""Prefixes of the settings that determine the learning rate and the other numbers of the optimizer."""

ABSENT = "none"


def trainer_settings(trainer: Trainer) -> dict[str, Any]:
    """Return the settings of a trainer that change the weights, as plain data."""
    names = (
        "max_epochs", "max_steps", "gradient_clip_val", "gradient_clip_algorithm", "precision",
        "accumulate_grad_batches",
    )  # fmt: skip
    values = {name: getattr(trainer, name) for name in names}
    return {name: getattr(value, "value", value) for name, value in values.items()}  # an algorithm is an enum


def _flatten(key: str, value: Any) -> dict[str, Any]:
    """Flatten a config to dotted keys; a class path is the value of the key of its class."""
    if not isinstance(value, Mapping):
        return {key: value}
    if UNSERIALIZABLE_KEY in value:
        return {key: f"a {value[UNSERIALIZABLE_KEY]} object"}
    if "class_path" in value:
        return {key: value["class_path"], **{f"{key}.{n}": v for n, v in (value.get("init_args") or {}).items()}}
    return {k: v for name, part in value.items() for k, v in _flatten(f"{key}.{name}", part).items()}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value  # YAML has no tuples


def _settings(hparams: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    configs = {name: hparams.get(name) for name in ("task", "optimizer", "lr_scheduler", "warmup_ratio", "losses")}
    configs["loss_schedules"] = {
        loss: {argument: str(Schedule(**schedule)) for argument, schedule in schedules.items()}
        for loss, schedules in (hparams.get("loss_schedules") or {}).items()
    }
    configs |= {"trainer": run.get("trainer", {}), "data": run.get("data", {}).get("settings", {})}
    return {key: _plain(value) for name, config in configs.items() for key, value in _flatten(name, config).items()}


def compare_settings(
    saved: Mapping[str, Any], current: Mapping[str, Any], saved_run: Mapping[str, Any], run: Mapping[str, Any]
) -> Changes:
    """Return the settings that differ.

    Args:
        saved: Hyperparameters in the checkpoint.
        current: Hyperparameters of this call.
        saved_run: Further settings in the checkpoint: ``trainer``, ``data``.
        run: The same for this call.
    """
    if not saved:  # not written by this library
        return {}
    old, new = _settings(saved, saved_run), _settings(current, run)
    if old.get("optimizer") == new.get("optimizer") and "class_path" in current["optimizer"]:
        optimizer = class_from_config(current["optimizer"], Optimizer, "optimizer").func
        parameters = inspect.signature(optimizer).parameters.items()
        defaults = {f"optimizer.{name}": _plain(p.default) for name, p in parameters if p.default is not p.empty}
        old, new = defaults | old, defaults | new
    for part in ("trainer", "data"):  # written by an earlier version, or another DataModule
        if not saved_run.get(part):
            new = {key: value for key, value in new.items() if not key.startswith(f"{part}.")}
    changes = {k: (old.get(k, ABSENT), new.get(k, ABSENT)) for k in {**new, **old} if old.get(k) != new.get(k)}
    # an added or removed class is one change, not one for each argument; an argument that another version of a class
    # does not have is none
    parents = {key: key.rpartition(".")[0] for key in changes}
    return {
        key: pair
        for key, pair in changes.items()
        if parents[key] not in changes and not (parents[key] in old and parents[key] in new and ABSENT in pair)
    }


def _refuse(key: str, old: Any, new: Any, remedy: str = NEW_RUN) -> NoReturn:
    raise ValueError(f"{key}: {old} in the checkpoint, {new} in this call; {remedy}")


def _accept(change: IgnorableChange) -> str:
    return f"--model.ignore_checks+={change} (ignore_checks=['{change}'])"


def check_settings(changes: Changes, parameterized_losses: Collection[str]) -> None:
    """Check that the changed settings can be applied within a run.

    Args:
        changes: The changed settings.
        parameterized_losses: Names of the losses with parameters, now or in the checkpoint.

    Raises:
        ValueError: If the task, the class of the optimizer, or a loss with parameters differs.
    """
    for key, pair in changes.items():
        name, loss = key.partition(".")[0], ".".join(key.split(".")[1:2])
        is_parameterized = name == "losses" and loss in parameterized_losses and not key.endswith(".weight")
        if name == "task" or key == "optimizer" or is_parameterized:
            _refuse(key, *pair)


def check_student(saved: Any, config: Mapping[str, Any] | None) -> None:
    """Check that a student has the checkpoint's architecture.

    Args:
        saved: The student in the checkpoint's hyperparameters.
        config: Fields of the transformers configuration of this call's student; None if unknown.

    Raises:
        ValueError: If a field differs.
    """
    if config is None or not is_saved_config(saved):
        return
    for field, old in saved["config"].items():
        if field in config and field not in OTHER_FIELDS and _plain(config[field]) != _plain(old):
            _refuse(f"student.{field}", old, config[field])


def check_teacher(saved: list[str] | None, current: list[str] | None, ignored: Collection[str]) -> None:
    """Check that the teacher has the checkpoint's weights, wherever they lie.

    Args:
        saved: Fingerprints in the checkpoint; None without a teacher.
        current: Fingerprints of this call's teacher.
        ignored: The accepted changes.

    Raises:
        ValueError: If they differ.
    """
    if saved != current and "changed_teacher" not in ignored:
        old, new = (" + ".join(part[:12] for part in parts) if parts else ABSENT for parts in (saved, current))
        _refuse(
            "teacher",
            f"weights and configuration {old}",
            new,
            f"use the same, or accept it: {_accept('changed_teacher')}",
        )


def check_data(
    saved: Mapping[str, Any],
    datamodule: DataModuleInterface,
    current: Mapping[str, Any],
    changes: Changes,
    ignored: Collection[str],
) -> bool:
    """Check that the training data have the checkpoint's content, wherever they lie.

    Args:
        saved: ``DataModuleInterface.describe_train_data`` in the checkpoint.
        datamodule: The data of this call.
        current: The same for this call.
        changes: The changed settings; the first one of the data is named as the cause.
        ignored: The accepted changes.

    Returns:
        True if they have.

    Raises:
        ValueError: If they have not, and the change is not accepted.
    """
    if saved.get("fingerprint") == current.get("fingerprint"):
        return True
    counts = [data.get("num_examples") for data in (saved, current)]
    common = datamodule.num_common_examples(str(saved.get("cached_as")))
    if common is not None and counts == [common, common]:
        return True
    if "changed_data" in ignored:
        return False
    remedy = f"use the same data, or accept the change: {_accept('changed_data')}"
    for key, pair in changes.items():
        if key.startswith("data."):
            _refuse(key, *pair, remedy)
    if saved.get("tokenizers") != current.get("tokenizers"):
        _refuse("data.tokenizer", saved.get("tokenizers"), current.get("tokenizers"), remedy)
    old, new = ("a stream" if count is None else f"{count:,} training examples" for count in counts)
    first = "" if common is None else f"the first that differs is number {common + 1:,}; "
    _refuse("data.path", old, f"{new} with other content", first + remedy)


def check_batches(saved: int, current: int, ignored: Collection[str]) -> None:
    """Check that a run that stopped within an epoch has the checkpoint's global batch.

    Args:
        saved: Examples per batch over all devices, in the checkpoint.
        current: The same for this call.
        ignored: The accepted changes.

    Raises:
        ValueError: If it has not, and the change is not accepted.
    """
    if saved != current and "changed_batches" not in ignored:
        _refuse(
            "data.batch_size",
            f"{saved} examples over all devices",
            current,
            f"keep batch_size x devices until the end of the epoch, or begin it again: {_accept('changed_batches')}",
        )


def restart_epoch(checkpoint: dict[str, Any], data_key: str) -> None:
    """Change a checkpoint so that its epoch begins again.

    Args:
        checkpoint: The checkpoint.
        data_key: Key of the DataModule's state.
    """
    position = checkpoint[data_key]["position"]
    rank_zero_info(f"Epoch {position['epoch']} begins again with other data or batches")
    position["batches"] = 0
    loop = checkpoint["loops"]["fit_loop"]
    progress = loop["epoch_loop.batch_progress"]
    # Lightning (2.6) counts a batch as completed when it resumes from a checkpoint written at its end
    uncounted = progress["total"]["processed"] - progress["total"]["completed"]
    progress["current"] = {**dict.fromkeys(progress["current"], 0), "completed": -uncounted}
    loop["state_dict"]["combined_loader"] = [position]


def apply_optimizer_settings(
    optimizers: Sequence[Optimizer], groups: list[dict[str, Any]], schedules: Sequence[Any], step: int
) -> None:
    """Replace the numbers that a checkpoint has restored with those of this call.

    Warn if that is not possible, because a subclass or a callback configures the optimizer.

    Args:
        optimizers: The optimizers of the run.
        groups: The settings of the parameter groups before they were restored, without a schedule.
        schedules: The learning rate schedules; none = constant.
        step: Optimizer steps taken.
    """
    schedule = schedules[0] if schedules else None
    is_ours = len(optimizers) == 1 and len(optimizers[0].param_groups) == len(groups)
    if not is_ours or not isinstance(schedule, LambdaLR | None):
        rank_zero_warn("optimizer: configured outside of DistillationModule, so its numbers are the checkpoint's")
        return
    for group, settings in zip(optimizers[0].param_groups, groups, strict=True):
        group |= settings
    if schedule is None:
        return
    schedule.base_lrs = [settings["lr"] for settings in groups]
    schedule.last_epoch = step
    for group, base_lr, factor in zip(optimizers[0].param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
        group["initial_lr"], group["lr"] = base_lr, base_lr * factor(step)
    schedule._last_lr = [group["lr"] for group in optimizers[0].param_groups]
