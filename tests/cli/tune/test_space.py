"""Search spaces: what they propose, what they set, and what is refused."""

import optuna
import pytest

from lightning_kd.cli.tune.expressions import Expression
from lightning_kd.cli.tune.space import read_space


def space(tmp_path, text):
    file = tmp_path / "space.yaml"
    file.write_text(text, encoding="utf-8")
    return read_space(file)


def test_one_parameter_sets_several_keys(tmp_path):
    mixed = space(tmp_path, "alpha: {float: [0, 1], set: {a.weight: 1 - alpha, b.weight: alpha, c: 7}}")
    assert mixed.settings({"alpha": 0.3}) == {"a.weight": 0.7, "b.weight": 0.3, "c": 7}


def test_expression_of_two_parameters_and_of_a_named_choice(tmp_path):
    both = space(
        tmp_path,
        "size: {choices: {small: 2, large: 4}, key: a.layers}\nfactor: {int: [1, 3], set: {b.width: size * factor}}",
    )
    assert both.settings({"size": "large", "factor": 3}) == {"a.layers": 4, "b.width": 12}


def test_choices_that_set_several_keys(tmp_path):
    sizes = space(tmp_path, "student: {choices: {small: {a.layers: 1, a.width: 8}, large: {a.layers: 2}}}")
    assert sizes.settings({"student": "small"}) == {"a.layers": 1, "a.width": 8}


def test_name_may_be_the_key(tmp_path):
    assert space(tmp_path, "trainer.max_epochs: {int: [1, 5]}").settings({"trainer.max_epochs": 3}) == {
        "trainer.max_epochs": 3
    }


def test_whole_objects_are_set_before_parts_of_them(tmp_path):
    ordered = space(tmp_path, "x: {float: [0, 1], key: a.b.c.d}\ny: {choices: {one: {c: 1}, two: {c: 2}}, key: a.b}")
    assert list(ordered.settings({"x": 0.5, "y": "one"})) == ["a.b", "a.b.c.d"]


