"""What a step does with the network's arguments and outputs; how the teacher takes them."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.utils.data import DataLoader

from lightning_kd.losses import HardLabelLoss, HiddenStateMSELoss, LogitMSELoss, SoftTargetLoss
from tests.callbacks.distillation.dropin import (
    CLASSES,
    FEATURES,
    Classifier,
    callback,
    fit,
    make_examples,
    mlp,
    teacher,
)


class FrozenClassifier(Classifier):
    """Learns nothing, so that what is logged is of the weights at the beginning."""

    def __init__(self, model=None):
        super().__init__(lr=0.0)
        self.net = model or self.net


def fit_and_get_logs(tmp_path, module, batch=None, **settings):
    run = fit(module, tmp_path, callback(**settings), DataLoader([batch or make_examples()], batch_size=None))
    return {name.removeprefix("distillation/"): float(value) for name, value in run.logged_metrics.items()}


class Normalizing(nn.Module):
    def __init__(self, inner, in_place):
        super().__init__()
        self.inner, self.in_place = inner, in_place

    def forward(self, inputs):
        if self.in_place:
            inputs -= 5.0
            inputs /= 10.0
            return self.inner(inputs)
        return self.inner((inputs - 5.0) / 10.0)


def test_input_that_the_model_changes_in_place(tmp_path):
    with pytest.raises(ValueError, match=r"an argument of the student, .* \(16, 6\), was changed in place"):
        fit_and_get_logs(tmp_path, FrozenClassifier(Normalizing(mlp(), True)), teacher=Normalizing(teacher(), False))
    with pytest.raises(ValueError, match="an argument of the student"):  # the second is given what the first made of it
        fit_and_get_logs(tmp_path, FrozenClassifier(), teacher=[Normalizing(teacher(), True), teacher()])
    fit_and_get_logs(tmp_path, FrozenClassifier(Normalizing(mlp(), False)), teacher=Normalizing(teacher(), False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, inputs: inputs.zero_(), "an argument of the student"),
        (lambda logits, inputs: logits.div_(2), r"what the student returned, a tensor of the shape \(16, 3\)"),
    ],
)
def test_step_that_changes_in_place(tmp_path, change, message):
    class Changing(FrozenClassifier):
        def training_step(self, batch, batch_idx):
            inputs, labels = batch
            inputs = inputs.clone()
            logits = self.net(inputs)
            loss = cross_entropy(logits * 1, labels)
            change(logits, inputs)
            return loss

    with pytest.raises(ValueError, match=message):
        fit_and_get_logs(tmp_path, Changing())


class Mapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, batch):
        return {"logits": self.inner(batch.pop("x"))}


def test_entries_that_are_popped(tmp_path):
    class Popping(FrozenClassifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self.net(batch).pop("logits"), batch["y"])

    inputs, labels = make_examples()
    found = fit_and_get_logs(tmp_path, Popping(Mapped(mlp())), {"x": inputs, "y": labels}, teacher=Mapped(teacher()))
    assert found["soft"] == pytest.approx(fit_and_get_logs(tmp_path, FrozenClassifier())["soft"])


def test_layer_before_an_activation_in_place(tmp_path):
    found = []
    for in_place in (True, False):
        models = mlp(), teacher()
        for model in models:
            model[1] = nn.ReLU(inplace=in_place)
        settings = {"losses": {"hidden": HiddenStateMSELoss()}, "layers": {"0": "0"}}
        found.append(fit_and_get_logs(tmp_path, FrozenClassifier(models[0]), teacher=models[1], **settings)["hidden"])
    assert found[0] == found[1]


def test_one_score_has_no_softmax(tmp_path):
    class Binary(FrozenClassifier):
        def training_step(self, batch, batch_idx):
            return binary_cross_entropy_with_logits(self.net(batch[0])[:, 0], (batch[1] > 0).float())

    one = {"teacher": nn.Linear(FEATURES, 1)}
    with pytest.raises(ValueError, match=r"losses\.soft: SoftTargetLoss takes a softmax .* 'logits' has one score"):
        fit_and_get_logs(tmp_path, Binary(nn.Linear(FEATURES, 1)), **one)
    model = nn.Linear(FEATURES, 1)
    found = fit_and_get_logs(tmp_path, Binary(model), losses={"mse": LogitMSELoss()}, **one)
    inputs, _ = make_examples()
    assert found["mse"] == pytest.approx((model(inputs) - one["teacher"](inputs)).square().mean().item())


class OtherMaskName(nn.Module):
    """Calls its mask so."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs, keep=None):
        return self.inner(inputs if keep is None else inputs * keep)


