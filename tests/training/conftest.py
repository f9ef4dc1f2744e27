import pytest


@pytest.fixture
def ddp_command(config):
    """The arguments of ``python -m`` for a fit on two devices."""
    devices = ("--trainer.devices=2", "--trainer.strategy=ddp")
    return ("lightning_kd", "fit", "--config", config, *devices, "--data.init_args.batch_size=1")
