import re
from dataclasses import FrozenInstanceError

import pytest
import torch

from lightning_kd.outputs import Head, Outputs


def head(rows=2, classes=3):
    return Head(torch.zeros(rows, classes))


def test_head_has_neither_labels_nor_mask_unless_given():
    assert head().labels is None
    assert head().mask is None


def test_outputs_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Outputs({"label": head()}).heads = {}


def test_num_targets():
    assert Outputs({"start": head(rows=5), "end": head(rows=5)}).num_targets == 5


def test_num_targets_of_an_empty_batch():
    assert Outputs({"label": head(rows=0)}).num_targets == 0


def test_zip_heads_pairs_by_name_in_the_students_order():
    student = Outputs({"start": head(), "end": head()})
    teacher = Outputs({"end": head(), "start": head()})
    pairs = list(student.zip_heads(teacher))
    assert [s for s, _ in pairs] == [student.heads["start"], student.heads["end"]]
    assert pairs[0][1] is teacher.heads["start"]
    assert pairs[1][1] is teacher.heads["end"]


def test_other_heads_are_refused():
    student, teacher = Outputs({"start": head(), "end": head()}), Outputs({"label": head()})
    with pytest.raises(ValueError, match=r"heads: the student has \['end', 'start'\], the teacher \['label'\]"):
        list(student.zip_heads(teacher))


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (1, 3), (2, 1)])
def test_other_shapes_are_refused(shape):
    student, teacher = Outputs({"label": head(2, 3)}), Outputs({"label": head(*shape)})
    with pytest.raises(ValueError, match=rf"head 'label': student .*\(2, 3\), teacher .*{re.escape(str(shape))}"):
        list(student.zip_heads(teacher))
