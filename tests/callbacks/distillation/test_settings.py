"""Compiled networks, mixed precision, averaged weights: what people do with their modules stays possible."""

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_kd.losses import HiddenStateMSELoss, SoftTargetLoss, soft_target_loss
from tests.callbacks.distillation.dropin import Classifier, callback, equal_tensors, fit, loader, mlp, teacher, weights
from tests.helpers import trainer

BOTH = {"losses": {"soft": SoftTargetLoss(0.5), "hidden": HiddenStateMSELoss(0.5)}, "layers": {"0": "0"}}


def fit_module(tmp_path, module=None, settings=BOTH, **trainer_settings):
    module = module or Classifier()
    fit(module, tmp_path, callback(**settings), max_epochs=2, **trainer_settings)
    return module


class TwoLayers(nn.Module):
    """PyTorch leaves a bare ``Sequential`` alone when it is to compile it in place."""

    def __init__(self):
        super().__init__()
        self.first, _, self.second = mlp()

    def forward(self, inputs):
        return self.second(self.first(inputs).relu())


class WithTwoLayers(Classifier):
    def __init__(self):
        super().__init__()
        self.net = TwoLayers()


class CountingCompiler:
    """A compiler that counts."""

    def __init__(self):
        self.made = self.runs = 0

    def __call__(self, graph, examples):
        self.made += 1

        def run(*inputs):
            self.runs += 1
            return graph(*inputs)

        return run


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("settings", [{}, {**BOTH, "layers": {"first": "0"}}], ids=["logits", "and layers"])
def test_compiled_student(tmp_path, in_place, settings):
    torch.compiler.reset()
    compiler, module = CountingCompiler(), WithTwoLayers()
    if in_place:
        module.net.compile(backend=compiler)
    else:
        module.net = torch.compile(module.net, backend=compiler)
    before = module.net._compiled_call_impl
    fit_module(tmp_path, module, settings)
    names = {name.replace("_orig_mod.", ""): value for name, value in weights(module).items()}
    torch.testing.assert_close(names, weights(fit_module(tmp_path, WithTwoLayers(), settings)))
    assert (compiler.made, compiler.runs) == (1, 4)
    assert module.net._compiled_call_impl is before


def test_part_of_a_compiled_model(tmp_path):
    class Deep(Classifier):
        def __init__(self):
            super().__init__()
            self.net = TwoLayers()
            self.net.second = nn.Sequential(nn.Linear(8, 3))

    torch.compiler.reset()
    module, plain = Deep(), Deep()
    module.net.compile(backend="eager")
    part = {"student": "net.second", "teacher": nn.Linear(8, 3), "losses": {"soft": SoftTargetLoss()}}
    fit_module(tmp_path, module, part)
    fit_module(tmp_path, plain, part)
    torch.testing.assert_close(weights(module), weights(plain))


def test_compiled_teacher(tmp_path):
    torch.compiler.reset()
    compiled = fit_module(tmp_path, settings={**BOTH, "teacher": torch.compile(teacher(), backend="eager")})
    assert equal_tensors(weights(compiled), weights(fit_module(tmp_path)))


