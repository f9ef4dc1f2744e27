"""Modules, callbacks and teachers beside which the callback keeps to its own."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import BackboneFinetuning, Callback
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.optimization import Adafactor

from lightning_kd.losses import HardLabelLoss, HiddenStateMSELoss, LogitMSELoss, SoftTargetLoss
from lightning_kd.training.loss_schedules import Schedule
from tests.callbacks.distillation.dropin import Classifier, callback, equal_tensors, fit, mlp, teacher, weights

HIDDEN = {"losses": {"hidden": HiddenStateMSELoss()}, "layers": {"0": "0"}}


class WithOptimizer(Classifier):
    def __init__(self, build):
        super().__init__()
        self.build = build

    def configure_optimizers(self):
        return self.build(self)


def trainable_and_training(model):
    return [p.requires_grad for p in model.parameters()], [part.training for part in model.modules()]


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: {"ensemble": [model, mlp(16)]}])
def test_training_state_of_the_teacher_is_restored(tmp_path, wrap):
    model = nn.Sequential(teacher(), nn.Dropout()).train()
    model[0][0].requires_grad_(False)
    model[1].eval()
    before = trainable_and_training(model)
    fit(Classifier(), tmp_path, callback(teacher=wrap(model)))
    assert trainable_and_training(model) == before

    class Broken(Classifier):
        def training_step(self, batch, batch_idx):
            assert trainable_and_training(model) == ([False] * 4, [False] * 6)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fit(Broken(), tmp_path, callback(teacher=wrap(model)))
    assert trainable_and_training(model) == before
    with pytest.raises(ValueError, match="no '9'"):
        fit(Classifier(), tmp_path, callback(teacher=model, **{**HIDDEN, "layers": {"9": "0"}}))
    assert trainable_and_training(model) == before


def test_teachers_within_mappings(tmp_path):
    module = Classifier()
    with pytest.raises(ValueError, match="has weights of the student"):
        fit(module, tmp_path, callback(teacher={"ensemble": [mlp(16), module.net]}))
    assert all(parameter.requires_grad for parameter in module.parameters())
    large = Classifier(hidden=32, lr=0.0)
    fit(large, tmp_path).save_checkpoint(tmp_path / "large.ckpt")
    path, found = str(tmp_path / "large.ckpt"), []
    for given in (path, {"pretrained": path}, [path], (path,), {"ensemble": [path]}, {"ensemble": [large]}):
        run = fit(Classifier(lr=0.0), tmp_path, callback(teacher=given, losses={"mse": LogitMSELoss()}))
        found.append(float(run.logged_metrics["distillation/mse"]))
    assert found == pytest.approx([found[0]] * 6)
    with pytest.raises(ValueError, match=r"teacher: null; give a hub id, a folder, a checkpoint or a network"):
        fit(Classifier(), tmp_path, callback(teacher=None))


def test_finetuning_callbacks_go_with_losses_that_have_no_projection(tmp_path):
    class WithBackbone(Classifier):
        def __init__(self):
            super().__init__()
            self.backbone = self.net[0]

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    unfreezing = BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)
    with pytest.raises(ValueError, match="have projections, and BackboneFinetuning takes all parameters"):
        fit(WithBackbone(), tmp_path, callback(**HIDDEN), callbacks=[unfreezing])
    unfreezing = BackboneFinetuning(unfreeze_backbone_at_epoch=1, verbose=False)
    run = fit(WithBackbone(), tmp_path, callback(), callbacks=[unfreezing], max_epochs=2)
    assert run.global_step == 4


def test_precision_is_the_students(tmp_path):
    class Half(Classifier):
        def __init__(self):
            super().__init__()
            self.net, net = nn.Module(), self.net  # so that what is half comes first
            self.aside = nn.Linear(2, 2).half().requires_grad_(False)
            del self.net
            self.net = net

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    distillation = callback(**HIDDEN)
    module = Half()
    assert next(module.parameters()).dtype == torch.float16
    fit(module, tmp_path, distillation)
    assert [p.dtype for p in distillation._terms.parameters()] == [torch.float32]


def test_optimizer_that_chooses_its_rate_takes_the_projection(tmp_path):
    module = WithOptimizer(lambda module: Adafactor(module.parameters(), lr=None))
    distillation = callback(**HIDDEN)
    before = []

    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            before.extend(p.detach().clone() for p in distillation._terms.parameters())

    fit(module, tmp_path, distillation, callbacks=[Watch()])
    (after,) = distillation._terms.parameters()
    assert not torch.equal(before[0], after)


def test_projection_without_an_optimizer(tmp_path):
    with pytest.warns(UserWarning, match="no optimizer"), pytest.raises(ValueError, match="returns no optimiser that"):
        fit(WithOptimizer(lambda module: None), tmp_path, callback(**HIDDEN))


class Fetching(Classifier):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
def test_step_that_fetches_its_batches(tmp_path):
    run = fit(Fetching(), tmp_path, callback())
    assert "distillation/soft" in run.logged_metrics
    with pytest.raises(ValueError, match=r"labels: training_step fetches its batches itself \(dataloader_iter\)"):
        fit(Fetching(), tmp_path, callback(losses={"hard": HardLabelLoss()}, labels=1))


def test_module_that_logs_in_a_way_of_its_own(tmp_path):
    class Prefixed(Classifier):
        def log_dict(self, metrics, prefix):
            super().log_dict({prefix + name: value for name, value in metrics.items()})

    assert "distillation/soft" in fit(Prefixed(), tmp_path, callback()).logged_metrics


def test_teacher_draws_no_numbers_of_the_module(tmp_path):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = teacher()

        def forward(self, inputs):
            return self.inner(inputs + torch.randn_like(inputs))

    class Dropping(Classifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self.net(nn.functional.dropout(batch[0], 0.3)), batch[1])

    with_teacher, alone = Dropping(), Dropping()
    losses = {"soft": SoftTargetLoss(0.0)}
    fit(with_teacher, tmp_path, callback(teacher=Noisy(), losses=losses), max_epochs=2)
    fit(alone, tmp_path, max_epochs=2)
    assert equal_tensors(weights(with_teacher), weights(alone))


def test_teacher_is_not_called_when_its_schedules_have_ended(tmp_path):
    model, asked = teacher(), []
    model.register_forward_hook(lambda *_: asked.append(1))
    losses = {"soft": SoftTargetLoss(), "hard": HardLabelLoss()}
    schedules = {"soft": {"weight": Schedule(1.0, 0.0, until=0.5)}}
    added = callback(teacher=model, losses=losses, labels=1, loss_schedules=schedules)
    run = fit(Classifier(), tmp_path, added, max_epochs=2)
    assert len(asked) == 2  # of four steps
    assert float(run.logged_metrics["distillation/soft_weight"]) == 0
    assert float(run.logged_metrics["distillation/loss"]) == pytest.approx(
        2 * float(run.logged_metrics["distillation/task_loss"])
    )
    asked.clear()
    fit(Classifier(), tmp_path, callback(teacher=model, losses={"soft": SoftTargetLoss(0.0)}))
    assert len(asked) == 2  # a weight that stays 0 is there to be looked at


def test_student_that_is_frozen(tmp_path):
    class Headed(Classifier):
        def __init__(self):
            super().__init__()
            self.net.requires_grad_(False)
            self.head = nn.Linear(3, 3)

        def training_step(self, batch, batch_idx):
            return cross_entropy(self.head(self.net(batch[0])), batch[1])

    with pytest.warns(UserWarning, match="all weights of 'net' are frozen, so it learns nothing"):
        fit(Headed(), tmp_path, callback())


class Towers(LightningModule):
    def __init__(self):
        super().__init__()
        self.image, self.text = mlp(), mlp(seed=1)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.image(batch[0]), batch[1]) + cross_entropy(self.text(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("backwards", [False, True])
def test_two_towers(tmp_path, backwards):
    model = teacher()
    both = [callback(student=name, teacher=model, **HIDDEN) for name in ("image", "text")]

    class Early(Callback):
        """Lets go of them in the other order."""

        def on_fit_end(self, trainer, pl_module):
            for one in reversed(both) if backwards else both:
                one.teardown(trainer, pl_module, "fit")
                steps.append("training_step" in pl_module.__dict__)

    steps, module = [], Towers()
    run = fit(module, tmp_path, callbacks=[*both, Early()])
    assert {name for name in run.logged_metrics if "/" in name} == {
        f"distillation/{tower}/{name}" for tower in ("image", "text") for name in ("hidden", "task_loss", "loss")
    }
    assert steps == [True, False]
    assert "training_step" not in module.__dict__
    assert all(parameter.requires_grad for parameter in model.parameters())
    run.save_checkpoint(tmp_path / "towers.ckpt")
    saved = torch.load(tmp_path / "towers.ckpt", weights_only=True)["callbacks"]
    found = [value["losses"]["hidden"][0] for key, value in saved.items() if "Distillation" in key]
    own = [one.state_dict()["losses"]["hidden"][0] for one in both]
    assert all(equal_tensors(one, two) for one, two in zip(found, own, strict=True))


def test_step_of_another_task_is_left_as_it_is(tmp_path):
    class Alternating(Classifier):
        def training_step(self, batch, batch_idx):
            if batch_idx == self.other:
                return sum(parameter.square().sum() for parameter in self.parameters())
            return super().training_step(batch, batch_idx)

    module, alone = Alternating(), Alternating()
    module.other = alone.other = 1
    fit(module, tmp_path, callback(losses={"soft": SoftTargetLoss(0.0)}))
    fit(alone, tmp_path)
    assert equal_tensors(weights(module), weights(alone))
    module.other = 0
    with pytest.raises(ValueError, match="training_step does not call 'net'"):
        fit(module, tmp_path, callback())


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (SoftTargetLoss(), "losses: must be a mapping of names to losses, such as .*, got SoftTargetLoss"),
        ([SoftTargetLoss()], "must be a mapping .*, got list"),
        ({"a": nn.MSELoss()}, r"losses\.a: MSELoss is none of lightning_kd\.losses"),
    ],
)
def test_losses_of_the_wrong_type(losses, message):
    with pytest.raises(ValueError, match=message):
        callback(losses=losses)


def test_index_of_labels_from_the_shell_is_a_number():
    from jsonargparse import ArgumentParser

    from lightning_kd import DistillationCallback

    parser = ArgumentParser()
    parser.add_class_arguments(DistillationCallback, skip={"losses"})
    assert parser.parse_args(["--student=net", "--teacher=x", "--labels=1", "--logits=0"]).labels == 1
    assert parser.parse_args(["--student=net", "--teacher=x", "--labels=y"]).labels == "y"
    assert parser.parse_args(["--student=net", "--teacher=x", "--labels=[1,y]"]).labels == [1, "y"]
