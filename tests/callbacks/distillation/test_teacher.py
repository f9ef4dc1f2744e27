"""Teachers from a folder, a checkpoint of the same class, or somebody's hands; texts with padding."""

import copy
from pathlib import Path

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
from tests.callbacks.distillation.dropin import Classifier, callback, equal_tensors, fit, loader, mlp, teacher, weights
from tests.helpers import LABELS, save_model, tiny_bert


class Text(LightningModule):
    """As people fine-tune a network of transformers."""

    def __init__(self, model=None):
        super().__init__()
        self.model = model or tiny_bert().train()

    def training_step(self, batch):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def texts():
    torch.manual_seed(3)
    ids = torch.randint(5, 1200, (4, 6))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 2, 1, 0])}


def fit_and_get_logs(tmp_path, module, batch=None, **settings):
    """What was logged for one batch by a module whose learning rate is 0."""
    batches = DataLoader([batch or texts()], batch_size=None)
    defaults = {"student": "model", "losses": {"mse": LogitMSELoss()}}
    run = fit(module, tmp_path, callback(**{**defaults, **settings}), batches)
    return {name.removeprefix("distillation/"): float(value) for name, value in run.logged_metrics.items()}


def logits(model, batch=None, **options):
    inputs = {name: value for name, value in (batch or texts()).items() if name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model.eval()(**inputs, **options)


def no_dropout(**settings):
    return tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **settings)


def test_folder_is_loaded_by_the_students_class_in_its_order_of_classes(tmp_path):
    names = [LABELS[2], LABELS[0], LABELS[1]]
    model = no_dropout(labels=names, seed=4)
    found = fit_and_get_logs(tmp_path, Text(no_dropout()), teacher=save_model(model, tmp_path / "teacher"))
    expected = mse_loss(logits(no_dropout()).logits, logits(model).logits[:, [1, 2, 0]])
    assert found["mse"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("whole", [False, True])
def test_other_classes_are_refused(tmp_path, whole):
    model = tiny_bert(labels=["greet", "leave", "else"])
    given = model if whole else save_model(model, tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"name other classes \(3: greet, leave, else.*config\.id2label"):
        fit_and_get_logs(tmp_path, Text(), teacher=given)


def test_teacher_that_names_no_classes_is_taken_to_have_the_same(tmp_path):
    model = tiny_bert(labels=None, num_labels=3)
    with pytest.warns(UserWarning, match="does not name its labels"):
        fit_and_get_logs(tmp_path, Text(), teacher=model)


def test_ensemble(tmp_path):
    first, second = no_dropout(seed=4), no_dropout(seed=5)
    found = fit_and_get_logs(tmp_path, Text(no_dropout()), teacher=[save_model(first, tmp_path / "teacher"), second])
    mean = (logits(first).logits + logits(second).logits) / 2
    assert found["mse"] == pytest.approx(float(mse_loss(logits(no_dropout()).logits, mean)), rel=1e-5)
    mapping = {"ensemble": [str(tmp_path / "teacher"), second], "combine": "probabilities"}
    found = fit_and_get_logs(tmp_path, Text(no_dropout()), teacher=mapping, losses={"soft": SoftTargetLoss()})
    mean = (logits(first).logits.softmax(-1) + logits(second).logits.softmax(-1)) / 2
    expected = kl_div(logits(no_dropout()).logits.log_softmax(-1), mean, reduction="batchmean")
    assert found["soft"] == pytest.approx(float(expected), rel=2e-2)  # of 1e-5, in float32


def test_family_that_takes_no_token_types(tmp_path):
    config = DistilBertConfig(vocab_size=1200, dim=16, n_layers=1, n_heads=2, hidden_dim=32, num_labels=3)
    torch.manual_seed(0)
    model = DistilBert(config)
    batch = {**texts(), "token_type_ids": torch.zeros(4, 6).long()}
    with pytest.warns(UserWarning, match="does not name its labels"):
        found = fit_and_get_logs(tmp_path, Text(no_dropout()), batch, teacher=model)
    expected = mse_loss(logits(no_dropout(), batch).logits, logits(model).logits)
    assert found["mse"] == pytest.approx(float(expected), rel=1e-5)


def test_folder_without_a_known_class(tmp_path):
    folder = save_model(tiny_bert(), tmp_path / "teacher")
    with pytest.raises(ValueError, match="the student, Sequential, does not say which class of transformers loads it"):
        fit(Classifier(), tmp_path, callback(teacher=folder))
    with pytest.raises(OSError, match="teacher 'nowhere' is neither a local folder"):
        fit_and_get_logs(tmp_path, Text(), teacher="nowhere")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (tiny_bert(), "AutoModelForSequenceClassification"),
        (tiny_bert(model_class=BertForTokenClassification), "AutoModelForTokenClassification"),
        (tiny_bert(model_class=BertForQuestionAnswering), "AutoModelForQuestionAnswering"),
        (tiny_bert(model_class=BertModel), "AutoModel"),
        (torch.compile(tiny_bert(), backend="eager"), "AutoModelForSequenceClassification"),
    ],
)
def test_class_that_loads_a_teacher(model, name):
    assert infer_auto_class(model) == name


