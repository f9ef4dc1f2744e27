"""Result of a probe, and its formats."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from lightning_kd.evaluation.report import markdown_table
from lightning_kd.evaluation.temperature import calibration

DIFFERENCE_HEADER = "(2nd - last) / 2nd, %"
"""Header of the relative difference between the second and the last class."""


@dataclass(frozen=True)
class SplitStats:
    """A model at a temperature, averaged over a split.

    Examples without a label are used only for entropy and divergence.

    Attributes:
        model: Name of the model.
        temperature: The temperature.
        entropy: Mean entropy in nats.
        off_target_mass: Mean of 1 - p(true class); None without labels.
        calibration_error: Expected calibration error, 15 bins; None without labels.
        kl_divergence: Mean KL(teacher ‖ student) in nats; None for the teacher.
    """

    model: str
    temperature: float
    entropy: float
    off_target_mass: float | None
    calibration_error: float | None
    kl_divergence: float | None


@dataclass(frozen=True)
class TextProbabilities:
    """Probabilities of a model for a sentence, by temperature.

    Attributes:
        model: Name of the model.
        probabilities: Probabilities of the shown classes.
        second_class: Second most likely class, which is the same at all temperatures.
        last_class: Least likely class.
        second_probabilities: Probability of the second class.
        last_probabilities: Probability of the last class.
        relative_difference: (second - last) / second, in [0, 100] %.
    """

    model: str
    probabilities: list[list[float]]
    second_class: str
    last_class: str
    second_probabilities: list[float]
    last_probabilities: list[float]
    relative_difference: list[float]


@dataclass(frozen=True)
class Sentence:
    """A sentence and its shown classes.

    Attributes:
        text: The sentence.
        label: Its true class; None if unknown.
        ranks: The teacher's ranks of the shown classes; 1 is the most likely.
        classes: Names of the shown classes.
        model_probabilities: Probabilities of the teacher, then of the student.
    """

    text: str
    label: str | None
    ranks: list[int]
    classes: list[str]
    model_probabilities: list[TextProbabilities]


@dataclass(frozen=True)
class ProbeResult:
    """A teacher and optionally a student at several temperatures.

    Attributes:
        sources: Folder or Hub id of each model, by name.
        temperatures: The temperatures.
        sentences: The shown sentences.
        split_stats: Averages over the split, by model and temperature.
        split: Name of the split.
        num_examples: Number of its examples.
        num_classes: Number of classes.
        accuracy: Accuracy on the labeled examples, by model.
        agreement: Share of examples with the same prediction of teacher and student; None without a student.
        best_temperature: Temperature that maximizes the likelihood of the labels, by model; None if out of range.
    """

    sources: dict[str, str]
    temperatures: list[float]
    sentences: list[Sentence]
    split_stats: list[SplitStats]
    split: str
    num_examples: int
    num_classes: int
    accuracy: dict[str, float]
    agreement: float | None
    best_temperature: dict[str, float | None]

    def json(self) -> str:
        """Return all numbers, not rounded."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def markdown(self) -> str:
        """Return Markdown tables of the split and of each sentence."""
        parts = [markdown_table(*self._split_cells()), self.caption()]
        for sentence in self.sentences:
            table = markdown_table(*self._sentence_cells(sentence, sentence.model_probabilities))
            parts += [f"**{format_heading(sentence)}**".replace("|", r"\|"), table]
        return "\n\n".join(parts) + "\n"

    def tables(self) -> Iterator[Table]:
        """Yield tables for the terminal."""
        for sentence in self.sentences:
            for entry in sentence.model_probabilities:  # side by side would be wider than a terminal
                title = f"{entry.model}: {format_heading(sentence)}"
                yield _rich_table(title, "", *self._sentence_cells(sentence, [entry]))
        yield _rich_table(f"{self.split}, {self.num_examples:,} examples", self.caption(), *self._split_cells())

    def caption(self) -> str:
        """Return the caption of the split's table."""
        parts = [f"{self.split.capitalize()}, {self.num_examples:,} examples, {self.num_classes} classes"]
        if self.accuracy:
            parts.append("accuracy: " + ", ".join(f"{name} {value:.1%}" for name, value in self.accuracy.items()))
        if self.agreement is not None:
            parts.append(f"agreement: {self.agreement:.1%}")
        temperatures = [f"{name} {value:.2f}" for name, value in self.best_temperature.items() if value is not None]
        if temperatures:
            parts.append(f"best temperature: {', '.join(temperatures)}")
        units = (
            f"Entropy, at most {math.log(self.num_classes):.2f}, and KL in nats; "
            f"calibration in {calibration.NUM_BINS} bins."
        )
        sources = ", ".join(f"{name}: {source}" for name, source in self.sources.items())
        return f"{'; '.join(parts)}. {units} {sources[0].upper()}{sources[1:]}."

    def _split_cells(self) -> tuple[list[str], list[list[str]]]:
        columns = ["model", "T", "entropy", "mass on wrong classes", "calibration error"]
        rows = [
            [
                stats.model,
                f"{stats.temperature:g}",
                f"{stats.entropy:.3f}",
                "" if stats.off_target_mass is None else f"{stats.off_target_mass:.2%}",
                "" if stats.calibration_error is None else f"{stats.calibration_error:.2%}",
            ]
            for stats in self.split_stats
        ]
        if self.agreement is not None:
            columns.append("KL(teacher ‖ student)")
            for row, stats in zip(rows, self.split_stats, strict=True):
                row.append("" if stats.kl_divergence is None else f"{stats.kl_divergence:.4f}")
        return columns, rows

    def _sentence_cells(self, sentence: Sentence, models: list[TextProbabilities]) -> tuple[list[str], list[list[str]]]:
        prefixes = [f"{model.model}, " if len(models) > 1 else "" for model in models]
        headers = [f"{prefix}T = {t:g}" for prefix in prefixes for t in self.temperatures]
        rows = [
            [name, str(rank), *(format_probability(p[i]) for model in models for p in model.probabilities)]
            for i, (name, rank) in enumerate(zip(sentence.classes, sentence.ranks, strict=True))
        ]
        if self.num_classes > 2:  # with two classes the second is the last
            second = _row_label("2nd class", {model.model: model.second_class for model in models})
            last = _row_label("last class", {model.model: model.last_class for model in models})
            rows += [
                [second, "", *(format_probability(p) for model in models for p in model.second_probabilities)],
                [last, "", *(format_probability(p) for model in models for p in model.last_probabilities)],
                [DIFFERENCE_HEADER, "", *(f"{d:.2f}" for model in models for d in model.relative_difference)],
            ]
        return ["class", "teacher's rank", *headers], rows


def format_probability(probability: float, digits: int = 3) -> str:
    """Format a probability with three decimals or, below 0.1, with significant digits."""
    return f"{probability:.3f}" if probability >= 0.1 else f"{probability:#.{digits}g}"


def format_heading(sentence: Sentence) -> str:
    """Return the sentence in one line, with its true class."""
    text = " ".join(sentence.text.split())
    return text if sentence.label is None else f"{text} ({sentence.label})"


def _row_label(rank: str, class_by_model: dict[str, str]) -> str:
    classes = set(class_by_model.values())
    names = classes if len(classes) == 1 else [f"{model}: {name}" for model, name in class_by_model.items()]
    return ", ".join([rank, *names])


def _rich_table(title: str, caption: str, columns: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=escape(title), caption=escape(caption), box=SIMPLE, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