def test_proposals_keep_bounds_and_conditions(tmp_path):
    conditional = space(
        tmp_path,
        "momentum: {when: {kind: sgd}, float: [0.5, 0.9], key: o.momentum}\n"
        "kind: {choices: [adam, sgd], key: o.kind}\n"
        "lr: {float: [1e-5, 1e-2], log: true, key: o.lr}\n"
        "size: {int: [16, 64], step: 16, key: size}",
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    proposals = [conditional.suggest(study.ask()) for _ in range(60)]
    assert {values["kind"] for values in proposals} == {"adam", "sgd"}
    for values in proposals:
        assert ("momentum" in values) == (values["kind"] == "sgd")
        assert 1e-5 <= values["lr"] <= 1e-2
        assert values["size"] in (16, 32, 48, 64)
    assert 15 < sum(values["lr"] < 10**-3.5 for values in proposals) < 45  # half of them on a logarithmic scale


def test_samples_have_both_ends_and_all_choices(tmp_path):
    nested = space(
        tmp_path,
        "a: {choices: [x, y], key: a}\nb: {when: {a: y}, choices: [p, q], key: b}\n"
        "c: {when: {b: q}, float: [0, 1], key: c}",
    )
    samples = [values for _, values in nested.samples()]
    assert samples == [
        {"a": "x"},
        {"a": "y", "b": "p"},
        {"a": "y", "b": "q", "c": 0},
        {"a": "y", "b": "q", "c": 1},
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "there is no parameter"),
        ("[1]", "must be a mapping"),
        ("a: {float: [0", "is no YAML"),
        ("a: {float: [0, 1], key: a}\na: {float: [0, 1], key: b}", "'a' is given twice"),
        ("a: 3", "'a': must be a mapping such as"),
        ("a: {flaot: [0, 1], key: a}", "'a': 'flaot' is not known; use float"),
        ("a: {key: a}", "'a': give exactly one of float, int, choices, got none"),
        ("a: {float: [0, 1], int: [0, 1], key: a}", "'a': give exactly one of float, int, choices, got float, int"),
        ("a: {float: 3, key: a}", "'a': float must be two numbers, [least, largest], got 3"),
        ("a: {float: [1, 0], key: a}", "'a': float: [1, 0] is empty; write the smaller bound first"),
        ("a: {float: [0, x], key: a}", "'a': 'x' is no finite number"),
        ("a: {float: [0, .inf], key: a}", "'a': inf is no finite number"),
        ("a: {int: [0, 1.5], key: a}", "'a': 1.5 is no whole number"),
        ("a: {float: [0, 1], log: true, key: a}", "'a': log needs a least value above 0, got 0; raise it"),
        ("a: {float: [1, 2], log: true, step: 0.1, key: a}", "'a': log and step exclude each other"),
        ("a: {float: [1, 2], log: 3, key: a}", "'a': log must be true or false, got 3"),
        ("a: {int: [1, 2], step: 5, key: a}", "'a': step must be above 0 and at most 1, got 5"),
        ("a: {int: [1, 10], step: 4, key: a}", "'a': 10 is no whole number of steps of 4 above 1; write [1, 9]"),
        ("a: {float: [0, 1], step: 0.3, key: a}", "'a': 1 is no whole number of steps of 0.3 above 0; write [0, 0.9]"),
        ("a: {choices: [1], key: a}", "'a': choices needs at least two values"),
        ("a: {choices: [1, 1], key: a}", "'a': a choice is named twice"),
        ("a: {choices: [1, true], key: a}", "'a': [1, True] mixes numbers and truth values"),
        ("a: {choices: [{b: 1}, {b: 2}], key: a}", "'a': the choice {'b': 1} needs a name"),
        ("a: {choices: [1, 2], log: true, key: a}", "'a': log and step belong to float and int"),
        ("a: {float: [0, 1]}", "'a': sets nothing; add key"),
        ("a: {float: [0, 1], key: b, set: {c: a}}", "'a': give key (one config key) or set (several), not both"),
        ("a: {float: [0, 1], key: 3}", "'a': key must be a config key such as"),
        (
            "a: {float: [0, 1], set: {b: 1 - c}}",
            "'a': set: b: there is no parameter 'c'; known are a; for a text use choices",
        ),
        ("a: {float: [0, 1], set: {b: 1 -}}", "'a': set: '1 -' is no arithmetic"),
        ("a: {float: [0, 1], set: {b: open(a)}}", "'open(a)' is neither a number, a parameter nor one of"),
        ("a: {when: {b: 1}, float: [0, 1], key: a}", "'a': when: there is no parameter 'b'"),
        (
            "b: {choices: [x, y], key: b}\na: {when: {b: []}, float: [0, 1], key: a}",
            "'a': when: 'b' has no value; name",
        ),
        ("seed_everything: {int: [1, 9], key: seed_everything}", "seed_everything: all trials have the same seeds"),
        ("a: {choices: {b: {trainer.devices: 1}, c: {d: 1}}}", "trainer.devices: a trial trains on one device"),
        ("b: {float: [0, 1], key: b}\na: {when: {b: 1}, float: [0, 1], key: a}", "'b' is a number; only"),
        ("b: {choices: [x, y], key: b}\na: {when: {b: z}, float: [0, 1], key: a}", "'b' is never 'z'; its choices"),
        ("a: {when: {b: 1}, choices: [1, 2], key: a}\nb: {when: {a: 1}, choices: [1, 2], key: b}", "in a circle"),
        ("a: {float: [0, 1], key: x}\nb: {float: [0, 1], key: x}", "'b': x is also set by 'a'; set it by one"),
        (
            "k: {choices: [x, y], key: k}\na: {when: {k: x}, float: [0, 1], key: a}\nb: {float: [0, 1], set: {b: a}}",
            "'b': set: b: 'a' does not always count; give this parameter its conditions, too",
        ),
    ],
)
def test_refused(tmp_path, text, says):
    with pytest.raises(ValueError, match=r"--space: ") as error:
        space(tmp_path, text)
    assert says in str(error.value)


def test_two_parameters_set_a_key_where_they_exclude_each_other(tmp_path):
    text = (
        "k: {choices: [x, y], key: k}\n"
        "a: {when: {k: x}, float: [0, 1], key: lr}\nb: {when: {k: y}, float: [2, 3], key: lr}"
    )
    assert space(tmp_path, text).settings({"k": "y", "b": 2.5}) == {"k": "y", "lr": 2.5}


def test_steps_are_decimal(tmp_path):
    tenths = space(tmp_path, "a: {float: [0, 0.3], step: 0.1, key: a}")  # 0.3 // 0.1 is 2
    assert tenths.parameters[0].high == 0.3


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="cannot read"):
        read_space(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 - a", 0.75), ("-(a + 1) * 2", -2.5), ("2 ** b // 3", 2), ("b", 3), ("a / b", 0.25 / 3), ("1e-2", 0.01)],
)
def test_arithmetic(text, value):
    assert Expression(text)({"a": 0.25, "b": 3}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["a.b", "a[0]", "'x'", "a if a else 1", "a and a", "lambda: 1", "True", "a @ a", "a % 2"]
)
def test_what_is_no_arithmetic(text):
    with pytest.raises(ValueError, match="is neither a number"):
        Expression(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [("1 / a", "division by zero"), ("(a - 2) ** 0.5", "is no finite real number"), ("a + 1e308 * 10", "inf is no")],
)
def test_what_cannot_be_computed(text, why):
    with pytest.raises(ValueError, match=f"cannot be computed with a = 0: .*{why}"):
        Expression(text)({"a": 0})
