import pytest
import torch

from lightning_kd import LayerInitialization
from lightning_kd.callbacks.layer_initialization import copy_layers, evenly_spaced
from tests.conftest import LABELS, save_network, tiny_bert
from tests.runs import data, module, trainer


def layer(network, index):
    return network.bert.encoder.layer[index].state_dict()


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("count", "among", "expected"),
    [(1, 6, [0]), (2, 6, [0, 5]), (3, 12, [0, 6, 11]), (4, 4, [0, 1, 2, 3]), (6, 12, [0, 2, 4, 7, 9, 11])],
)
def test_evenly_spaced(count, among, expected):
    assert evenly_spaced(count, among) == expected


def test_chosen_layers_embeddings_and_head_are_copied():
    source, student = tiny_bert(layers=5, seed=1), tiny_bert(layers=2, seed=2)
    chosen, left = copy_layers(source, student, [3, -1])
    assert (chosen, left) == ([3, -1], [])
    assert equal(layer(student, 0), layer(source, 3))
    assert equal(layer(student, 1), layer(source, 4))
    assert equal(student.bert.embeddings.state_dict(), source.bert.embeddings.state_dict())
    assert equal(student.classifier.state_dict(), source.classifier.state_dict())


def test_copies_are_not_shared():
    source, student = tiny_bert(layers=2, seed=1), tiny_bert(layers=1, seed=2)
    copy_layers(source, student, None)
    with torch.no_grad():
        student.bert.encoder.layer[0].output.dense.weight.zero_()
    assert source.bert.encoder.layer[0].output.dense.weight.abs().sum() > 0


def test_head_for_the_same_labels_in_another_order_is_left_alone():
    source, student = tiny_bert(layers=2, seed=1), tiny_bert(labels=LABELS[::-1], layers=1, seed=2)
    _, left = copy_layers(source, student, None)
    assert left == ["classifier.weight", "classifier.bias"]
    assert not equal(student.classifier.state_dict(), source.classifier.state_dict())


@pytest.mark.parametrize(
    ("layers", "message"),
    [([0, 5], "5 is out of range, the source has layers 0 to 4"), ([0, -6], "-6 is out of range"), ([0], "1 given")],
)
def test_bad_layers(layers, message):
    with pytest.raises(ValueError, match=message):
        copy_layers(tiny_bert(layers=5), tiny_bert(layers=2), layers)


@pytest.mark.parametrize(
    "config",
    [{"hidden_size": 32}, {"intermediate_size": 8}, {"vocab_size": 7}, {"num_attention_heads": 4}],
)
def test_other_sizes(config):
    field = next(iter(config))
    with pytest.raises(ValueError, match=f"{field} is .* in the source and .* in the student"):
        copy_layers(tiny_bert(layers=5), tiny_bert(layers=2, **config), None)


def test_shared_layers_are_refused():
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=16, embedding_size=8)
    networks = [AlbertForSequenceClassification(config) for _ in range(2)]
    with pytest.raises(ValueError, match="ALBERT"):
        copy_layers(*networks, None)


def test_it_runs_before_the_first_step_and_not_on_resume(tmp_path, clinc_file):
    teacher = tiny_bert(layers=4, seed=1)
    start = LayerInitialization([1])
    student = {"config": tiny_bert(layers=1, seed=2).config.to_dict()}
    still = {"lr_scheduler": None, "optimizer": torch.optim.SGD}
    fitted = module(teacher, student=student, **still)
    first = trainer(tmp_path, callbacks=[start], max_steps=0)
    first.fit(fitted, data(clinc_file))
    assert equal(layer(fitted.student, 0), layer(teacher, 1))
    trained = trainer(tmp_path, callbacks=[start], max_steps=3)
    fitted = module(teacher, student=student)
    trained.fit(fitted, data(clinc_file))
    trained.save_checkpoint(tmp_path / "x.ckpt")
    resumed = module(teacher, student=student)
    trainer(tmp_path, callbacks=[start], max_steps=3).fit(resumed, data(clinc_file), ckpt_path=tmp_path / "x.ckpt")
    assert equal(resumed.student.state_dict(), fitted.student.state_dict())


def test_source_by_folder_without_a_teacher(tmp_path, clinc_file):
    source = tiny_bert(layers=3, seed=1)
    folder = save_network(source, tmp_path / "source")
    fitted = module(student={"base": folder, "num_hidden_layers": 1}, lr_scheduler=None)
    trainer(tmp_path, callbacks=[LayerInitialization([2], folder)], max_steps=0).fit(fitted, data(clinc_file))
    assert equal(layer(fitted.student, 0), layer(source, 2))


def test_nothing_to_copy_from(tmp_path, clinc_file):
    with pytest.raises(ValueError, match=r"LayerInitialization\.source: none given and there is no teacher"):
        trainer(tmp_path, callbacks=[LayerInitialization()]).fit(module(), data(clinc_file))
