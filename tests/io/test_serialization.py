"""Objects as class path and arguments, and back."""

import importlib
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

import lightning_kd
from lightning_kd import SequenceClassification, losses
from lightning_kd.io.serialization import (
    check_restorable,
    class_from_config,
    class_path,
    from_config,
    to_config,
    unserializable_marker,
)
from lightning_kd.losses import DistillationLoss, HardLabelLoss, LogitMSELoss, SoftTargetLoss
from lightning_kd.tasks import Task


def save_and_load(value, file):
    torch.save(value, file)
    return torch.load(file, weights_only=True)


class RenamesArgument:
    """Stores its argument in an attribute of another name."""

    def __init__(self, mapping):
        self.something_else = mapping


@pytest.mark.parametrize(
    "loss",
    [
        HardLabelLoss(0.0552, label_smoothing=0.1),
        LogitMSELoss(weight=2),
        SoftTargetLoss(0.9448, temperature=19, beta=0.5),
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_losses_round_trip(loss, tmp_path):
    config = save_and_load(to_config(loss), tmp_path / "config.pt")
    copy = from_config(config, DistillationLoss, "losses.some")
    assert type(copy) is type(loss)
    assert {name: getattr(copy, name) for name in config["init_args"]} == config["init_args"]
    assert "weight" in config["init_args"]
    assert to_config(copy) == config


class Outer:
    class Inner(HardLabelLoss):
        pass


@pytest.mark.parametrize(
    ("cls", "path"),
    [
        (SoftTargetLoss, "lightning_kd.losses.SoftTargetLoss"),
        (SequenceClassification, "lightning_kd.SequenceClassification"),
        (Task, "lightning_kd.tasks.Task"),
        (AdamW, "torch.optim.AdamW"),
        (Outer.Inner, f"{__name__}.Outer.Inner"),
        (dict, "builtins.dict"),
    ],
)
def test_classes_have_the_shortest_path(cls, path):
    assert class_path(cls) == path


def test_public_classes_have_public_paths():
    exported = [getattr(package, name) for package in (lightning_kd, losses) for name in package.__all__]
    for cls in filter(lambda value: isinstance(value, type), exported):
        package, _, name = class_path(cls).rpartition(".")
        assert package in ("lightning_kd", "lightning_kd.losses")
        assert name in sys.modules[package].__all__


def test_package_with_another_class_of_that_name(monkeypatch):
    monkeypatch.setattr(losses, "SoftTargetLoss", LogitMSELoss)
    assert class_path(SoftTargetLoss) == "lightning_kd.losses.soft_target.SoftTargetLoss"
    monkeypatch.setattr(sys.modules["lightning_kd.losses.soft_target"], "SoftTargetLoss", LogitMSELoss)
    assert to_config(SoftTargetLoss()) == {"unserializable": "SoftTargetLoss"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a lazily exported class, a broken module and an unused module."""
    folder = tmp_path / "lazy_package"
    folder.mkdir()
    export = 'if name == "UserLoss":\n        from lazy_package.losses import UserLoss\n        return UserLoss\n'
    files = {
        "__init__": f"def __getattr__(name):\n    {export}    raise AttributeError(name)\n",
        "losses": "from lightning_kd.losses import HardLabelLoss\nclass UserLoss(HardLabelLoss): pass\n",
        "broken": "import what_is_not_installed\n",
        "heavy": "",
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("lazy_package")]:
        del sys.modules[name]


def test_lazy_export_is_found_without_other_imports(package):
    loss_class = importlib.import_module("lazy_package.losses").UserLoss
    config = to_config(loss_class(0.5))
    assert config["class_path"] == "lazy_package.UserLoss"
    assert type(from_config(config, DistillationLoss, "losses.some")) is loss_class
    assert "lazy_package.heavy" not in sys.modules


def test_module_with_a_missing_dependency(package):
    with pytest.raises(ValueError, match=r"'lazy_package\.broken\.Loss' .*'what_is_not_installed'"):
        from_config({"class_path": "lazy_package.broken.Loss"}, DistillationLoss, "losses.soft")


def test_nested_class_round_trips(tmp_path):
    config = save_and_load(to_config(Outer.Inner(0.25)), tmp_path / "config.pt")
    copy = from_config(config, DistillationLoss, "losses.some")
    assert (type(copy), copy.weight) == (Outer.Inner, 0.25)


@pytest.mark.parametrize("main", ["__main__", "__mp_main__"])
def test_class_of_a_script_is_unserializable(main, monkeypatch):
    monkeypatch.setattr(Outer, "__module__", main)
    monkeypatch.setitem(sys.modules, main, sys.modules[__name__])  # where it would be found
    assert to_config(Outer()) == {"unserializable": "Outer"}


def test_constructor_arguments():
    config = to_config(SoftTargetLoss(temperature=2.0))
    assert config["init_args"] == {
        "weight": 1.0,
        "temperature": 2.0,
        "beta": 0.0,
        "standardize": False,
        "top_k": None,
    }


def test_tasks_round_trip(tmp_path):
    config = save_and_load(to_config(SequenceClassification("none of these")), tmp_path / "config.pt")
    assert from_config(config, Task, "task").oos_label == "none of these"


@pytest.mark.parametrize("factory", [partial(AdamW, lr=3e-4, betas=(0.8, 0.9)), partial(SGD, lr=0.1)])
def test_optimizer_partial_round_trips(factory, tmp_path):
    config = save_and_load(to_config(factory), tmp_path / "config.pt")
    optimizer = class_from_config(config, Optimizer, "optimizer")(nn.Linear(1, 1).parameters())
    assert type(optimizer) is factory.func
    assert factory.keywords.items() <= optimizer.defaults.items()


def test_partial_of_jsonargparse():
    def instantiate(cls, *args, **kwargs):
        return cls(*args, **kwargs)

    assert to_config(partial(instantiate, SGD, lr=0.1)) == to_config(partial(SGD, lr=0.1))


def test_numpy_scalar_round_trips(tmp_path):
    # np.float64 is a float, but weights_only refuses to load one
    config = save_and_load(to_config(partial(AdamW, lr=np.float64(1e-4))), tmp_path / "config.pt")
    assert class_from_config(config, Optimizer, "optimizer")(nn.Linear(1, 1).parameters()).defaults["lr"] == 1e-4


def test_class_round_trips():
    factory = class_from_config(to_config(SGD), Optimizer, "optimizer")
    assert isinstance(factory(nn.Linear(1, 1).parameters()), SGD)


def local_class():
    class Local(HardLabelLoss):
        pass

    return Local


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (lambda parameters: SGD(parameters, lr=0.1), "function"),
        (partial(lambda parameters, lr: SGD(parameters, lr=lr), lr=0.1), "partial"),
        (partial(SGD, lr=torch.tensor(0.1)), "partial"),
        (local_class()(), "Local"),
        (RenamesArgument({}), "RenamesArgument"),
    ],
    ids=["lambda", "partial of a lambda", "tensor argument", "local class", "argument not stored"],
)
def test_unserializable_objects_are_marked(value, kind, tmp_path):
    assert to_config(value) == {"unserializable": kind}
    saved = save_and_load(to_config(value), tmp_path / "config.pt")
    with pytest.raises(ValueError, match=rf"^optimizer: .*{kind}.*optimizer=\.\.\."):
        class_from_config(saved, Optimizer, "optimizer")


def test_local_class_is_unserializable():
    assert "unserializable" in to_config(local_class())


def test_module_marker_names_its_class():
    assert unserializable_marker(nn.Linear(1, 1)) == {"unserializable": "Linear"}


@pytest.mark.parametrize("value", [None, "folder", {"config": "folder", "num_hidden_layers": 2}, ["a", "b"]])
def test_serializable_arguments_are_accepted(value):
    check_restorable(value, "student")


def test_wrong_base_class():
    with pytest.raises(ValueError, match=r"^optimizer: 'lightning_kd\..*SoftTargetLoss'.*Optimizer"):
        class_from_config(to_config(SoftTargetLoss()), Optimizer, "optimizer")


@pytest.mark.parametrize(
    "path", ["no_such_module.Loss", "no_such.module.Loss", "lightning_kd.losses.NoSuchLoss", "Loss", ""]
)
def test_missing_class(path):
    with pytest.raises(ValueError, match=rf"^losses\.soft: .*'{path}'"):
        from_config({"class_path": path}, DistillationLoss, "losses.soft")


def test_other_values_are_returned():
    loss = SoftTargetLoss()
    assert from_config(loss, DistillationLoss, "losses.soft") is loss
    assert from_config(None, DistillationLoss, "losses.soft") is None
