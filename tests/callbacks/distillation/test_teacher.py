"""Teachers from folders, checkpoints and modules, and their outputs for texts and images."""

import copy

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import kl_div, mse_loss
from torch.utils.data import DataLoader
from transformers import BertForQuestionAnswering, BertForTokenClassification, BertModel, DistilBertConfig
from transformers import DistilBertForSequenceClassification as DistilBert

from lightning_kd.callbacks.distillation.teacher import infer_auto_class
from lightning_kd.losses import HardLabelLoss, HiddenStateMSELoss, LogitMSELoss, SoftTargetLoss
from tests.callbacks.distillation.helpers import (
    Classifier,
    TextClassifier,
    callback,
    fit,
    fit_and_get_logs,
    make_examples,
    mlp,
)
from tests.helpers import LABELS, save_model, tiny_bert

MSE = {"losses": {"mse": LogitMSELoss()}}


def texts(**entries):
    torch.manual_seed(3)
    ids = torch.randint(5, 1200, (4, 6))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask, **(entries or {"labels": torch.tensor([0, 2, 1, 0])})}


def predict(model, **options):
    inputs = {name: value for name, value in texts().items() if name != "labels"}
    with torch.no_grad():
        return model.eval()(**inputs, **options)


def bert(seed=0, **settings):
    return tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, seed=seed, **settings)


def mse(teacher_logits):
    """Error of the logits of ``bert()``."""
    return pytest.approx(float(mse_loss(predict(bert()).logits, teacher_logits)), rel=1e-5)


def test_folder_is_loaded_by_the_students_class_in_the_students_label_order(tmp_path):
    model = bert(4, labels=[LABELS[2], LABELS[0], LABELS[1]])
    folder = save_model(model, tmp_path / "teacher")
    found = fit_and_get_logs(tmp_path, TextClassifier(bert()), texts(), teacher=folder, **MSE)
    assert found["mse"] == mse(predict(model).logits[:, [1, 2, 0]])


@pytest.mark.parametrize("loaded", [False, True])
def test_other_classes(tmp_path, loaded):
    model = tiny_bert(labels=["greet", "leave", "else"])
    source = model if loaded else save_model(model, tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"teacher: .*\(3: greet, leave, else.*config\.id2label"):
        fit_and_get_logs(tmp_path, TextClassifier(), texts(), teacher=source)


def test_ensemble(tmp_path):
    first, second = bert(4), bert(5)
    folder, student_logits = save_model(first, tmp_path / "teacher"), predict(bert()).logits
    found = fit_and_get_logs(tmp_path, TextClassifier(bert()), texts(), teacher=[folder, second], **MSE)
    assert found["mse"] == mse((predict(first).logits + predict(second).logits) / 2)
    mapping = {"ensemble": [folder, second], "combine": "probabilities"}
    losses = {"soft": SoftTargetLoss()}
    found = fit_and_get_logs(tmp_path, TextClassifier(bert()), texts(), teacher=mapping, losses=losses)
    mean = (predict(first).logits.softmax(-1) + predict(second).logits.softmax(-1)) / 2
    expected = kl_div(student_logits.log_softmax(-1), mean, reduction="batchmean")
    assert found["soft"] == pytest.approx(float(expected), rel=2e-2)  # of 1e-5, in float32


def test_family_without_token_types(tmp_path):
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=1200, dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=3)
    model, batch = DistilBert(config), {**texts(), "token_type_ids": torch.zeros(4, 6).long()}
    with pytest.warns(UserWarning, match="does not name its labels"):
        found = fit_and_get_logs(tmp_path, TextClassifier(bert()), batch, teacher=model, **MSE)
    assert found["mse"] == mse(predict(model).logits)


def test_folder_that_cannot_be_loaded(tmp_path):
    with pytest.raises(ValueError, match=r"auto_class: .* Sequential"):
        fit(Classifier(), tmp_path, callback(teacher=save_model(tiny_bert(), tmp_path / "teacher")))
    with pytest.raises(OSError, match="teacher 'nowhere'"):
        fit_and_get_logs(tmp_path, TextClassifier(), texts(), teacher="nowhere")
    with pytest.raises(ValueError, match="teacher: null"):
        fit(Classifier(), tmp_path, callback(teacher=None))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (tiny_bert(), "AutoModelForSequenceClassification"),
        (tiny_bert(model_class=BertForTokenClassification), "AutoModelForTokenClassification"),
        (tiny_bert(model_class=BertForQuestionAnswering), "AutoModelForQuestionAnswering"),
        (tiny_bert(model_class=BertModel), "AutoModel"),
        (torch.compile(tiny_bert(), backend="eager"), "AutoModelForSequenceClassification"),
        (mlp(), ""),
    ],
)
def test_auto_class_of_the_student(model, name):
    assert infer_auto_class(model) == name


