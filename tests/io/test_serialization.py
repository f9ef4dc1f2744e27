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
    class_path,
    factory_from_plain,
    from_plain,
    not_saved,
    refuse_not_saved,
    to_plain,
)
from lightning_kd.losses import DistillationLoss, HardLabelLoss, LogitMSELoss, SoftTargetLoss
from lightning_kd.tasks import Task


def through_a_checkpoint(value, file):
    torch.save(value, file)
    return torch.load(file, weights_only=True)


class FromAMapping:
    """Keeps its argument under another name."""

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
def test_losses_come_back(loss, tmp_path):
    plain = through_a_checkpoint(to_plain(loss), tmp_path / "plain.pt")
    copy = from_plain(plain, DistillationLoss, "losses.some")
    assert type(copy) is type(loss)
    assert {name: getattr(copy, name) for name in plain["init_args"]} == plain["init_args"]
    assert "weight" in plain["init_args"]
    assert to_plain(copy) == plain


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


def test_checkpoint_does_not_say_in_which_file_a_class_is():
    exported = [getattr(package, name) for package in (lightning_kd, losses) for name in package.__all__]
    for cls in filter(lambda value: isinstance(value, type), exported):
        package, _, name = class_path(cls).rpartition(".")
        assert package in ("lightning_kd", "lightning_kd.losses")
        assert name in sys.modules[package].__all__


def test_package_that_has_another_class_of_that_name(monkeypatch):
    monkeypatch.setattr(losses, "SoftTargetLoss", LogitMSELoss)
    assert class_path(SoftTargetLoss) == "lightning_kd.losses.soft_target.SoftTargetLoss"
    monkeypatch.setattr(sys.modules["lightning_kd.losses.soft_target"], "SoftTargetLoss", LogitMSELoss)
    assert to_plain(SoftTargetLoss()) == {"not_saved": "SoftTargetLoss"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that exports its class lazily, has a broken module, and one that nothing needs."""
    folder = tmp_path / "lazy_package"
    folder.mkdir()
    export = 'if name == "Own":\n        from lazy_package.own import Own\n        return Own\n'
    files = {
        "__init__": f"def __getattr__(name):\n    {export}    raise AttributeError(name)\n",
        "own": "from lightning_kd.losses import HardLabelLoss\nclass Own(HardLabelLoss): pass\n",
        "broken": "import what_is_not_installed\n",
        "heavy": "",
    }
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [name for name in sys.modules if name.startswith("lazy_package")]:
        del sys.modules[name]


def test_lazy_export_is_found_and_nothing_else_imported(package):
    own = importlib.import_module("lazy_package.own").Own
    plain = to_plain(own(0.5))
    assert plain["class_path"] == "lazy_package.Own"
    assert type(from_plain(plain, DistillationLoss, "losses.some")) is own
    assert "lazy_package.heavy" not in sys.modules


def test_module_that_does_not_import_is_named_with_what_it_misses(package):
    with pytest.raises(ValueError, match=r"cannot import 'lazy_package.broken.Loss' .*'what_is_not_installed'"):
        from_plain({"class_path": "lazy_package.broken.Loss"}, DistillationLoss, "losses.soft")


def test_nested_class_comes_back(tmp_path):
    plain = through_a_checkpoint(to_plain(Outer.Inner(0.25)), tmp_path / "plain.pt")
    copy = from_plain(plain, DistillationLoss, "losses.some")
    assert (type(copy), copy.weight) == (Outer.Inner, 0.25)


@pytest.mark.parametrize("main", ["__main__", "__mp_main__"])
def test_class_of_a_script_or_notebook_is_not_saved(main, monkeypatch):
    monkeypatch.setattr(Outer, "__module__", main)
    monkeypatch.setitem(sys.modules, main, sys.modules[__name__])  # there it would be found
    assert to_plain(Outer()) == {"not_saved": "Outer"}


def test_arguments_are_those_of_the_constructor():
    plain = to_plain(SoftTargetLoss(temperature=2.0))
    assert plain["init_args"] == {
        "weight": 1.0,
        "temperature": 2.0,
        "beta": 0.0,
        "standardize": False,
        "top_k": None,
    }


def test_tasks_come_back(tmp_path):
    plain = through_a_checkpoint(to_plain(SequenceClassification("none of these")), tmp_path / "plain.pt")
    assert from_plain(plain, Task, "task").oos_label == "none of these"


@pytest.mark.parametrize("factory", [partial(AdamW, lr=3e-4, betas=(0.8, 0.9)), partial(SGD, lr=0.1)])
def test_partial_of_an_optimizer_comes_back(factory, tmp_path):
    plain = through_a_checkpoint(to_plain(factory), tmp_path / "plain.pt")
    optimizer = factory_from_plain(plain, Optimizer, "optimizer")(nn.Linear(1, 1).parameters())
    assert type(optimizer) is factory.func
    assert factory.keywords.items() <= optimizer.defaults.items()


def test_partial_as_the_command_line_makes_it():
    def instantiate(cls, *args, **kwargs):
        return cls(*args, **kwargs)

    assert to_plain(partial(instantiate, SGD, lr=0.1)) == to_plain(partial(SGD, lr=0.1))


def test_numpy_number_comes_back(tmp_path):
    # np.float64 is a float, but weights_only refuses to load one
    plain = through_a_checkpoint(to_plain(partial(AdamW, lr=np.float64(1e-4))), tmp_path / "plain.pt")
    assert factory_from_plain(plain, Optimizer, "optimizer")(nn.Linear(1, 1).parameters()).defaults["lr"] == 1e-4


def test_class_comes_back():
    factory = factory_from_plain(to_plain(SGD), Optimizer, "optimizer")
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
        (FromAMapping({}), "FromAMapping"),
    ],
    ids=["lambda", "partial of a lambda", "tensor argument", "local class", "argument not kept"],
)
def test_what_cannot_be_described_is_not_saved(value, kind, tmp_path):
    assert to_plain(value) == {"not_saved": kind}
    saved = through_a_checkpoint(to_plain(value), tmp_path / "plain.pt")
    with pytest.raises(ValueError, match=rf"optimizer: .* object of {kind}, .* pass it again, .*optimizer=\.\.\."):
        factory_from_plain(saved, Optimizer, "optimizer")


def test_a_local_class_itself_is_not_saved():
    assert "not_saved" in to_plain(local_class())


def test_module_is_named_by_its_class():
    assert not_saved(nn.Linear(1, 1)) == {"not_saved": "Linear"}


@pytest.mark.parametrize("value", [None, "folder", {"base": "folder", "num_hidden_layers": 2}, ["a", "b"]])
def test_plain_arguments_are_not_refused(value):
    refuse_not_saved(value, "student")


def test_wrong_base_is_refused():
    with pytest.raises(ValueError, match=r"optimizer: 'lightning_kd\..*SoftTargetLoss' is not a Optimizer"):
        factory_from_plain(to_plain(SoftTargetLoss()), Optimizer, "optimizer")


@pytest.mark.parametrize(
    "path", ["no_such_module.Loss", "no_such.module.Loss", "lightning_kd.losses.NoSuchLoss", "Loss", ""]
)
def test_class_that_is_not_found_is_refused(path):
    with pytest.raises(ValueError, match=rf"losses.soft: cannot import '{path}' .*pass it again"):
        from_plain({"class_path": path}, DistillationLoss, "losses.soft")


def test_objects_pass_through():
    loss = SoftTargetLoss()
    assert from_plain(loss, DistillationLoss, "losses.soft") is loss
    assert from_plain(None, DistillationLoss, "losses.soft") is None
