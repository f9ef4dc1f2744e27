"""Search spaces: suggestions, config overrides, and errors."""

import re

import optuna
import pytest
from optuna.trial import FixedTrial

from lightning_kd.cli.tune.expressions import Expression
from lightning_kd.cli.tune.space import read_space

PYTHON_SPACE = """
number = 3

def space(trial):
    overrides = {"a": trial.suggest_categorical("a", ["x", "y"])}
    if overrides["a"] == "y":
        overrides["b"] = trial.suggest_categorical("b", ["p", "q"])
        if overrides["b"] == "q":
            overrides["c"] = trial.suggest_float("c", 0, 1)
    return overrides

def empty(trial):
    return {}

def devices(trial):
    return {"trainer.devices": trial.suggest_int("devices", 1, 2)}
"""


@pytest.fixture
def read_yaml(tmp_path):
    def read(text):
        (tmp_path / "space.yaml").write_text(text, encoding="utf-8")
        return read_space(str(tmp_path / "space.yaml"))

    return read


@pytest.fixture
def read_python(tmp_path):
    def read(function, text=PYTHON_SPACE):
        (tmp_path / "my space.py").write_text(text, encoding="utf-8")
        return read_space(f"{tmp_path / 'my space.py'}:{function}")

    return read


@pytest.mark.parametrize(
    ("text", "params", "overrides"),
    [
        (
            "alpha: {float: [0, 1], set: {a.weight: 1 - alpha, b.weight: alpha, c: 7}}",
            {"alpha": 0.3},
            {"c": 7, "a.weight": 0.7, "b.weight": 0.3},
        ),
        (
            "size: {choices: {small: 2, large: 4}, key: a.layers}\n"
            "factor: {int: [1, 3], set: {b.width: size * factor}}",
            {"size": "large", "factor": 3},
            {"a.layers": 4, "b.width": 12},
        ),
        (
            "student: {choices: {small: {a.layers: 1, a.width: 8}, large: {a.layers: 2}}}",
            {"student": "small"},
            {"a.layers": 1, "a.width": 8},
        ),
        ("trainer.max_epochs: {int: [1, 5]}", {"trainer.max_epochs": 3}, {"trainer.max_epochs": 3}),
        ("rate: {float: [1e-5, 1], log: true, key: a}", {"rate": 1e-3}, {"a": 1e-3}),
    ],
)
def test_overrides(read_yaml, text, params, overrides):
    assert read_yaml(text).overrides(FixedTrial(params)) == overrides


def test_whole_objects_come_before_their_parts(read_yaml):
    space = read_yaml("x: {float: [0, 1], key: a.b.c}\ny: {choices: {one: {c: 1}, two: {c: 2}}, key: a.b}")
    assert list(space.overrides(FixedTrial({"x": 0.5, "y": "one"}))) == ["a.b", "a.b.c"]


def test_suggestions_keep_bounds_and_scale(read_yaml):
    space = read_yaml("lr: {float: [1e-5, 1e-2], log: true, key: o.lr}\nsize: {int: [16, 64], step: 16, key: size}")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    suggestions = [space.overrides(study.ask()) for _ in range(60)]
    assert all(1e-5 <= values["o.lr"] <= 1e-2 and values["size"] in (16, 32, 48, 64) for values in suggestions)
    assert 15 < sum(values["o.lr"] < 10**-3.5 for values in suggestions) < 45  # half of them on a logarithmic scale


def test_check_of_a_python_space_reaches_all_conditions(read_python):
    expected = [{"a": "x"}, {"a": "y", "b": "p"}, {"a": "y", "b": "q", "c": 0}, {"a": "y", "b": "q", "c": 1}]
    assert read_python("space").check(dict) == expected