class Masked(OtherMaskName):
    """Calls it otherwise."""

    def forward(self, inputs, mask, labels=None):
        return super().forward(inputs, mask)


@pytest.mark.parametrize("by_name", [False, True])
def test_tensor_that_the_teacher_does_not_take(tmp_path, by_name):
    class Masking(FrozenClassifier):
        def training_step(self, batch, batch_idx):
            mask = torch.tensor([0.0, 1, 1, 0, 0, 1])
            logits = self.net(batch[0], mask=mask) if by_name else self.net(batch[0], mask, batch[1])
            return cross_entropy(logits, batch[1])

    message = r"given the tensor 'mask', which OtherMaskName does not take \(it takes inputs, keep\); put the teacher"
    with pytest.raises(ValueError, match=message):
        fit_and_get_logs(tmp_path, Masking(Masked(mlp())), teacher=OtherMaskName(teacher()))
    found = fit_and_get_logs(tmp_path, Masking(Masked(mlp())), teacher=Masked(teacher()))
    assert found.keys() == {"soft", "task_loss", "loss"}


class PositionScores(nn.Module):
    """Scores of positions, by a convolution or by a linear map."""

    def __init__(self, seed, channels_first):
        super().__init__()
        torch.manual_seed(seed)
        self.channels_first, self.scores = channels_first, nn.Conv1d(2, CLASSES, 1)

    def forward(self, inputs):
        scores = self.scores(inputs)
        return scores if self.channels_first else scores.transpose(1, 2)


def test_classes_of_positions_stand_where_the_labels_say(tmp_path):
    class Positions(FrozenClassifier):
        def training_step(self, batch, batch_idx):
            logits = self.net(batch[0])
            return cross_entropy(logits if self.net.channels_first else logits.transpose(1, 2), batch[1])

    batch = torch.randn(4, 2, 5), torch.randint(CLASSES, (4, 5))
    losses = {"soft": SoftTargetLoss(), "hard": HardLabelLoss()}
    second, last = (
        fit_and_get_logs(
            tmp_path,
            Positions(PositionScores(0, second)),
            batch,
            teacher=PositionScores(1, second),
            losses=losses,
            labels=1,
        )
        for second in (True, False)
    )
    assert second == pytest.approx(last)
    assert second["hard"] == pytest.approx(second["task_loss"])
    with pytest.raises(ValueError, match=r"\(4, 3, 5\) may be tokens by classes or classes by positions; name labels="):
        fit_and_get_logs(tmp_path, Positions(PositionScores(0, True)), batch, teacher=PositionScores(1, True))
    square = torch.randn(4, 2, CLASSES), torch.randint(CLASSES, (4, CLASSES))
    with pytest.raises(ValueError, match="may be tokens by classes"):
        fit_and_get_logs(
            tmp_path,
            Positions(PositionScores(0, True)),
            square,
            teacher=PositionScores(1, True),
            losses=losses,
            labels=1,
        )


@pytest.mark.parametrize("reentrant", [True, False])
def test_layer_within_a_checkpoint(tmp_path, reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, _, self.second = mlp()

        def forward(self, inputs):
            inner = torch.utils.checkpoint.checkpoint(
                lambda x: self.first(x).relu(), inputs.requires_grad_(), use_reentrant=reentrant
            )
            return self.second(inner)

    losses = {"soft": SoftTargetLoss(), "hidden": HiddenStateMSELoss()}
    settings = {"losses": losses, "layers": {"first": "0"}}
    if not reentrant:
        assert "hidden" in fit_and_get_logs(tmp_path, FrozenClassifier(Checkpointed()), **settings)
        return
    with pytest.raises(ValueError, match=r"'first' gave an output without gradients.*use_reentrant=False"):
        fit_and_get_logs(tmp_path, FrozenClassifier(Checkpointed()), **settings)