def test_checkpoint_or_module_of_the_same_class(tmp_path):
    """The checkpoint's hyperparameters give the size of the teacher."""
    large = Classifier(hidden=32, lr=0.0)
    path = tmp_path / "large.ckpt"
    fit(large, tmp_path).save_checkpoint(path)
    inputs, _ = make_examples()
    expected = mse_loss(mlp()(inputs), large.net(inputs)).item()
    text, module = str(path), copy.deepcopy(large)
    sources = [text, path, module, {"pretrained": text}, [text], (text,), {"ensemble": [module]}]
    for source in sources:
        found = fit_and_get_logs(tmp_path, Classifier(lr=0.0), teacher=source, **MSE)
        assert found["mse"] == pytest.approx(expected, rel=1e-5)


class NoHyperparameters(Classifier):
    def __init__(self, net):
        LightningModule.__init__(self)
        self.net = net

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_checkpoint_that_cannot_be_loaded(tmp_path):
    missing = str(tmp_path / "missing.ckpt")
    with pytest.raises(ValueError, match=r"teacher: .*missing\.ckpt.*FileNotFoundError"):
        fit(Classifier(), tmp_path, callback(teacher=missing))
    fit(NoHyperparameters(mlp()), tmp_path).save_checkpoint(tmp_path / "unsaved.ckpt")
    with pytest.raises(ValueError, match=r"teacher: .*TypeError: .*'net'; call save_hyperparameters"):
        fit(NoHyperparameters(mlp()), tmp_path, callback(teacher=str(tmp_path / "unsaved.ckpt")))


def test_two_heads(tmp_path):
    student, teacher = (bert(seed, model_class=BertForQuestionAnswering, labels=None) for seed in (0, 1))
    batch = texts(start_positions=torch.tensor([0, 1, 2, 3]), end_positions=torch.tensor([1, 1, 4, 5]))
    heads, labels = ["start_logits", "end_logits"], ["start_positions", "end_positions"]
    settings = {"losses": {"mse": LogitMSELoss(), "hard": HardLabelLoss()}, "logits": heads, "labels": labels}
    found = fit_and_get_logs(tmp_path, TextClassifier(student), batch, teacher=teacher, **settings)
    student_logits, teacher_logits = predict(student), predict(teacher)
    expected = sum(mse_loss(student_logits[head], teacher_logits[head]) for head in heads) / 2
    assert found["mse"] == pytest.approx(float(expected), rel=1e-4)
    assert found["hard"] == pytest.approx(found["task_loss"], rel=1e-5)  # transformers averages both heads, too


def test_hidden_states_of_tokens(tmp_path):
    student, teacher = bert(), bert(1, layers=4)
    layers = {"bert.encoder.layer.0": "bert.encoder.layer.1", "bert.encoder.layer.1": "bert.encoder.layer.3"}
    settings = {"losses": {"hidden": HiddenStateMSELoss()}, "layers": layers}
    found = fit_and_get_logs(tmp_path, TextClassifier(student), texts(), teacher=teacher, **settings)
    keep = texts()["attention_mask"].bool()
    a, b = (predict(model, output_hidden_states=True).hidden_states for model in (student, teacher))
    expected = (mse_loss(a[1][keep], b[2][keep]) + mse_loss(a[2][keep], b[4][keep])) / 2
    assert found["hidden"] == pytest.approx(float(expected), rel=1e-4)
    assert found.keys() == {"hidden", "task_loss", "loss"}


def image_classifier(channels):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * channels, 3))
    return NoHyperparameters(net)


def images():
    torch.manual_seed(0)
    return DataLoader([(torch.randn(8, 1, 6, 6), torch.arange(8) % 3)], batch_size=None)


MAPS = {"losses": {"maps": HiddenStateMSELoss()}, "layers": {"0": "0"}}


def test_feature_maps_of_a_wider_teacher(tmp_path):
    module = image_classifier(2)
    distillation = callback(teacher=image_classifier(5).net, **MAPS)
    first, last = (
        float(fit(module, tmp_path, distillation, images(), max_epochs=epochs).logged_metrics["distillation/maps"])
        for epochs in (1, 200)
    )
    assert distillation.state_dict()["losses"]["maps"][0]["projection.weight"].shape == (5, 2)
    assert last < 0.7 * first


def test_feature_maps_of_another_resolution(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 4), nn.Flatten(), nn.Linear(18, 3))
    with pytest.raises(ValueError, match=r"layers: .* 16 positions .* 9"):
        fit(image_classifier(2), tmp_path, callback(teacher=model, **MAPS), images())