def test_check_names_the_parameters(read_yaml):
    space = read_yaml("w: {int: [1, 2], set: {b: 1 / (w - 2)}}\nv: {choices: [3, 4], key: v}")
    with pytest.raises(ValueError, match=r"^--search_space: w = 2, v = 3: parameter 'w': .*division by zero"):
        space.check(dict)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "must be a mapping of parameters"),
        ("[1]", "must be a mapping of parameters"),
        ("a: {float: [0", "is not valid YAML"),
        ("a: {float: [0, 1], key: a}\na: {float: [0, 1], key: b}", "'a' is given twice"),
        ("a: 3", "'a': must be a mapping such as"),
        ("a: {flaot: [0, 1], key: a}", "'a': unknown field 'flaot'"),
        ("a: {key: a}", "'a': give exactly one of float, int, choices, got none"),
        ("a: {float: [0, 1], int: [0, 1], key: a}", "'a': give exactly one of float, int, choices, got float, int"),
        ("a: {float: 3, key: a}", "'a': float must be two numbers, [low, high], got 3"),
        ("a: {float: [1, 0], key: a}", "'a': `low <= high` must hold, but got (low=1, high=0)"),
        ("a: {float: [0, x], key: a}", "'a': 'x' is not a finite number"),
        ("a: {float: [0, .inf], key: a}", "'a': inf is not a finite number"),
        ("a: {int: [0, 1.5], key: a}", "'a': 1.5 is not an integer"),
        ("a: {float: [0, 1], log: true, key: a}", "'a': `low > 0` must hold for `log=True`"),
        ("a: {float: [1, 2], log: true, step: 0.1, key: a}", "'a': The parameter `step`"),
        ("a: {float: [1, 2], log: 3, key: a}", "'a': log must be true or false, got 3"),
        ("a: {choices: [1], key: a}", "'a': choices needs at least two values"),
        ("a: {choices: [1, 1], key: a}", "'a': [1, 1] has equal choices"),
        ("a: {choices: [1, true], key: a}", "'a': [1, True] has equal choices"),
        ("a: {choices: [{b: 1}, {b: 2}], key: a}", "'a': the choice {'b': 1} needs a name"),
        ("a: {choices: [1, 2], log: true, key: a}", "'a': log and step apply to float and int only"),
        ("a: {float: [0, 1]}", "'a': sets nothing; add key"),
        ("a: {float: [0, 1], key: b, set: {c: a}}", "'a': give key (one config key) or set (several), not both"),
        ("a: {float: [0, 1], key: 3}", "'a': key must be a config key such as"),
        ("a: {float: [0, 1], set: {b: 1 - c}}", "'a': '1 - c': unknown parameter 'c'; known are a"),
        ("a: {float: [0, 1], set: {b: 1 -}}", "'a': '1 -' is not an arithmetic expression"),
        ("a: {float: [0, 1], set: {b: open(a)}}", "'open(a)' is not a number, a parameter or one of"),
        ("a: {when: {b: 1}, float: [0, 1], key: a}", "'a': conditions need a Python function"),
    ],
)
def test_invalid_yaml(read_yaml, text, message):
    with pytest.raises(ValueError, match=rf"^--search_space: .*{re.escape(message)}"):
        read_yaml(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {float: [0, 1], key: x}\nb: {float: [0, 1], key: x}", "'b': x is set by two parameters"),
        ("seed_everything: {int: [1, 9], key: seed_everything}", "seed_everything: all trials share the same seeds"),
        ("a: {choices: {b: {trainer.devices: 1}, c: {d: 1}}}", "trainer.devices: a trial trains on one device"),
    ],
)
def test_invalid_overrides(read_yaml, text, message):
    with pytest.raises(ValueError, match=message):
        read_yaml(text).check(dict)


@pytest.mark.parametrize(
    ("function", "text", "message"),
    [
        ("spcae", PYTHON_SPACE, "has no function 'spcae'"),
        ("number", PYTHON_SPACE, "has no function 'number'"),
        ("space", "1 / 0", "cannot be run (ZeroDivisionError"),
        ("space", "def space(", "cannot be run (SyntaxError"),
        ("empty", PYTHON_SPACE, "must return a mapping"),
        ("devices", PYTHON_SPACE, "trainer.devices: a trial trains on one device"),
    ],
)
def test_invalid_python(read_python, function, text, message):
    with pytest.raises(ValueError, match=rf"^--search_space: .*{re.escape(message)}"):
        read_python(function, text).check(dict)


@pytest.mark.parametrize("source", ["nothing.yaml", "nothing.py:space"])
def test_missing_file(tmp_path, source):
    with pytest.raises(ValueError, match="cannot read"):
        read_space(str(tmp_path / source))


@pytest.mark.parametrize(
    ("text", "value"),
    [("1 - a", 0.75), ("-(a + 1) * 2", -2.5), ("2 ** b // 3", 2), ("b", 3), ("a / b", 0.25 / 3), ("1e-2", 0.01)],
)
def test_arithmetic(text, value):
    assert Expression(text, ["a", "b"])({"a": 0.25, "b": 3}) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["a.b", "a[0]", "'x'", "a if a else 1", "a and a", "lambda: 1", "True", "a @ a", "a % 2"]
)
def test_code_is_not_arithmetic(text):
    with pytest.raises(ValueError, match="is not a number, a parameter or one of"):
        Expression(text, ["a", "x"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1 / a", "division by zero"), ("(a - 2) ** 0.5", "is not a finite real"), ("a + 1e308 * 10", "inf is not")],
)
def test_results_that_are_not_finite(text, reason):
    with pytest.raises(ValueError, match=f"cannot be computed with a = 0: .*{reason}"):
        Expression(text, ["a"])({"a": 0})
