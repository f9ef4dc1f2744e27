import json

import pytest

from tests.cli.sagemaker.host import Host
from tests.helpers import clinc_rows


@pytest.fixture
def make_host(tmp_path):
    """A host with a channel of training texts."""

    def make(folder="ml", hosts=("algo-1",), name="algo-1"):
        host = Host(tmp_path / folder, list(hosts), name)
        (host.channel("training") / "data_oos_plus.json").write_text(json.dumps(clinc_rows()), encoding="utf-8")
        return host

    return make


@pytest.fixture
def host(make_host):
    return make_host()
