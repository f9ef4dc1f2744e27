"""A module with a teacher: its weights, its logs, and everything that stays as it was."""

import math

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning, Callback
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_kd import DistillationCallback
from lightning_kd.losses import DecoupledKDLoss, HardLabelLoss, LogitMSELoss, SoftTargetLoss, decoupled_kd_loss
from lightning_kd.training.loss_schedules import Schedule
from tests.callbacks.distillation.helpers import (
    HIDDEN,
    Classifier,
    DropoutClassifier,
    ManualDistillation,
    callback,
    equal_tensors,
    fit,
    fit_weights,
    kl,
    loader,
    mlp,
    teacher,
    weights,
)


def weighted_kl(logits, targets):
    return 0.7 * kl(logits, targets, 2.0)


def test_student_equals_that_of_a_step_with_a_teacher(tmp_path):
    found = fit_weights(Classifier(), tmp_path, callback(), max_epochs=3)
    torch.testing.assert_close(found, fit_weights(ManualDistillation(weighted_kl), tmp_path, max_epochs=3))


class RecordLogs(Callback):
    def __init__(self):
        self.steps, self.outputs = [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({name: float(value) for name, value in trainer.logged_metrics.items()})
        self.outputs.append(outputs)


def test_logging_of_the_module_stays_and_the_terms_sum_to_the_loss(tmp_path):
    logs, alone = RecordLogs(), RecordLogs()
    losses = {"soft": SoftTargetLoss(0.7, 2.0), "logits": LogitMSELoss(0.2), "hard": HardLabelLoss(0.1)}
    fit(Classifier(), tmp_path, callback(losses=losses, labels=1), callbacks=[logs])
    fit(Classifier(), tmp_path, callbacks=[alone])
    assert logs.steps[0]["train_loss"] == alone.steps[0]["train_loss"]
    for step in logs.steps:
        parts = {name.removeprefix("distillation/"): value for name, value in step.items() if "/" in name}
        assert parts.keys() == {"soft", "logits", "hard", "task_loss", "loss"}
        assert parts["task_loss"] == step["train_loss"] == pytest.approx(parts["hard"])
        added = 0.7 * parts["soft"] + 0.2 * parts["logits"] + 0.1 * parts["hard"]
        assert parts["loss"] == pytest.approx(parts["task_loss"] + added)


class NoisyTeacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = teacher()

    def forward(self, inputs):
        return self.inner(inputs + torch.randn_like(inputs))


@pytest.mark.parametrize("build_teacher", [teacher, NoisyTeacher])
def test_weight_zero_changes_neither_weights_nor_random_numbers(tmp_path, build_teacher):
    added = callback(teacher=build_teacher(), losses={"soft": SoftTargetLoss(0.0)})
    found = fit_weights(DropoutClassifier(), tmp_path, added, max_epochs=2)
    assert equal_tensors(found, fit_weights(DropoutClassifier(), tmp_path, max_epochs=2))


class Broken(Callback):
    def on_train_batch_end(self, *args):
        raise RuntimeError("stop")


def trainable_and_training(model):
    return [p.requires_grad for p in model.parameters()], [part.training for part in model.modules()]


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"ensemble": [model, mlp(16)]}])
def test_teacher_is_frozen_in_eval_mode_and_restored_afterwards(tmp_path, wrap):
    model = nn.Sequential(teacher(), nn.Dropout()).train()
    model[0][0].requires_grad_(False)
    model[1].eval()
    before, state = weights(model), trainable_and_training(model)

    class CheckFrozen(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            pl_module.train()

        def on_after_backward(self, trainer, pl_module):
            assert trainable_and_training(model) == ([False] * 4, [False] * 6)
            assert all(parameter.grad is None for parameter in model.parameters())

    fit(Classifier(), tmp_path, callback(teacher=wrap(model)), callbacks=[CheckFrozen()])
    assert equal_tensors(before, weights(model))
    assert trainable_and_training(model) == state
    with pytest.raises(RuntimeError, match="stop"):
        fit(Classifier(), tmp_path, callback(teacher=wrap(model)), callbacks=[Broken()])
    assert trainable_and_training(model) == state
    with pytest.raises(ValueError, match=r"layers: .*'9'"):
        fit(Classifier(), tmp_path, callback(teacher=model, **{**HIDDEN, "layers": {"9": "0"}}))
    assert trainable_and_training(model) == state


def test_training_step_is_restored(tmp_path):
    module = Classifier()
    before = set(module.__dict__)
    fit(module, tmp_path, callback())
    assert module.__dict__.keys() == before
    assert not module.net._forward_hooks
    with pytest.raises(RuntimeError, match="stop"):
        fit(module, tmp_path, callback(), callbacks=[Broken()])
    assert module.__dict__.keys() == before
    assert module.training_step.__func__ is Classifier.training_step

    original = module.training_step
    module.training_step = step = lambda batch, batch_idx: original(batch, batch_idx)
    fit(module, tmp_path, callback())
    assert module.training_step is step


def test_step_may_return_a_dict_or_nothing(tmp_path):
    class Skipping(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss, "extra": batch_idx} if batch_idx else None

    logs, module = RecordLogs(), Skipping()
    with pytest.warns(UserWarning, match="returned `None`"):
        run = fit(module, tmp_path, callback(), callbacks=[logs])
    assert not logs.outputs[0]
    assert logs.outputs[1]["extra"] == 1
    assert float(logs.outputs[1]["loss"]) == float(run.logged_metrics["distillation/loss"])
    batches = DataLoader(list(loader())[1:], batch_size=None)
    torch.testing.assert_close(weights(module), fit_weights(ManualDistillation(weighted_kl), tmp_path, data=batches))


def test_validation_by_the_training_step_calls_no_teacher(tmp_path):
    class ValidatesByTrainingStep(Classifier):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.training_step(batch, batch_idx))

        def val_dataloader(self):
            return loader()

    def run(*callbacks):
        module = ValidatesByTrainingStep(lr=0.0)
        found = fit(module, tmp_path, *callbacks, num_sanity_val_steps=1)
        found.validate(module, loader(), verbose=False)
        return float(found.callback_metrics["val_loss"])

    assert run(callback()) == run()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("broken", ["teacher", "student"])
