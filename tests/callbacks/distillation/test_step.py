"""The recorded call of a step: which call counts, what the step may do with it, and how the teacher is called."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lightning_kd.losses import DISTLoss, HardLabelLoss, HiddenStateMSELoss, LogitMSELoss, SoftTargetLoss
from tests.callbacks.distillation.helpers import (
    CLASSES,
    FEATURES,
    HIDDEN,
    Classifier,
    callback,
    equal_tensors,
    fit,
    fit_and_get_logs,
    fit_weights,
    kl,
    make_examples,
    mlp,
    teacher,
)


class CallsTwice(Classifier):
    def training_step(self, batch, batch_idx):
        inputs, labels = batch
        first = self.net(inputs)
        second = self.net(inputs * 2)
        return cross_entropy(first, labels) + cross_entropy(second, labels)


def test_several_calls_need_a_choice(tmp_path):
    with pytest.raises(ValueError, match=r"call: null, .* 'net' 2 times"):
        fit(CallsTwice(), tmp_path, callback())
    with pytest.raises(ValueError, match=r"call: 2, .* 'net' 2 times"):
        fit(CallsTwice(), tmp_path, callback(call=2))


@pytest.mark.parametrize(("call", "factor"), [(0, 1), (-1, 2), (1, 2), (-2, 1)])
def test_selected_call(tmp_path, call, factor):
    class ManualDistillation(CallsTwice):
        def training_step(self, batch, batch_idx):
            inputs = batch[0] * factor
            return super().training_step(batch, batch_idx) + 3.0 * kl(self.net(inputs), model(inputs).detach())

    model, losses = teacher(), {"soft": SoftTargetLoss(3.0)}
    found = fit_weights(CallsTwice(), tmp_path, callback(call=call, losses=losses))
    torch.testing.assert_close(found, fit_weights(ManualDistillation(), tmp_path))


def test_call_without_gradients(tmp_path):
    class MomentumTarget(CallsTwice):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.net(batch[0])
            return Classifier.training_step(self, batch, batch_idx)

    with pytest.raises(ValueError, match=r"call: 0 .*without gradients"):
        fit(MomentumTarget(), tmp_path, callback(call=0))
    fit(MomentumTarget(), tmp_path, callback(call=1))


def test_student_that_is_not_called(tmp_path):
    class CallsForward(Classifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self.net.forward(batch[0]), batch[1])

    with pytest.raises(ValueError, match="student: training_step does not call 'net'"):
        fit(CallsForward(), tmp_path, callback())


def test_later_step_that_does_not_call_the_student_is_left_unchanged(tmp_path):
    class Alternating(Classifier):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                return sum(parameter.square().sum() for parameter in self.parameters())
            return super().training_step(batch, batch_idx)

    found = fit_weights(Alternating(), tmp_path, callback(losses={"soft": SoftTargetLoss(0.0)}))
    assert equal_tensors(found, fit_weights(Alternating(), tmp_path))


def test_frozen_student(tmp_path):
    class WithHead(Classifier):
        def __init__(self):
            super().__init__()
            self.net.requires_grad_(False)
            self.head = nn.Linear(3, 3)

        def training_step(self, batch, batch_idx):
            return cross_entropy(self.head(self.net(batch[0])), batch[1])

    with pytest.warns(UserWarning, match="student: all weights of 'net' are frozen"):
        fit(WithHead(), tmp_path, callback())


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


def test_input_changed_in_place_by_a_model(tmp_path):
    module = Classifier(net=Normalizing(mlp(), True))
    with pytest.raises(ValueError, match=r"student argument of shape \(16, 6\) was changed in place"):
        fit_and_get_logs(tmp_path, module, teacher=Normalizing(teacher(), False))
    with pytest.raises(ValueError, match="student argument"):  # the first teacher changes the input of the second
        fit_and_get_logs(tmp_path, Classifier(), teacher=[Normalizing(teacher(), True), teacher()])
    module = Classifier(net=Normalizing(mlp(), False))
    fit_and_get_logs(tmp_path, module, teacher=Normalizing(teacher(), False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits, inputs: inputs.zero_(), r"student argument of shape \(16, 6\)"),
        (lambda logits, inputs: logits.div_(2), r"student output of shape \(16, 3\)"),
    ],
)
def test_tensor_changed_in_place_by_the_step(tmp_path, change, message):
    class Changing(Classifier):
        def training_step(self, batch, batch_idx):
            inputs, labels = batch
            inputs = inputs.clone()
            logits = self.net(inputs)
            loss = cross_entropy(logits * 1, labels)
            change(logits, inputs)
            return loss

    with pytest.raises(ValueError, match=message):
        fit_and_get_logs(tmp_path, Changing())


def test_entries_that_the_step_pops(tmp_path):
    class TakesMapping(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, batch):
            return {"logits": self.inner(batch.pop("x"))}

    class Popping(Classifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self.net(batch).pop("logits"), batch["y"])

    inputs, labels = make_examples()
    batch, model = {"x": inputs, "y": labels}, TakesMapping(teacher())
    found = fit_and_get_logs(tmp_path, Popping(net=TakesMapping(mlp())), batch, teacher=model)
    assert found["soft"] == pytest.approx(fit_and_get_logs(tmp_path, Classifier())["soft"])


def test_layer_before_an_activation_in_place(tmp_path):
    found = []
    for in_place in (True, False):
        models = mlp(), teacher()
        for model in models:
            model[1] = nn.ReLU(inplace=in_place)
        logs = fit_and_get_logs(tmp_path, Classifier(net=models[0]), teacher=models[1], **HIDDEN)
        found.append(logs["hidden"])
    assert found[0] == found[1]


@pytest.mark.parametrize("reentrant", [True, False])
def test_layer_within_an_activation_checkpoint(tmp_path, reentrant):
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
    module, settings = Classifier(net=Checkpointed()), {"losses": losses, "layers": {"first": "0"}}
    if reentrant:
        with pytest.raises(ValueError, match=r"layers: 'first' .*without gradients.*use_reentrant=False"):
            fit_and_get_logs(tmp_path, module, **settings)
    else:
        assert "hidden" in fit_and_get_logs(tmp_path, module, **settings)


def test_single_logit(tmp_path):
    class Binary(Classifier):
        def training_step(self, batch, batch_idx):
            return binary_cross_entropy_with_logits(self.net(batch[0])[:, 0], (batch[1] > 0).float())

    model, other = nn.Linear(FEATURES, 1), nn.Linear(FEATURES, 1)
    with pytest.raises(ValueError, match=r"SoftTargetLoss.*'logits'.*LogitMSELoss"):
        fit_and_get_logs(tmp_path, Binary(net=nn.Linear(FEATURES, 1)), teacher=other)
    found = fit_and_get_logs(tmp_path, Binary(lr=0.0, net=model), teacher=other, losses={"mse": LogitMSELoss()})
    inputs, _ = make_examples()
    assert found["mse"] == pytest.approx((model(inputs) - other(inputs)).square().mean().item())


@pytest.mark.parametrize("loss", [SoftTargetLoss(standardize=True), DISTLoss()])
def test_two_classes(tmp_path, loss):
    class Binary(Classifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self.net(batch[0]), (batch[1] > 0).long())

    is_error, module = isinstance(loss, SoftTargetLoss), Binary(net=nn.Linear(FEATURES, 2))
    message = r"^DistillationCallback\.losses\.loss\w*\.(standardize|inter_weight): "
    with pytest.raises(ValueError, match=message) if is_error else pytest.warns(UserWarning, match=message):
        fit_and_get_logs(tmp_path, module, teacher=nn.Linear(FEATURES, 2), losses={"loss_2": loss})


class TakesKeep(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs, keep=None):
        return self.inner(inputs if keep is None else inputs * keep)


class TakesMask(TakesKeep):
    def forward(self, inputs, mask, labels=None):
        return super().forward(inputs, mask)


@pytest.mark.parametrize("by_name", [False, True])
def test_tensor_that_the_teacher_does_not_accept(tmp_path, by_name):
    class Masking(Classifier):
        def training_step(self, batch, batch_idx):
            mask = torch.tensor([0.0, 1, 1, 0, 0, 1])
            logits = self.net(batch[0], mask=mask) if by_name else self.net(batch[0], mask, batch[1])
            return cross_entropy(logits, batch[1])

    with pytest.raises(ValueError, match=r"teacher: TakesKeep .*'mask' .*inputs, keep"):
        fit_and_get_logs(tmp_path, Masking(net=TakesMask(mlp())), teacher=TakesKeep(teacher()))
    found = fit_and_get_logs(tmp_path, Masking(net=TakesMask(mlp())), teacher=TakesMask(teacher()))
    assert found.keys() == {"soft", "task_loss", "loss"}


class PositionClassifier(nn.Module):
    """Returns logits of positions, (B, C, L) or (B, L, C)."""

    def __init__(self, seed, channels_first):
        super().__init__()
        torch.manual_seed(seed)
        self.channels_first, self.scores = channels_first, nn.Conv1d(2, CLASSES, 1)

    def forward(self, inputs):
        scores = self.scores(inputs)
        return scores if self.channels_first else scores.transpose(1, 2)


def test_labels_show_the_class_dimension_of_positions(tmp_path):
    class Positions(Classifier):
        def training_step(self, batch, batch_idx):
            logits = self.net(batch[0])
            return cross_entropy(logits if self.net.channels_first else logits.transpose(1, 2), batch[1])

    def run(batch, channels_first=True, **settings):
        models = (PositionClassifier(seed, channels_first) for seed in (0, 1))
        return fit_and_get_logs(tmp_path, Positions(net=next(models)), batch, teacher=next(models), **settings)

    batch = torch.randn(4, 2, 5), torch.randint(CLASSES, (4, 5))
    settings = {"losses": {"soft": SoftTargetLoss(), "hard": HardLabelLoss()}, "labels": 1}
    first, last = (run(batch, channels_first, **settings) for channels_first in (True, False))
    assert first == pytest.approx(last)
    assert first["hard"] == pytest.approx(first["task_loss"])
    with pytest.raises(ValueError, match=r"logits: 'logits' of shape \(4, 3, 5\) may be"):
        run(batch)
    square = torch.randn(4, 2, CLASSES), torch.randint(CLASSES, (4, CLASSES))
    with pytest.raises(ValueError, match=r"logits: 'logits' of shape \(4, 3, 3\) may be"):
        run(square, **settings)
