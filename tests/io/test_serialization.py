"""Objects as class path and arguments, and back."""

import importlib
import sys
from functools import partial
from inspect import signature

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

import lightning_kd
from lightning_kd import SequenceClassification, losses
from lightning_kd.io.serialization import class_from_config, class_path, from_config, to_config
from lightning_kd.losses import DistillationLoss, HardLabelLoss, LogitMSELoss, SoftTargetLoss
from lightning_kd.tasks import Task


def save_and_load(value, file):
    torch.save(value, file)
    return torch.load(file, weights_only=True)


class Outer:
    class Inner(HardLabelLoss):
        pass


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (HardLabelLoss(0.0552, label_smoothing=0.1), DistillationLoss),
        (SoftTargetLoss(0.9448, temperature=19, beta=0.5), DistillationLoss),
        (Outer.Inner(0.25), DistillationLoss),
        (SequenceClassification("none of these"), Task),
    ],
    ids=lambda value: type(value).__name__,
)
def test_objects_round_trip(value, base, tmp_path):
    config = save_and_load(to_config(value), tmp_path / "config.pt")
    copy = from_config(config, base, "some")
    assert type(copy) is type(value)
    assert config["init_args"] == {name: getattr(value, name) for name in signature(type(value)).parameters}
    assert to_config(copy) == config


def instantiate(cls, *args, **kwargs):
    """Stands for the function that jsonargparse binds."""
    return cls(*args, **kwargs)


@pytest.mark.parametrize(
    ("factory", "cls", "arguments"),
    [
        (partial(AdamW, lr=3e-4, betas=(0.8, 0.9)), AdamW, {"lr": 3e-4, "betas": (0.8, 0.9)}),
        (partial(AdamW, lr=np.float64(1e-4)), AdamW, {"lr": 1e-4}),  # weights_only refuses to load a NumPy number
        (partial(instantiate, SGD, lr=0.1), SGD, {"lr": 0.1}),
        (SGD, SGD, {}),
    ],
)
def test_optimizers_round_trip(factory, cls, arguments, tmp_path):
    config = save_and_load(to_config(factory), tmp_path / "config.pt")
    assert config["init_args"] == arguments
    optimizer = class_from_config(config, Optimizer, "optimizer")(nn.Linear(1, 1).parameters())
    assert type(optimizer) is cls
    assert arguments.items() <= optimizer.defaults.items()


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
        "heavy": "raise RuntimeError('imported')",
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


@pytest.mark.parametrize(
    "path", ["lazy_package.UserLoss", "lazy_package.heavy.Loss", "no_such_module.Loss", "Loss", ""]
)
def test_class_that_is_not_imported(package, path):
    for value in (path, {"class_path": path}):
        with pytest.raises(ValueError, match=rf"^losses\.soft: .*'{path}'.* not imported.* losses=\.\.\."):
            from_config(value, DistillationLoss, "losses.soft")
    assert "lazy_package" not in sys.modules


@pytest.mark.parametrize("main", ["__main__", "__mp_main__"])
def test_class_of_a_script_is_unserializable(main, monkeypatch):
    monkeypatch.setattr(Outer, "__module__", main)
    monkeypatch.setitem(sys.modules, main, sys.modules[__name__])  # where it would be found
    assert to_config(Outer()) == {"unserializable": "Outer"}


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
        (local_class(), "type"),
        (nn.Linear(1, 1), "Linear"),
    ],
    ids=["lambda", "partial of a lambda", "tensor argument", "local object", "local class", "argument not stored"],
)
def test_unserializable_objects_are_marked(value, kind, tmp_path):
    assert to_config(value) == {"unserializable": kind}
    saved = save_and_load(to_config(value), tmp_path / "config.pt")
    with pytest.raises(ValueError, match=rf"^optimizer: .*{kind}.*optimizer=\.\.\."):
        class_from_config(saved, Optimizer, "optimizer")


@pytest.mark.parametrize("value", [None, 1, {"config": "folder"}, ["a", "b"], SoftTargetLoss()])
def test_other_values_are_returned(value):
    assert from_config(value, DistillationLoss, "losses.soft") is value


def test_wrong_base_class():
    with pytest.raises(ValueError, match=r"^optimizer: 'lightning_kd\..*SoftTargetLoss'.*Optimizer"):
        class_from_config(to_config(SoftTargetLoss()), Optimizer, "optimizer")


@pytest.mark.parametrize("path", ["lightning_kd.losses.NoSuchLoss", "lightning_kd.no_such.Loss"])
def test_class_that_does_not_exist(path):
    with pytest.raises(ValueError, match=rf"^losses\.soft: cannot import '{path}'"):
        from_config({"class_path": path}, DistillationLoss, "losses.soft")
