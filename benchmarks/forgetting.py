"""How much a model forgets of its first data while it learns others, with EWC and without.

    python benchmarks/forgetting.py [--json benchmarks/results/forgetting.json]

A nano model learns shell sessions (A: the demo's). Then it learns to write numbers in words (B),
at several strengths of EWC; at each, the losses on unseen data of A and B are compared with
those before B. "even" is a spring of the same mean stiffness on every weight: what the Fisher
diagonal adds is the difference to it. About five minutes on two idle cores.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

import calmgrad
from calmgrad.continual import set_fisher
from calmgrad.data import Dataset
from calmgrad.demo import demo_data
from calmgrad.evaluation import compare
from calmgrad.formats import ctds
from calmgrad.loop import Course, Plan, fit
from calmgrad.tokenizer import ATN, BOS, DEF, END, EOS, WORD

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
STRENGTHS = {"fisher": (0.0, 1e2, 1e3, 1e4), "even": (1e3, 1e4)}


def in_words(number: int) -> str:
    """12 -> "twelve", up to 9999."""
    if number < 20:
        return ONES[number]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = f" {in_words(number % size)}" if number % size else ""
            return f"{in_words(number // size)} {name}{rest}"
    rest = f"-{ONES[number % 10]}" if number % 10 else ""
    return TENS[number // 10 - 2] + rest


def numbers(count: int, seed: int) -> tuple[Dataset, Dataset]:
    """Numbers and their names, a tenth of them for validation."""
    drawn = np.random.default_rng(seed).permutation(10_000)[:count]
    rows, positions = [], []
    for number in drawn.tolist():
        head = [BOS, WORD, *str(number).encode(), END]
        rows.append([*head, ATN, DEF, *in_words(number).encode(), END, EOS])
        positions.append(len(head))
    some = count // 10
    training = Dataset(ctds.pack(rows[some:], positions[some:]))
    return training, Dataset(ctds.pack(rows[:some], positions[:some]))


def train(model: calmgrad.Model, data: Dataset, steps: int, lr: float, **keys: Any) -> None:
    """Some updates of batches of 32, warm-up and cosine."""
    plan = Plan(100, 32, lr, warmup_steps=20, max_steps=steps)
    with calmgrad.Trainer(model, lr=lr, **keys) as trainer:
        fit(trainer, data, Course(plan, data.lengths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the results here too")
    parser.add_argument("--steps", type=int, nargs=2, default=(900, 300), help="of A and of B")
    given = parser.parse_args()
    first, first_val = (Dataset(ctds.pack(*part)) for part in demo_data(0, 8_000, 500))
    second, second_val = numbers(4_000, 0)
    old = calmgrad.new_model("nano", seed=0)
    began = time.monotonic()
    train(old, first, given.steps[0], 1e-3)
    with calmgrad.Trainer(old) as trainer:
        set_fisher(trainer, [first.sample(2_000)])
    print(f"A learned, Fisher computed: {time.monotonic() - began:.0f} s", file=sys.stderr)
    assert old.fisher is not None
    springs = {"fisher": old.fisher, "even": np.full_like(old.fisher, old.fisher.mean())}
    results = []
    for name, fisher in springs.items():
        for strength in STRENGTHS[name]:
            data = replace(old.data(), weights=old.weights.copy(), fisher=fisher)
            model = calmgrad.Model(data)
            train(model, second, given.steps[1], 5e-4, ewc_lambda=strength)
            a, b = compare(old, model, first_val), compare(old, model, second_val)
            row = {
                "spring": name,
                "ewc_lambda": strength,
                "a_before": a.before.token_mean,
                "a_after": a.after.token_mean,
                "b_before": b.before.token_mean,
                "b_after": b.after.token_mean,
            }
            results.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
            print(results[-1], file=sys.stderr, flush=True)
    report = {"steps": list(given.steps), "rows": results}
    print(json.dumps(report, indent=1))
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
