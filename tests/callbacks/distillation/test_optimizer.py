"""Projections: in the user's optimiser and its schedule from the start, in the callback's state, in no state dict."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adagrad, AdamW, lr_scheduler

from lightning_kd.losses import HiddenStateMSELoss, SoftTargetLoss
from tests.callbacks.distillation.dropin import (
    Classifier,
    callback,
    equal_tensors,
    fit,
    loader,
    make_examples,
    teacher,
    weights,
)
from tests.helpers import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]

LAYERS = {"0": "0"}
STEPS = 6  # three epochs of two


def hidden(**settings):
    losses = {"soft": SoftTargetLoss(0.5), "hidden": HiddenStateMSELoss(0.5)}
    return callback(losses=losses, layers=LAYERS, **settings)


class Scheduled(Classifier):
    """A module that builds its optimiser and schedule as told."""

    def __init__(self, build):
        super().__init__()
        self.build = build

    def configure_optimizers(self):
        return self.build(self)


def two_groups(module, optimizer=SGD):
    body, head = module.net[0], module.net[2]
    return optimizer([{"params": body.parameters(), "lr": 0.01}, {"params": head.parameters(), "lr": 0.1}])


def lambdas(module):
    optimizer = two_groups(module)
    schedule = lr_scheduler.LambdaLR(optimizer, [lambda step: step / 10, lambda step: step / 5])
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def one_cycle(module):
    optimizer = two_groups(module)
    schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=[0.01, 0.1], total_steps=STEPS + 1)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


BUILDS = {
    "plain": lambda module: SGD(module.parameters(), lr=0.1, momentum=0.9),
    "list": lambda module: [AdamW(module.parameters(), lr=0.01)],
    "two lists": lambda module: ([AdamW(module.parameters(), lr=0.01)], []),
    "functions for groups": lambdas,
    "one cycle": one_cycle,
    "fused": lambda module: AdamW(module.parameters(), lr=0.01, fused=True),
    "state of the constructor": lambda module: Adagrad(module.parameters(), lr=0.1, initial_accumulator_value=0.1),
}


class Watch(Callback):
    """The projection and its learning rate at each step."""

    def __init__(self, distillation):
        self.distillation, self.rates, self.weights = distillation, [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        (projection,) = self.distillation._terms.parameters()
        groups = [g for g in optimizer.param_groups if any(p is projection for p in g["params"])]
        assert len(groups) == 1
        assert projection.grad.abs().sum() > 0
        self.rates.append((groups[0]["lr"], [group["lr"] for group in optimizer.param_groups]))
        self.weights.append(projection.detach().clone())


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_projection_is_trained_from_the_first_step_by_the_highest_rate_of_the_schedule(tmp_path, build):
    distillation = hidden()
    watch = Watch(distillation)
    fit(Scheduled(build), tmp_path, distillation, callbacks=[watch], max_epochs=3)
    assert len(watch.rates) == STEPS
    assert all(own == max(rates) for own, rates in watch.rates)
    steps = zip(watch.weights, [*watch.weights[1:], next(iter(distillation._terms.parameters()))], strict=True)
    for (before, after), (rate, _) in zip(steps, watch.rates, strict=True):
        assert torch.equal(before, after) == (rate == 0)


def test_step_of_the_projection_is_that_of_its_gradient(tmp_path):
    """By SGD, with the gradient of the loss written out."""
    distillation = hidden()
    watch = Watch(distillation)
    module = Classifier()
    own = weights(module)
    fit(module, tmp_path, distillation, loader(number=8), callbacks=[watch])
    inputs = next(iter(loader()))[0]
    projection = watch.weights[0].clone().requires_grad_()
    states = torch.nn.functional.linear(inputs, own["net.0.weight"], own["net.0.bias"])
    with torch.no_grad():
        targets = teacher()[0](inputs)
    (states @ projection.T - targets).square().mean().mul(0.5).backward()
    after = next(iter(distillation._terms.parameters()))
    torch.testing.assert_close(after.detach(), watch.weights[0] - 0.1 * projection.grad)


def test_gradients_of_the_projection_are_clipped_with_the_others(tmp_path):
    class Norm(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def on_train_batch_end(self, *_):
            assert len(self.parameters) == 5
            assert torch.cat([p.grad.flatten() for p in self.parameters]).norm() == pytest.approx(1e-3, rel=1e-3)

    fit(Classifier(), tmp_path, hidden(), callbacks=[Norm()], gradient_clip_val=1e-3)


def checkpoints(folder):
    return ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, save_last=True)


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_resumed_run_ends_in_the_same_weights_bit_for_bit(tmp_path, build):
    def run(folder, **settings):
        module, distillation = Scheduled(build), hidden()
        fit(module, folder, distillation, callbacks=[checkpoints(folder)], enable_checkpointing=True, **settings)
        return weights(module), distillation.state_dict()["losses"]["hidden"][0]

    whole = run(tmp_path / "whole", max_epochs=3)
    resumed = run(tmp_path / "resumed", max_epochs=3, ckpt_path=tmp_path / "whole" / "epoch=0.ckpt")
    assert equal_tensors(whole[0], resumed[0])
    assert equal_tensors(whole[1], resumed[1])
    assert not equal_tensors(whole[1], run(tmp_path / "short", max_epochs=1)[1])


def test_checkpoint_holds_the_projection_in_the_callbacks_state_and_no_teacher(tmp_path):
    module = Classifier()
    distillation = hidden(teacher=teacher())
    run = fit(module, tmp_path, distillation, callbacks=[checkpoints(tmp_path)], enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == Classifier().state_dict().keys() == module.state_dict().keys()
    (state,) = [value for key, value in checkpoint["callbacks"].items() if "Distillation" in key]
    assert [{name: tuple(t.shape) for name, t in copy.items()} for copy in state["losses"]["hidden"]] == [
        {"projection.weight": (32, 8)}
    ]
    shapes = [t.shape for t in tensors(checkpoint) if t.ndim]  # SGD has no state
    assert shapes == [*(t.shape for t in module.parameters()), (32, 8)]
    run.test(WithTest(), loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)


def tensors(part):
    if isinstance(part, torch.Tensor):
        yield part
    elif isinstance(part, dict):
        for value in part.values():
            yield from tensors(value)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from tensors(value)


class WithTest(Classifier):
    def test_step(self, batch):
        self.log("test_loss", cross_entropy(self.net(batch[0]), batch[1]))

    def predict_step(self, batch):
        return self.net(batch[0])


def test_module_is_tested_and_loaded_without_the_callback(tmp_path):
    module = WithTest()
    fit(module, tmp_path, hidden(), callbacks=[checkpoints(tmp_path)], enable_checkpointing=True)
    loaded = WithTest.load_from_checkpoint(tmp_path / "last.ckpt")
    assert equal_tensors(weights(module), weights(loaded))
    alone = trainer(tmp_path)
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint"):
        alone.test(WithTest(), loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    inputs, labels = make_examples()
    expected = cross_entropy(module.net(inputs), labels).item()
    assert float(alone.callback_metrics["test_loss"]) == pytest.approx(expected)


def test_each_pair_of_layers_has_a_projection_of_its_own(tmp_path):
    losses = {"hidden": HiddenStateMSELoss()}
    distillation = callback(losses=losses, layers={"0": "0", "2": "2"})
    fit(Classifier(), tmp_path, distillation)
    first, second = distillation.state_dict()["losses"]["hidden"]
    assert first["projection.weight"].shape == (32, 8)
    assert second == {}  # three classes each


def test_checkpoint_of_other_losses_is_refused(tmp_path):
    settings = {"callbacks": [checkpoints(tmp_path)], "enable_checkpointing": True}
    fit(Classifier(), tmp_path, hidden(), **settings)
    other = callback(losses={"other": SoftTargetLoss()})
    with pytest.raises(ValueError, match=r"of a run with soft: SoftTargetLoss; hidden.*this one has other"):
        fit(Classifier(), tmp_path, other, ckpt_path=tmp_path / "last.ckpt", **settings)


def test_sharded_optimizer_is_refused(tmp_path):
    class ShardedSGD(SGD):
        def consolidate_state_dict(self):
            pass

    with pytest.raises(ValueError, match="ShardedSGD divides its parameters among the devices"):
        fit(Scheduled(lambda module: ShardedSGD(module.parameters(), lr=0.1)), tmp_path, hidden())
    fit(Scheduled(lambda module: ShardedSGD(module.parameters(), lr=0.1)), tmp_path, callback())


def test_second_fit_begins_with_a_fresh_projection(tmp_path):
    distillation = hidden()
    watch = Watch(distillation)
    module: LightningModule = Classifier()
    fit(module, tmp_path, distillation, callbacks=[watch])
    fit(module, tmp_path, distillation, callbacks=[watch])
    assert torch.equal(watch.weights[0], watch.weights[2])