def test_model_that_is_not_finite_is_named(tmp_path, value, broken):
    module, model = Classifier(), teacher()
    with torch.no_grad():
        (model if broken == "teacher" else module.net)[2].bias[0] = value
    names = {
        "teacher": "teacher 'Sequential' returned NaN or infinite values",
        "student": "distillation/logits is (nan|inf)",
    }
    with pytest.raises(FloatingPointError, match=rf"^({names[broken]}) in epoch 0, step 0; "):
        fit(module, tmp_path, callback(teacher=model, losses={"logits": LogitMSELoss()}))


def test_loss_that_reads_teacher_and_labels(tmp_path):
    module, loss = Classifier(lr=0.0), DecoupledKDLoss(1.0, temperature=2.0)
    run = fit(module, tmp_path, callback(losses={"decoupled": loss}, labels=1), loader(16))
    inputs, labels = next(iter(loader(16)))
    logits = module.net(inputs), teacher()(inputs)
    expected = decoupled_kd_loss(*logits, labels, 2.0, loss.target_weight, loss.nontarget_weight)
    assert float(run.logged_metrics["distillation/decoupled"]) == pytest.approx(expected.item(), rel=1e-5)


def test_loss_schedules(tmp_path):
    schedules = {"soft": {"weight": Schedule(1.0, 0.0), "temperature": Schedule(1.0, 5.0)}}
    logs, module = RecordLogs(), Classifier(lr=0.0)
    added = callback(losses={"soft": SoftTargetLoss()}, loss_schedules=schedules)
    fit(module, tmp_path, added, callbacks=[logs], max_epochs=2)
    assert [step["distillation/soft_weight"] for step in logs.steps] == [1.0, 0.75, 0.5, 0.25]
    assert [step["distillation/soft_temperature"] for step in logs.steps] == [1.0, 2.0, 3.0, 4.0]
    for step, (inputs, _) in zip(logs.steps, [*loader(), *loader()], strict=True):
        expected = kl(module.net(inputs), teacher()(inputs), step["distillation/soft_temperature"])
        assert step["distillation/soft"] == pytest.approx(expected.item(), rel=1e-4)
        weighted = step["distillation/soft_weight"] * step["distillation/soft"]
        assert step["distillation/loss"] == pytest.approx(step["distillation/task_loss"] + weighted)


