import pytest, torch
from lightning_kd.callbacks import LastCheckpoint
from lightning.pytorch import Callback
from tests.runs import data, module, trainer
from tests.callbacks.test_last_checkpoint import Terminate
from lightning.pytorch.utilities.exceptions import SIGTERMException
from tests.conftest import clinc_file
class Seen(Callback):
    def __init__(self): self.rows=[]
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rows.append((trainer.fit_loop.epoch_loop.total_batch_idx, batch_idx, batch["row_id"].tolist()[:3], trainer.global_step))
    def on_train_batch_end(self, trainer, pl_module, *a):
        self.rows[-1] += (trainer.lr_scheduler_configs[0].scheduler.get_last_lr()[0], float(sum(p.double().sum() for p in pl_module.student.parameters())))
class Kill(Callback):
    def __init__(self, at): self.at=at
    def on_train_batch_start(self, trainer, *a):
        if trainer.fit_loop.epoch_loop.total_batch_idx == self.at: raise RuntimeError
@pytest.mark.parametrize("how", ["kill", "term", "again"])
def test_x(tmp_path, clinc_file, how):
    def run(folder, cb, resume=None, minutes=60):
        s=Seen(); m=module()
        t=trainer(folder, callbacks=[LastCheckpoint(minutes), s, *cb], max_epochs=2, enable_checkpointing=True, accumulate_grad_batches=3)
        try: t.fit(m, data(clinc_file), ckpt_path=resume)
        except (SIGTERMException, RuntimeError): print("stopped")
        return s.rows
    w=run(tmp_path/"w", [])
    if how!="again":
        a=run(tmp_path, [Kill(6)] if how=="kill" else [Terminate(5)], minutes=0 if how=="kill" else 60)
        b=run(tmp_path, [], tmp_path/"checkpoints"/"last.ckpt")
    else: a=w; b=run(tmp_path, [])
    for r in w: print("W", r)
    for r in a: print("A", r)
    for r in b: print("B", r)
    assert w[-len(b):]==b
