"""Compare the speed of decoding answers from logits with a loop over the n best starts and ends.

The loop is the usual postprocessing of question answering, as in the Hugging Face example: for each window of a
question, it visits all pairs of the 20 best starts and the 20 best ends, skips those that are outside the context, in
the wrong order or too long, and sorts the rest; the best one is the answer. Both decode the same logits in memory; the
time of the model and of loading data is excluded. Prints the ratio of the times, the number of equal answers and the
scores of both.

    python benchmarks/span_decoding.py --model <folder> --data <SQuAD folder>
"""

import argparse
import time
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from squad_rules import score
from tqdm import tqdm
from transformers import AutoModelForQuestionAnswering

from lightning_kd import QuestionAnswering, SQuADDataModule
from lightning_kd.models import call_model

N_BEST = 20
MAX_ANSWER_LENGTH = 30


def n_best_loop(windows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Return the answer to each question.

    Args:
        windows: Windows by question id, each with ``start`` and ``end`` (logits), ``context``, and ``offsets`` (None
            outside the context).
    """
    answers = {}
    for question_id, question_windows in windows.items():
        candidates = []
        for window in question_windows:
            start_logits, end_logits, offsets = window["start"], window["end"], window["offsets"]
            starts = np.argsort(start_logits)[-1 : -N_BEST - 1 : -1].tolist()
            ends = np.argsort(end_logits)[-1 : -N_BEST - 1 : -1].tolist()
            for start in starts:
                for end in ends:
                    if start >= len(offsets) or end >= len(offsets) or offsets[start] is None or offsets[end] is None:
                        continue
                    if end < start or end - start + 1 > MAX_ANSWER_LENGTH:
                        continue
                    candidates.append(
                        {
                            "offsets": (offsets[start][0], offsets[end][1]),
                            "score": start_logits[start] + end_logits[end],
                            "context": window["context"],
                        }
                    )
        best = sorted(candidates, key=lambda candidate: candidate["score"], reverse=True)[:N_BEST]
        for candidate in best:
            first, last = candidate["offsets"]
            candidate["text"] = candidate["context"][first:last]
        scores = np.array([candidate["score"] for candidate in best])
        exponentials = np.exp(scores - scores.max()) if len(best) else scores
        for candidate, probability in zip(best, exponentials / max(exponentials.sum(), 1e-9), strict=True):
            candidate["probability"] = probability
        answers[question_id] = best[0]["text"] if best else ""
    return answers


def main() -> None:
    """Compute the logits, time both decoders and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of a question answering model")
    parser.add_argument("--data", required=True, help="folder of SQuAD v1.1 in the original layout")
    parser.add_argument("--rounds", type=int, default=3, help="number of alternating rounds (default: %(default)s)")
    args = parser.parse_args()
    task = QuestionAnswering(MAX_ANSWER_LENGTH)
    data = SQuADDataModule(args.data, args.model, eval_batch_size=32)
    data.setup("validate")
    model = AutoModelForQuestionAnswering.from_pretrained(args.model).eval()
    batches, windows = [], defaultdict(list)
    for batch in tqdm(data.val_dataloader(), desc="Logits"):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            output = call_model(model, batch)
        start, end = output.start_logits.float(), output.end_logits.float()
        batches.append((SimpleNamespace(start_logits=start, end_logits=end), batch))
        for index, question_id in enumerate(batch["id"]):
            first, after_last = batch["context_span"][index].tolist()
            offsets = [
                span if first <= position < after_last else None
                for position, span in enumerate(batch["offsets"][index].tolist())
            ]
            logits = {"start": start[index].numpy(), "end": end[index].numpy()}
            windows[question_id].append({**logits, "offsets": offsets, "context": batch["context"][index]})
    references = {
        question_id: answers
        for _, batch in batches
        for question_id, answers in zip(batch["id"], batch["answers"], strict=True)
    }

    def lightning_kd_decoder() -> dict[str, str]:
        parts = [task.predictions(task.outputs(output, batch), batch, []) for output, batch in batches]
        return {row["id"]: row["answer"] for row in task.merge_predictions([row for part in parts for row in part])}

    times: dict[str, list[float]] = {"n-best loop": [], "lightning_kd": []}
    answers = {}
    for _ in range(args.rounds):
        for name, decode in (("n-best loop", lambda: n_best_loop(windows)), ("lightning_kd", lightning_kd_decoder)):
            started = time.perf_counter()
            answers[name] = decode()
            times[name].append(time.perf_counter() - started)
    num_questions = len(references)
    table = Table(
        "",
        "best round (s)",
        "exact match",
        "F1",
        title=f"{num_questions:,} questions, {args.rounds} alternating rounds",
    )
    for name, decoded in answers.items():
        scores = np.array([score(text, references[key], "1.1") for key, text in decoded.items()]).mean(axis=0)
        table.add_row(name, f"{min(times[name]):.2f}", f"{scores[0]:.4f}", f"{scores[1]:.4f}")
    metrics = task.metrics([])
    for output, batch in batches:
        task.update(metrics, task.outputs(output, batch), batch)
    logged = metrics.compute()
    table.add_row("metrics of the task", "", f"{logged['exact_match']:.4f}", f"{logged['f1']:.4f}")
    Console().print(table)
    equal = sum(answers["lightning_kd"][key] == text for key, text in answers["n-best loop"].items())
    ratio = min(times["lightning_kd"]) / min(times["n-best loop"])
    print(f"time of lightning_kd / time of the loop: {ratio:.3f}; {equal:,} of {num_questions:,} answers are equal")


if __name__ == "__main__":
    main()
