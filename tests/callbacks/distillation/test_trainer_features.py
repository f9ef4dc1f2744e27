"""Compiled models, precision, averaged weights, learning rate finder and DDP, each against a run without it."""

import subprocess
import sys

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import (
    Callback,
    EMAWeightAveraging,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from lightning_kd.losses import SoftTargetLoss, soft_target_loss
from tests.callbacks.distillation.ddp_script import RUNS, run
from tests.callbacks.distillation.helpers import (
    HIDDEN,
    SOFT_AND_HIDDEN,
    Classifier,
    ManualDistillation,
    callback,
    equal_tensors,
    fit,
    fit_weights,
    loader,
    mlp,
    teacher,
    weights,
)
from tests.helpers import ROOT, trainer


def distill(tmp_path, module=None, settings=SOFT_AND_HIDDEN, **trainer_settings):
    """Return the weights after two epochs."""
    return fit_weights(module or Classifier(), tmp_path, callback(**settings), max_epochs=2, **trainer_settings)


class TwoLayers(nn.Module):
    """``nn.Sequential.compile`` does not compile the call of the container itself."""

    def __init__(self):
        super().__init__()
        self.first, _, self.second = mlp()

    def forward(self, inputs):
        return self.second(self.first(inputs).relu())


class CountingCompiler:
    """Counts compiled graphs and their runs."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph, examples):
        self.graphs += 1

        def run(*inputs):
            self.runs += 1
            return graph(*inputs)

        return run


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("settings", [{}, {**SOFT_AND_HIDDEN, "layers": {"first": "0"}}], ids=["logits", "layers"])
def test_compiled_student(tmp_path, in_place, settings):
    torch.compiler.reset()
    compiler, module = CountingCompiler(), Classifier(net=TwoLayers())
    if in_place:
        module.net.compile(backend=compiler)
    else:
        module.net = torch.compile(module.net, backend=compiler)
    before = module.net._compiled_call_impl
    found = distill(tmp_path, module, settings)
    found = {name.replace("_orig_mod.", ""): value for name, value in found.items()}
    torch.testing.assert_close(found, distill(tmp_path, Classifier(net=TwoLayers()), settings))
    assert (compiler.graphs, compiler.runs) == (1, 4)
    assert module.net._compiled_call_impl is before


def test_student_inside_a_compiled_model(tmp_path):
    def run(compile_model):
        net = TwoLayers()
        net.second = nn.Sequential(nn.Linear(8, 3))
        if compile_model:
            net.compile(backend="eager")
        settings = {"student": "net.second", "teacher": nn.Linear(8, 3), "losses": {"soft": SoftTargetLoss()}}
        return distill(tmp_path, Classifier(net=net), settings)

    torch.compiler.reset()
    torch.testing.assert_close(run(True), run(False))


def test_compiled_teacher(tmp_path):
    torch.compiler.reset()
    settings = {**SOFT_AND_HIDDEN, "teacher": torch.compile(teacher(), backend="eager")}
    assert equal_tensors(distill(tmp_path, settings=settings), distill(tmp_path))


class RecordDtypes(nn.Module):
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
    """The teacher runs under the same autocast as the student, or else in its dtype."""
    model = RecordDtypes(teacher())
    settings = {**SOFT_AND_HIDDEN, "layers": {"0": "model.0"}, "teacher": model}
    found = distill(tmp_path, settings=settings, precision=precision)
    assert model.dtypes == [(torch.float32, inside)] * 4
    tolerance = 1e-5 if precision == "64-true" else 5e-2
    torch.testing.assert_close(found, distill(tmp_path), rtol=tolerance, atol=tolerance, check_dtype=False)


def test_projection_has_the_dtype_of_the_student(tmp_path):
    class HalfPrecisionFirst(Classifier):
        def __init__(self):
            super().__init__()
            net = self.net
            del self.net
            self.half = nn.Linear(2, 2).half().requires_grad_(False)
            self.net = net

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    distillation, module = callback(**HIDDEN), HalfPrecisionFirst()
    assert next(module.parameters()).dtype == torch.float16
    fit(module, tmp_path, distillation)
    assert [p.dtype for p in distillation._terms.parameters()] == [torch.float32]


def test_gradient_scaling_includes_the_projection(tmp_path):
    class RecordMaximum(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            self.maximum = max(p.grad.abs().max() for group in optimizer.param_groups for p in group["params"])

    record, plugin = RecordMaximum(), MixedPrecision("16-mixed", "cpu")
    found = distill(tmp_path, plugins=[plugin], callbacks=[record])
    assert plugin.scaler.get_scale() == 65536
    assert record.maximum < 10  # unscaled
    torch.testing.assert_close(found, distill(tmp_path), rtol=1e-2, atol=1e-2)


def test_accumulation_is_a_larger_batch(tmp_path):
    found = fit_weights(Classifier(), tmp_path, callback(), loader(4), accumulate_grad_batches=2, max_epochs=2)
    torch.testing.assert_close(found, fit_weights(Classifier(), tmp_path, callback(), loader(8), max_epochs=2))


def test_exponential_moving_average(tmp_path):
    """The average equals one computed by hand from the weights of each step, and the averaged copy has no hooks."""
    steps = []

    class RecordWeights(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            steps.append(weights(pl_module))

    distill(tmp_path, callbacks=[RecordWeights()])
    assert len(steps) == 4
    average = steps[0]  # the first update copies
    for step in steps[1:]:
        average = {name: 0.5 * average[name] + 0.5 * step[name] for name in step}
    ema = EMAWeightAveraging(decay=0.5, use_buffers=False)
    torch.testing.assert_close(distill(tmp_path, callbacks=[ema]), average)
    assert not any(part._forward_hooks for part in ema._average_model.modules())
    assert "training_step" not in ema._average_model.module.__dict__


def test_stochastic_weight_averaging(tmp_path):
    """The weights equal those of a module that calls the teacher in its step."""

    def averaged(module, *callbacks):
        average = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
        return fit_weights(module, tmp_path, *callbacks, callbacks=[average], max_epochs=4)

    settings = {"losses": {"soft": SoftTargetLoss()}}
    found = averaged(Classifier(), callback(**settings))
    torch.testing.assert_close(found, averaged(ManualDistillation(soft_target_loss)))
    assert not equal_tensors(found, fit_weights(Classifier(), tmp_path, callback(**settings), max_epochs=4))
    averaged(Classifier(), callback(**SOFT_AND_HIDDEN))  # also with a projection


def test_learning_rate_finder(tmp_path):
    """Lightning puts it before all other callbacks; it trains some steps and restores the weights."""

    class RecordProjection(Callback):
        def on_train_start(self, trainer, pl_module):
            (self.projection,) = (p.detach().clone() for p in distillation._terms.parameters())

    def run(*callbacks):
        seed_everything(1, verbose=False)
        trainer(tmp_path, callbacks=[*callbacks, record]).fit(Classifier(), loader())
        return record.projection

    record, distillation = RecordProjection(), callback(**SOFT_AND_HIDDEN)
    alone = run(distillation)
    finder = LearningRateFinder(min_lr=0.1, num_training_steps=3, update_attr=False)
    assert torch.equal(run(distillation, finder), alone)


@pytest.fixture(scope="module")
def ddp_results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two devices")
    command = [sys.executable, "-m", "tests.callbacks.distillation.ddp_script", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "results.pt", weights_only=True)


@pytest.mark.parametrize("name", RUNS)
def test_two_devices_equal_one_with_the_double_batch(ddp_results, tmp_path, name):
    first, second = ddp_results[name]
    for part in ("student", "projection"):
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part])
    settings = {key: value for key, value in RUNS[name].items() if key != "strategy"}
    torch.testing.assert_close(first, run(tmp_path, 8, **settings))