class Spy(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.dtypes = model, []

    def forward(self, inputs):
        logits = self.model(inputs)
        self.dtypes.append((inputs.dtype, logits.dtype))
        return logits


@pytest.mark.parametrize(
    ("precision", "inside"),
    [("bf16-mixed", torch.bfloat16), ("bf16-true", torch.float32), ("64-true", torch.float32)],
)
def test_precision(tmp_path, precision, inside):
    """Under autocast the teacher runs as the student does; else in the precision it has, on its own kind of numbers."""
    spy = Spy(teacher())
    module = fit_module(tmp_path, settings={**BOTH, "layers": {"0": "model.0"}, "teacher": spy}, precision=precision)
    assert spy.dtypes == [(torch.float32, inside)] * 4
    fraction = {"64-true": 1e-5}.get(precision, 5e-2)
    for own, other in zip(weights(module).values(), weights(fit_module(tmp_path)).values(), strict=True):
        torch.testing.assert_close(own.float(), other, rtol=fraction, atol=fraction)


def test_scaled_gradients(tmp_path):
    """With a scaler of gradients, as float16 has one, on the projection's, too."""

    class Norms(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.largest = max(p.grad.abs().max() for group in optimizer.param_groups for p in group["params"])

    norms, plugin = Norms(), MixedPrecision("16-mixed", "cpu")
    module = fit_module(tmp_path, plugins=[plugin], callbacks=[norms])
    assert plugin.scaler.get_scale() == 65536
    assert norms.largest < 10  # unscaled, the projection's, too
    for own, other in zip(weights(module).values(), weights(fit_module(tmp_path)).values(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-2, atol=1e-2)


def test_averaged_weights(tmp_path):
    """As by a student that is averaged by hand, step by step; and the copy has no hooks."""

    class Trail(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            steps.append(weights(pl_module))

    steps = []
    ema = EMAWeightAveraging(decay=0.5, use_buffers=False)
    module = fit_module(tmp_path, callbacks=[Trail()])
    own, steps = steps, []
    assert len(own) == 4
    module = fit_module(tmp_path, callbacks=[ema, Trail()])
    average = own[0]  # the first update copies
    for step in own[1:]:
        average = {name: 0.5 * average[name] + 0.5 * step[name] for name in step}
    torch.testing.assert_close(weights(module), average)
    assert not any(part._forward_hooks for part in ema._average_model.modules())
    assert "training_step" not in ema._average_model.module.__dict__


def test_averaged_run_resumes_bit_for_bit(tmp_path):
    def run(folder, epochs, **settings):
        module, distillation = Classifier(), callback(**BOTH)
        keep = ModelCheckpoint(tmp_path / folder, filename="{epoch}", save_top_k=-1)
        callbacks = [EMAWeightAveraging(decay=0.5, use_buffers=False), keep]
        fit(
            module,
            tmp_path,
            distillation,
            callbacks=callbacks,
            enable_checkpointing=True,
            max_epochs=epochs,
            **settings,
        )
        return weights(module), distillation.state_dict()["losses"]["hidden"][0]

    whole = run("whole", 3)
    checkpoint = torch.load(tmp_path / "whole" / "epoch=0.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == whole[0].keys()
    with pytest.warns(UserWarning, match="dirpath has changed"):
        resumed = run("resumed", 3, ckpt_path=tmp_path / "whole" / "epoch=0.ckpt")
    assert equal_tensors(whole[0], resumed[0])
    assert equal_tensors(whole[1], resumed[1])


def test_stochastic_weight_averaging(tmp_path):
    """As of a module with the teacher in its own step."""

    class ManualDistillation(Classifier):
        def training_step(self, batch, batch_idx):
            targets = model(batch[0]).detach()
            return super().training_step(batch, batch_idx) + soft_target_loss(self.net(batch[0]), targets)

    def averaged(module, *callbacks):
        average = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
        fit(module, tmp_path, *callbacks, callbacks=[average], max_epochs=4)
        return weights(module)

    model, module = teacher(), Classifier()
    settings = {"losses": {"soft": SoftTargetLoss()}}
    found = averaged(Classifier(), callback(**settings))
    torch.testing.assert_close(found, averaged(ManualDistillation()))
    fit(module, tmp_path, callback(**settings), max_epochs=4)
    assert not equal_tensors(found, weights(module))
    averaged(Classifier(), callback(**BOTH))  # with a projection, too


def test_learning_rate_finder(tmp_path):
    """It trains some steps, and goes back; Lightning puts it before all other callbacks."""

    class Watch(Callback):
        def on_train_start(self, trainer, pl_module):
            (self.projection,) = (p.detach().clone() for p in distillation._terms.parameters())

    def run(*callbacks):
        seed_everything(1, verbose=False)
        trainer(tmp_path, callbacks=[*callbacks, watch]).fit(Classifier(), loader())
        return watch.projection

    class Still(LearningRateFinder):
        """Finds a rate and leaves it at that."""

        def __init__(self):
            super().__init__(min_lr=0.1, num_training_steps=3, update_attr=False)

    watch, distillation = Watch(), callback(**BOTH)
    alone = run(distillation)
    assert torch.equal(run(distillation, Still()), alone)
