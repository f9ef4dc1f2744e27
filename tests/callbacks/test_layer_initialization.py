import pytest
import torch
from transformers import BertModel

from lightning_kd import LayerInitialization
from tests.helpers import assert_same_weights, data, module, save_model, tiny_bert, trainer


def layer(model, index):
    return model.bert.encoder.layer[index].state_dict()


def test_layers_are_copied_before_the_first_step_but_not_on_resume(tmp_path, clinc_file):
    teacher = tiny_bert(layers=4, seed=1)
    start = LayerInitialization([1])
    student = {"config": tiny_bert(layers=1, seed=2).config.to_dict()}
    still = {"lr_scheduler": None, "optimizer": torch.optim.SGD}
    fitted = module(teacher, student=student, **still)
    first = trainer(tmp_path, callbacks=[start], max_steps=0)
    first.fit(fitted, data(clinc_file))
    assert_same_weights(layer(fitted.student, 0), layer(teacher, 1))
    trained = trainer(tmp_path, callbacks=[start], max_steps=3)
    fitted = module(teacher, student=student)
    trained.fit(fitted, data(clinc_file))
    trained.save_checkpoint(tmp_path / "x.ckpt")
    resumed = module(teacher, student=student)
    trainer(tmp_path, callbacks=[start], max_steps=3).fit(resumed, data(clinc_file), ckpt_path=tmp_path / "x.ckpt")
    assert_same_weights(resumed.student.state_dict(), fitted.student.state_dict())


def test_source_folder_without_a_teacher(tmp_path, clinc_file):
    source = tiny_bert(layers=3, seed=1)
    folder = save_model(source, tmp_path / "source")
    fitted = module(student={"config": folder, "num_hidden_layers": 1}, lr_scheduler=None)
    trainer(tmp_path, callbacks=[LayerInitialization([2], folder)], max_steps=0).fit(fitted, data(clinc_file))
    assert_same_weights(layer(fitted.student, 0), layer(source, 2))


def test_revision_of_a_teacher_with_options(tmp_path, clinc_file, add_to_hub_cache):
    for seed, branch in enumerate(("main", "v2")):
        folder = save_model(tiny_bert(layers=3, seed=seed), tmp_path / branch)
        add_to_hub_cache(folder, "some/teacher", str(seed) * 40, branch)
    teacher = {"pretrained": "some/teacher", "revision": "v2"}
    fitted = module(teacher, student={"config": folder, "num_hidden_layers": 1}, lr_scheduler=None)
    trainer(tmp_path, callbacks=[LayerInitialization([2])], max_steps=0).fit(fitted, data(clinc_file))
    assert_same_weights(layer(fitted.student, 0), layer(tiny_bert(layers=3, seed=1), 2))


def test_fresh_head_of_the_source_is_not_copied(tmp_path, clinc_file):
    source = save_model(tiny_bert(layers=3, seed=1, model_class=BertModel), tmp_path / "source")
    trained = tiny_bert(layers=1, seed=2)
    fitted = module(student=save_model(trained, tmp_path / "student"), lr_scheduler=None)
    trainer(tmp_path, callbacks=[LayerInitialization([2], source)], max_steps=0).fit(fitted, data(clinc_file))
    assert_same_weights(fitted.student.classifier, trained.classifier)


def test_missing_source_raises(tmp_path, clinc_file):
    with pytest.raises(ValueError, match=r"LayerInitialization\.source: not set"):
        trainer(tmp_path, callbacks=[LayerInitialization()]).fit(module(), data(clinc_file))