class FrozenClassifier(Classifier):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.parametrize("given", [str, Path, "module"])
def test_checkpoint_or_module_of_the_same_class(tmp_path, given):
    """Of another size, which its hyperparameters say."""
    large = FrozenClassifier(hidden=32)
    run = fit(large, tmp_path)
    run.save_checkpoint(tmp_path / "large.ckpt")
    source = copy.deepcopy(large) if given == "module" else given(tmp_path / "large.ckpt")
    losses = {"mse": LogitMSELoss()}
    found = fit(FrozenClassifier(), tmp_path, callback(teacher=source, losses=losses), loader(16))
    (inputs, _), *_ = loader(16)
    expected = mse_loss(mlp()(inputs), large.net(inputs))
    assert float(found.logged_metrics["distillation/mse"]) == pytest.approx(expected.item(), rel=1e-5)


class NoHyperparameters(Classifier):
    def __init__(self, model):
        LightningModule.__init__(self)
        self.net = model

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_checkpoint_that_cannot_be_loaded(tmp_path):
    missing = str(tmp_path / "missing.ckpt")
    with pytest.raises(ValueError, match=r"Classifier\.load_from_checkpoint: FileNotFoundError"):
        fit(Classifier(), tmp_path, callback(teacher=missing))
    fit(NoHyperparameters(mlp()), tmp_path).save_checkpoint(tmp_path / "unsaved.ckpt")
    with pytest.raises(ValueError, match=r"TypeError: .*'model'; its class must have called save_hyperparameters"):
        fit(NoHyperparameters(mlp()), tmp_path, callback(teacher=str(tmp_path / "unsaved.ckpt")))


def test_padding_does_not_count_for_tokens(tmp_path):
    ours, theirs = (no_dropout(seed=seed, model_class=BertForTokenClassification) for seed in (0, 1))
    batch = {**texts(), "labels": torch.randint(3, (4, 6))}
    losses = {"soft": SoftTargetLoss(), "hard": HardLabelLoss()}
    found = fit_and_get_logs(tmp_path, Text(ours), batch, teacher=theirs, losses=losses, labels="labels")
    keep = batch["attention_mask"].bool()
    own, other = (logits(model, batch).logits[keep] for model in (ours, theirs))
    expected = kl_div(own.log_softmax(-1), other.log_softmax(-1), reduction="batchmean", log_target=True)
    assert found["soft"] == pytest.approx(float(expected), rel=1e-4)
    assert found["hard"] == pytest.approx(float(nn.functional.cross_entropy(own, batch["labels"][keep])), rel=1e-5)


