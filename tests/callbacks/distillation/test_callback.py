"""The teacher that a callback adds: what is learnt, what is logged, and what stays as it was."""

import math

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch.nn.functional import cross_entropy, kl_div

from lightning_kd.losses import DecoupledKDLoss, HardLabelLoss, LogitMSELoss, SoftTargetLoss, decoupled_kd_loss
from lightning_kd.training.loss_schedules import Schedule
from tests.callbacks.distillation.dropin import (
    Classifier,
    callback,
    equal_tensors,
    fit,
    loader,
    teacher,
    train_manually,
    weights,
)


def soft(logits, targets, temperature=2.0):
    """By PyTorch's divergence."""
    p, q = (scores / temperature for scores in (targets, logits))
    return kl_div(q.log_softmax(-1), p.log_softmax(-1), reduction="batchmean", log_target=True) * temperature**2


def test_student_equals_a_manual_training_loop(tmp_path):
    module = Classifier()
    fit(module, tmp_path, callback(), max_epochs=3)
    expected = train_manually(Classifier(), teacher(), lambda own, other: 0.7 * soft(own, other), 3)
    torch.testing.assert_close(weights(module), weights(expected))
    alone = Classifier()
    fit(alone, tmp_path, max_epochs=3)
    assert not equal_tensors(weights(module), weights(alone))


class RecordLogs(Callback):
    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.steps.append({name: float(value) for name, value in trainer.logged_metrics.items()})


def test_logging_of_the_module_stays_and_the_terms_sum_to_the_loss(tmp_path):
    spy, alone = RecordLogs(), RecordLogs()
    losses = {"soft": SoftTargetLoss(0.7, 2.0), "logits": LogitMSELoss(0.2), "hard": HardLabelLoss(0.1)}
    fit(Classifier(), tmp_path, callback(losses=losses, labels=1), callbacks=[spy])
    fit(Classifier(), tmp_path, callbacks=[alone])
    assert spy.steps[0]["train_loss"] == alone.steps[0]["train_loss"]
    for step in spy.steps:
        parts = {name.removeprefix("distillation/"): value for name, value in step.items() if "/" in name}
        assert parts.keys() == {"soft", "logits", "hard", "task_loss", "loss"}
        assert parts["task_loss"] == step["train_loss"] == pytest.approx(parts["hard"])
        added = 0.7 * parts["soft"] + 0.2 * parts["logits"] + 0.1 * parts["hard"]
        assert parts["loss"] == pytest.approx(parts["task_loss"] + added)


def test_weight_zero_changes_nothing_at_all(tmp_path):
    """Dropout and shuffling draw the same numbers, too."""

    class Dropping(Classifier):
        def training_step(self, batch, batch_idx):
            inputs = torch.nn.functional.dropout(batch[0], 0.3)
            return cross_entropy(self.net(inputs), batch[1])

    with_teacher, alone = Dropping(), Dropping()
    fit(with_teacher, tmp_path, callback(losses={"soft": SoftTargetLoss(0.0)}), max_epochs=2)
    fit(alone, tmp_path, max_epochs=2)
    assert equal_tensors(weights(with_teacher), weights(alone))