def test_teacher_is_not_called_after_its_schedules_reach_zero(tmp_path):
    model, calls = teacher(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    losses = {"soft": SoftTargetLoss(), "hard": HardLabelLoss()}
    schedules = {"soft": {"weight": Schedule(1.0, 0.0, until=0.5)}}
    added = callback(teacher=model, losses=losses, labels=1, loss_schedules=schedules)
    logs = fit(Classifier(), tmp_path, added, max_epochs=2).logged_metrics
    assert len(calls) == 2  # of four steps
    assert float(logs["distillation/soft_weight"]) == 0
    assert float(logs["distillation/loss"]) == pytest.approx(2 * float(logs["distillation/task_loss"]))
    calls.clear()
    fit(Classifier(), tmp_path, callback(teacher=model, losses={"soft": SoftTargetLoss(0.0)}))
    assert len(calls) == 2  # a constant weight of 0 still logs the loss


def test_student_that_is_the_module_itself(tmp_path):
    class CallsItself(Classifier):
        def forward(self, inputs):
            return self.net(inputs)

        def training_step(self, batch):
            return cross_entropy(self(batch[0]), batch[1])

    part = fit_weights(Classifier(), tmp_path, callback())
    assert equal_tensors(fit_weights(CallsItself(), tmp_path, callback(student="")), part)
    whole_teacher = callback(student="", teacher=CallsItself(32))
    assert not equal_tensors(fit_weights(CallsItself(), tmp_path, whole_teacher), part)


def test_finetuning_callbacks_support_losses_without_projections(tmp_path):
    class WithBackbone(Classifier):
        def __init__(self):
            super().__init__()
            self.backbone = self.net[0]

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    def unfreezing():
        return BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)

    with pytest.raises(ValueError, match=r"losses: BackboneFinetuning .* projections"):
        fit(WithBackbone(), tmp_path, callback(**HIDDEN), callbacks=[unfreezing()])
    run = fit(WithBackbone(), tmp_path, callback(), callbacks=[unfreezing()], max_epochs=2)
    assert run.global_step == 4


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
def test_step_that_fetches_its_batches(tmp_path):
    class Fetching(Classifier):
        def training_step(self, dataloader_iter):
            batch, _, _ = next(dataloader_iter)
            return cross_entropy(self.net(batch[0]), batch[1])

    assert "distillation/soft" in fit(Fetching(), tmp_path, callback()).logged_metrics
    with pytest.raises(ValueError, match=r"labels: .*dataloader_iter"):
        fit(Fetching(), tmp_path, callback(losses={"hard": HardLabelLoss()}, labels=1))


def test_module_whose_log_has_another_signature(tmp_path):
    class Prefixed(Classifier):
        def log(self, name, value):
            super().log(f"mine/{name}", value)

    assert {"distillation/soft", "mine/train_loss"} <= fit(Prefixed(), tmp_path, callback()).logged_metrics.keys()


class TwoTowers(LightningModule):
    def __init__(self):
        super().__init__()
        self.image, self.text = mlp(), mlp(seed=1)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.image(batch[0]), batch[1]) + cross_entropy(self.text(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("reverse", [False, True])
def test_two_callbacks(tmp_path, reverse):
    model = teacher()
    both = [callback(student=name, teacher=model, **HIDDEN) for name in ("image", "text")]
    patched = []

    class TearDown(Callback):
        def on_fit_end(self, trainer, pl_module):
            for one in reversed(both) if reverse else both:
                one.teardown(trainer, pl_module, "fit")
                patched.append("training_step" in pl_module.__dict__)

    module = TwoTowers()
    run = fit(module, tmp_path, callbacks=[*both, TearDown()])
    assert {name for name in run.logged_metrics if "/" in name} == {
        f"distillation/{tower}/{name}" for tower in ("image", "text") for name in ("hidden", "task_loss", "loss")
    }
    assert patched == [True, False]
    assert "training_step" not in module.__dict__
    assert all(parameter.requires_grad for parameter in model.parameters())
    run.save_checkpoint(tmp_path / "towers.ckpt")
    saved = torch.load(tmp_path / "towers.ckpt", weights_only=True)["callbacks"]
    found = [value["losses"]["hidden"][0] for key, value in saved.items() if "Distillation" in key]
    expected = [one.state_dict()["losses"]["hidden"][0] for one in both]
    assert all(equal_tensors(one, two) for one, two in zip(found, expected, strict=True))


def test_index_on_the_command_line_is_a_number():
    parser = ArgumentParser()
    parser.add_class_arguments(DistillationCallback, skip={"losses"})
    for text, value in (("1", 1), ("y", "y"), ("[1,y]", [1, "y"])):
        assert parser.parse_args(["--student=net", "--teacher=x", f"--labels={text}"]).labels == value
