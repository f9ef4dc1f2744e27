"""DataModules as the rest of the library sees them."""

import pytest
from lightning.pytorch import LightningDataModule, Trainer

from lightning_kd import CLINC150DataModule
from lightning_kd.data.interface import DataModuleInterface, as_datamodule_interface, get_datamodule


class CustomDataModule(LightningDataModule):
    path = "here"
    cache_key = "not a method of ours"

    @property
    def label_names(self):
        return ["a", "b"]


def test_our_datamodules_are_returned_themselves():
    datamodule = CLINC150DataModule()
    assert as_datamodule_interface(datamodule) is datamodule
    assert datamodule.class_name == "CLINC150DataModule"
    assert not datamodule.is_stochastic


def test_members_of_a_custom_datamodule_and_defaults():
    view = as_datamodule_interface(CustomDataModule())
    assert (view.class_name, view.path, view.label_names) == ("CustomDataModule", "here", ["a", "b"])
    assert (view.tokenizer, view.max_tokens(), view.texts(), list(view.teacher_tokenizers)) == (None, None, {}, [])
    assert view.is_stochastic
    view.teacher_cache_lookup = None  # as before each fit


@pytest.mark.parametrize(("datamodule", "name"), [(CustomDataModule(), "CustomDataModule"), (None, "a DataLoader")])
def test_teacher_cache_requires_our_base_class(datamodule, name):
    view = as_datamodule_interface(datamodule)
    for method, arguments in (
        ("cache_key", ("train",)),
        ("row_lengths", ("train",)),
        ("subset_dataloader", ("train", [0], 1)),
    ):
        with pytest.raises(ValueError, match=f"teacher_cache: {name} has no {method}; use .*TextDataModule"):
            getattr(view, method)(*arguments)


def test_trainer_with_and_without_datamodule():
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert get_datamodule(trainer).class_name == get_datamodule(None).class_name == ""
    trainer.datamodule = CLINC150DataModule()
    assert isinstance(get_datamodule(trainer), DataModuleInterface)
    assert get_datamodule(trainer) is trainer.datamodule