def test_teacher_stays_frozen_in_eval_mode_and_as_it_was(tmp_path):
    model = torch.nn.Sequential(teacher(), torch.nn.Dropout(0.5)).train()
    before = weights(model)

    class Spy(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            pl_module.train()

        def on_after_backward(self, trainer, pl_module):
            assert not model.training
            assert not any(part.training for part in model.modules())
            assert all(p.grad is None and not p.requires_grad for p in model.parameters())

    fit(Classifier(), tmp_path, callback(teacher=model), callbacks=[Spy()])
    assert equal_tensors(before, weights(model))


def test_step_of_the_module_is_restored(tmp_path):
    module = Classifier()
    before = dict(module.__dict__)
    fit(module, tmp_path, callback())
    assert module.__dict__.keys() == before.keys()
    assert not module.net._forward_hooks

    class Broken(Callback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit(module, tmp_path, callback(), callbacks=[Broken()])
    assert module.__dict__.keys() == before.keys()
    assert module.training_step.__func__ is Classifier.training_step


def test_step_of_the_instance_is_restored(tmp_path):
    module = Classifier()
    own = module.training_step
    module.training_step = lambda batch, batch_idx: own(batch, batch_idx)
    step = module.training_step
    fit(module, tmp_path, callback())
    assert module.training_step is step


def test_step_may_return_a_dict_or_nothing(tmp_path):
    class Skipping(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return {"loss": loss, "extra": batch_idx} if batch_idx else None

    class Outputs(Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.seen.append(outputs)

    spy, module = Outputs(), Skipping()
    with pytest.warns(UserWarning, match="returned `None`"):
        run = fit(module, tmp_path, callback(), callbacks=[spy])
    assert not spy.seen[0]
    assert spy.seen[1]["extra"] == 1
    assert float(spy.seen[1]["loss"]) == float(run.logged_metrics["distillation/loss"])
    expected = train_manually(Classifier(), teacher(), lambda own, other: 0.7 * soft(own, other), 1, list(loader())[1:])
    torch.testing.assert_close(weights(module), weights(expected))


def test_validating_with_the_training_step_calls_no_teacher(tmp_path):
    class Same(Classifier):
        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.training_step(batch, batch_idx))

    def run(*callbacks):
        module = Same(lr=0.0)
        found = fit(module, tmp_path, *callbacks, data=None, num_sanity_val_steps=1)
        found.validate(module, loader(), verbose=False)
        return float(found.callback_metrics["val_loss"])

    Same.val_dataloader = lambda self: loader()
    assert run(callback()) == run()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_term_that_is_not_finite_is_named(tmp_path, value):
    model = teacher()
    with torch.no_grad():
        model[2].bias[0] = value
    with pytest.raises(FloatingPointError, match=r"distillation/logits is (nan|inf) in epoch 0, step 0"):
        fit(Classifier(), tmp_path, callback(teacher=model, losses={"logits": LogitMSELoss()}))


def test_loss_that_reads_teacher_and_labels(tmp_path):
    module = Classifier(lr=0.0)
    losses = {"decoupled": DecoupledKDLoss(1.0, temperature=2.0)}
    run = fit(module, tmp_path, callback(losses=losses, labels=1), loader(16))
    inputs, labels = next(iter(loader(16)))
    options = losses["decoupled"]
    expected = decoupled_kd_loss(
        module.net(inputs), teacher()(inputs), labels, 2.0, options.target_weight, options.nontarget_weight
    )
    assert float(run.logged_metrics["distillation/decoupled"]) == pytest.approx(expected.item(), rel=1e-5)


def test_temperature_and_weight_that_change_over_the_run(tmp_path):
    schedules = {"soft": {"weight": Schedule(1.0, 0.0), "temperature": Schedule(1.0, 5.0)}}
    spy, module = RecordLogs(), Classifier(lr=0.0)
    fit(
        module,
        tmp_path,
        callback(losses={"soft": SoftTargetLoss()}, loss_schedules=schedules),
        callbacks=[spy],
        max_epochs=2,
    )
    assert [step["distillation/soft_weight"] for step in spy.steps] == [1.0, 0.75, 0.5, 0.25]
    assert [step["distillation/soft_temperature"] for step in spy.steps] == [1.0, 2.0, 3.0, 4.0]
    for step, (inputs, _) in zip(spy.steps, [*loader(), *loader()], strict=True):
        expected = soft(module.net(inputs), teacher()(inputs), step["distillation/soft_temperature"])
        assert step["distillation/soft"] == pytest.approx(expected.item(), rel=1e-4)
        added = step["distillation/soft_weight"] * step["distillation/soft"]
        assert step["distillation/loss"] == pytest.approx(step["distillation/task_loss"] + added)


def test_accumulation_is_a_larger_batch(tmp_path):
    module, whole = Classifier(), Classifier()
    fit(module, tmp_path, callback(), loader(4), accumulate_grad_batches=2, max_epochs=2)
    fit(whole, tmp_path, callback(), loader(8), max_epochs=2)
    torch.testing.assert_close(weights(module), weights(whole))


def test_model_that_is_the_module_itself(tmp_path):
    class Whole(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Classifier().net

        def forward(self, inputs):
            return self.net(inputs)

        def training_step(self, batch):
            return cross_entropy(self(batch[0]), batch[1])

        configure_optimizers = Classifier.configure_optimizers

    Whole.hparams = Classifier().hparams
    whole, part = Whole(), Classifier()
    fit(whole, tmp_path, callback(student=""))
    fit(part, tmp_path, callback())
    assert equal_tensors(weights(whole), weights(part))