def test_two_heads(tmp_path):
    ours, theirs = (no_dropout(seed=seed, model_class=BertForQuestionAnswering, labels=None) for seed in (0, 1))
    batch = texts()
    del batch["labels"]
    batch |= {"start_positions": torch.tensor([0, 1, 2, 3]), "end_positions": torch.tensor([1, 1, 4, 5])}
    heads, labels = ["start_logits", "end_logits"], ["start_positions", "end_positions"]
    losses = {"mse": LogitMSELoss(), "hard": HardLabelLoss()}
    found = fit_and_get_logs(tmp_path, Text(ours), batch, teacher=theirs, losses=losses, logits=heads, labels=labels)
    own, other = (logits(model, batch) for model in (ours, theirs))
    expected = sum(mse_loss(own[head], other[head]) for head in heads) / 2
    assert found["mse"] == pytest.approx(float(expected), rel=1e-4)
    assert found["hard"] == pytest.approx(found["task_loss"], rel=1e-5)  # which is the mean over both, too


def test_hidden_states_of_tokens(tmp_path):
    ours, theirs = no_dropout(), no_dropout(seed=1, layers=4)
    layers = {"bert.encoder.layer.0": "bert.encoder.layer.1", "bert.encoder.layer.1": "bert.encoder.layer.3"}
    losses = {"hidden": HiddenStateMSELoss()}
    found = fit_and_get_logs(tmp_path, Text(ours), teacher=theirs, losses=losses, layers=layers)
    keep = texts()["attention_mask"].bool()
    own, other = (logits(model, output_hidden_states=True).hidden_states for model in (ours, theirs))
    expected = (mse_loss(own[1][keep], other[2][keep]) + mse_loss(own[2][keep], other[4][keep])) / 2
    assert found["hidden"] == pytest.approx(float(expected), rel=1e-4)
    assert found.keys() == {"hidden", "task_loss", "loss"}


class Pixels(NoHyperparameters):
    """A network for images, whose layers give feature maps."""

    def __init__(self, channels):
        LightningModule.__init__(self)
        self.net = nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * channels, 3))


def test_feature_maps_learn_from_those_of_a_wider_model(tmp_path):
    torch.manual_seed(0)
    batches = DataLoader([(torch.randn(8, 1, 6, 6), torch.arange(8) % 3)], batch_size=None)
    torch.manual_seed(0)
    module, model = Pixels(2), Pixels(5).net
    settings = {"teacher": model, "losses": {"maps": HiddenStateMSELoss()}, "layers": {"0": "0"}}
    distillation = callback(**settings)
    before = weights(model)
    run = fit(module, tmp_path, distillation, batches, max_epochs=1)
    first = float(run.logged_metrics["distillation/maps"])
    assert distillation.state_dict()["losses"]["maps"][0]["projection.weight"].shape == (5, 2)
    run = fit(module, tmp_path, distillation, batches, max_epochs=200)
    assert float(run.logged_metrics["distillation/maps"]) < 0.7 * first
    assert equal_tensors(before, weights(model))


def test_feature_maps_of_other_resolutions_are_refused(tmp_path):
    model = nn.Sequential(nn.Conv2d(1, 2, 4), nn.Flatten(), nn.Linear(18, 3))
    batches = DataLoader([(torch.randn(8, 1, 6, 6), torch.arange(8) % 3)], batch_size=None)
    settings = {"teacher": model, "losses": {"maps": HiddenStateMSELoss()}, "layers": {"0": "0"}}
    with pytest.raises(ValueError, match="the student's layer gives 16 positions and the teacher's 9"):
        fit(Pixels(2), tmp_path, callback(**settings), batches)


def test_teacher_may_be_the_module_of_another_run(tmp_path):
    settings = {"student": "", "teacher": Whole(32)}
    module = Whole(8)
    fit(module, tmp_path, callback(**settings))
    assert not equal_tensors(weights(module), weights(Whole(8)))


class Whole(Classifier):
    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


def test_teacher_given_as_a_module_is_unchanged(tmp_path):
    model = teacher()
    before = weights(model)
    fit(Classifier(), tmp_path, callback(teacher=model), max_epochs=3)
    assert equal_tensors(before, weights(model))
