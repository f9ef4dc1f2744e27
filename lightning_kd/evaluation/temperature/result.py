"""What temperatures make of a teacher's probabilities, and of a student's: as numbers and as tables."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from lightning_kd.evaluation.temperature import calibration

DIFFERENCE = "(2nd - last) / 2nd, %"
"""Header of the relative difference between the second and the last class."""


@dataclass(frozen=True)
class Level:
    """A network at a temperature, over a split. Rows without a label count for entropy and divergence only.

    Attributes:
        network: Its name.
        temperature: T.
        entropy: Mean, in nats.
        wrong_mass: Mean of 1 - p(true class); None where no row has a label.
        calibration_error: Expected calibration error, 15 bins; None where no row has a label.
        divergence: Mean KL(teacher ‖ student) in nats; None for the teacher.
    """

    network: str
    temperature: float
    entropy: float
    wrong_mass: float | None
    calibration_error: float | None
    divergence: float | None


@dataclass(frozen=True)
class View:
    """A network's probabilities for a sentence, a list for each temperature.

    Attributes:
        network: Its name.
        probabilities: Of the classes shown.
        second_class: Its second class, whether shown or not; it is the same at all temperatures.
        last_class: Its last class.
        second: Of its second class.
        last: Of its last class.
        difference: (second - last) / second in %, from 0 to 100.
    """

    network: str
    probabilities: list[list[float]]
    second_class: str
    last_class: str
    second: list[float]
    last: list[float]
    difference: list[float]


@dataclass(frozen=True)
class Sentence:
    """A sentence and the classes that are shown of it.

    Attributes:
        text: The sentence.
        label: Its true class; None where it is not known.
        ranks: Places of the classes with the teacher, from 1, the likeliest.
        classes: Their names.
        views: The teacher's, then the student's.
    """

    text: str
    label: str | None
    ranks: list[int]
    classes: list[str]
    views: list[View]


@dataclass(frozen=True)
class Probe:
    """A teacher, maybe a student, at several temperatures.

    Attributes:
        sources: What each network is, by its name: a folder, a hub id.
        temperatures: As given.
        sentences: Those shown.
        levels: The split, by network and temperature.
        split: Its name.
        rows: Its number of rows.
        classes: Number of classes.
        accuracy: Share of the labelled rows where the likeliest class is the true one, by network.
        agreement: Share of the rows where teacher and student have the same likeliest class; None without a student.
        best_temperature: Where the labels of the split are likeliest, by network; None where there is no such.
    """

    sources: dict[str, str]
    temperatures: list[float]
    sentences: list[Sentence]
    levels: list[Level]
    split: str
    rows: int
    classes: int
    accuracy: dict[str, float]
    agreement: float | None
    best_temperature: dict[str, float | None]

    def json(self) -> str:
        """All numbers as they are."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def markdown(self) -> str:
        """A table for the split, and one for each sentence."""
        parts = [_markdown(*self._split_cells()), self.note()]
        for sentence in self.sentences:
            parts += [
                f"**{heading(sentence)}**".replace("|", r"\|"),
                _markdown(*self._sentence_cells(sentence, sentence.views)),
            ]
        return "\n\n".join(parts) + "\n"

    def tables(self) -> Iterator[Table]:
        """For the terminal."""
        for sentence in self.sentences:
            for view in sentence.views:  # side by side they would be wider than a terminal
                yield _table(f"{view.network}: {heading(sentence)}", "", *self._sentence_cells(sentence, [view]))
        yield _table(f"{self.split}, {self.rows:,} rows", self.note(), *self._split_cells())

    def note(self) -> str:
        """What belongs below the table of the split."""
        parts = [f"{self.split.capitalize()}, {self.rows:,} rows, {self.classes} classes"]
        if self.accuracy:
            parts.append("accuracy: " + ", ".join(f"{name} {value:.1%}" for name, value in self.accuracy.items()))
        if self.agreement is not None:
            parts.append(f"agreement: {self.agreement:.1%}")
        found = {name: value for name, value in self.best_temperature.items() if value is not None}
        if found:
            temperatures = ", ".join(f"{name} {value:.2f}" for name, value in found.items())
            parts.append(f"temperature at which the labels are likeliest: {temperatures}")
        units = (
            f"Entropy, at most {math.log(self.classes):.2f}, and KL in nats; calibration in {calibration.BINS} bins."
        )
        sources = ", ".join(f"{name}: {source}" for name, source in self.sources.items())
        return f"{'; '.join(parts)}. {units} {sources[0].upper()}{sources[1:]}."

    def _split_cells(self) -> tuple[list[str], list[list[str]]]:
        columns = ["network", "T", "entropy", "mass on wrong classes", "calibration error", "KL(teacher ‖ student)"]
        rows = [
            [
                level.network,
                f"{level.temperature:g}",
                f"{level.entropy:.3f}",
                *("" if value is None else f"{value:.2%}" for value in (level.wrong_mass, level.calibration_error)),
                "" if level.divergence is None else f"{level.divergence:.4f}",
            ]
            for level in self.levels
        ]
        shown = len(columns) if self.agreement is not None else len(columns) - 1
        return columns[:shown], [row[:shown] for row in rows]

    def _sentence_cells(self, sentence: Sentence, views: list[View]) -> tuple[list[str], list[list[str]]]:
        named = [f"{view.network}, " if len(views) > 1 else "" for view in views]
        heads = [f"{name}T = {t:g}" for name in named for t in self.temperatures]
        rows = [
            [name, str(rank), *(short(p[place]) for view in views for p in view.probabilities)]
            for place, (name, rank) in enumerate(zip(sentence.classes, sentence.ranks, strict=True))
        ]
        if self.classes > 2:  # of two classes the second is the last
            second = _named("2nd class", views, [view.second_class for view in views])
            last = _named("last class", views, [view.last_class for view in views])
            rows.append([second, "", *(short(p) for view in views for p in view.second)])
            rows.append([last, "", *(short(p) for view in views for p in view.last)])
            rows.append([DIFFERENCE, "", *(f"{value:.2f}" for view in views for value in view.difference)])
        return ["class", "teacher's rank", *heads], rows


def short(probability: float, digits: int = 3) -> str:
    """Three decimals, and of small ones so many digits that count."""
    return f"{probability:.3f}" if probability >= 0.1 else f"{probability:#.{digits}g}"


def heading(sentence: Sentence) -> str:
    """The sentence in one line, and its true class."""
    text = " ".join(sentence.text.split())
    return text if sentence.label is None else f"{text} ({sentence.label})"


def _named(place: str, views: list[View], names: list[str]) -> str:
    if len(set(names)) == 1:
        return f"{place}, {names[0]}"
    return f"{place}, " + ", ".join(f"{view.network}: {name}" for view, name in zip(views, names, strict=True))


def _markdown(columns: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in r)} |" for r in (columns, rule, *rows)
    )


def _table(title: str, caption: str, columns: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=escape(title), caption=escape(caption), box=SIMPLE, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
