"""How long it takes to get from logits to answers: this package against a loop over the n best starts and ends.

The loop is the usual post-processing of question answering, as the Hugging Face example does it: for each row of a
question the 20 best starts and the 20 best ends, one pair after the other; pairs outside the context, in the wrong
order or too long are skipped; the rest are sorted and the best is the answer. Both get the logits of the same network
on the same rows, in memory; the time of the network and of loading rows is left out. Prints the ratio, how many answers
are the same, and the scores of both.

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


def n_best_loop(rows: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """The answer to each question; a row has ``start``, ``end`` (arrays), ``offsets`` (None outside the context)."""
    answers = {}
    for name, parts in rows.items():
        candidates = []
        for part in parts:
            start_logits, end_logits, offsets = part["start"], part["end"], part["offsets"]
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
                            "context": part["context"],
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
        answers[name] = best[0]["text"] if best else ""
    return answers


def main() -> None:
    """Run the network, then both, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of a network for question answering")
    parser.add_argument("--data", required=True, help="SQuAD v1.1 in its original layout")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    task = QuestionAnswering(MAX_ANSWER_LENGTH)
    data = SQuADDataModule(args.data, args.model, eval_batch_size=32)
    data.setup("validate")
    network = AutoModelForQuestionAnswering.from_pretrained(args.model).eval()
    batches, rows = [], defaultdict(list)
    for batch in tqdm(data.val_dataloader(), desc="Logits"):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            output = call_model(network, batch)
        start, end = output.start_logits.float(), output.end_logits.float()
        batches.append((SimpleNamespace(start_logits=start, end_logits=end), batch))
        for number, name in enumerate(batch["id"]):
            first, after_last = batch["context_span"][number].tolist()
            offsets = batch["offsets"][number].tolist()
            inside = [pair if first <= place < after_last else None for place, pair in enumerate(offsets)]
            arrays = {"start": start[number].numpy(), "end": end[number].numpy()}
            rows[name].append({**arrays, "offsets": inside, "context": batch["context"][number]})
    references = {name: refs for _, batch in batches for name, refs in zip(batch["id"], batch["answers"], strict=True)}

    def package() -> dict[str, str]:
        parts = [task.predictions(task.outputs(output, batch), batch, []) for output, batch in batches]
        return {row["id"]: row["answer"] for row in task.merge_predictions([row for part in parts for row in part])}

    times: dict[str, list[float]] = {"n-best loop": [], "lightning_kd": []}
    answers = {}
    for _ in range(args.rounds):
        for name, decode in (("n-best loop", lambda: n_best_loop(rows)), ("lightning_kd", package)):
            started = time.perf_counter()
            answers[name] = decode()
            times[name].append(time.perf_counter() - started)
    loop, own = answers["n-best loop"], answers["lightning_kd"]
    table = Table(
        "", "s (best round)", "exact match", "F1", title=f"{len(own):,} questions, {args.rounds} rounds in turn"
    )
    for name, texts in answers.items():
        scores = np.array([score(text, references[question], "1.1") for question, text in texts.items()]).mean(axis=0)
        table.add_row(name, f"{min(times[name]):.2f}", f"{scores[0]:.4f}", f"{scores[1]:.4f}")
    metrics = task.metrics([])
    for output, batch in batches:
        task.update(metrics, task.outputs(output, batch), batch)
    logged = metrics.compute()
    table.add_row("as logged in training", "", f"{logged['exact_match']:.4f}", f"{logged['f1']:.4f}")
    Console().print(table)
    same = sum(own[name] == text for name, text in loop.items())
    ratio = min(times["lightning_kd"]) / min(times["n-best loop"])
    print(f"time of lightning_kd / time of the loop: {ratio:.3f}; {same:,} of {len(loop):,} answers are the same")


if __name__ == "__main__":
    main()
