"""Run by train_step.py with the Python of an environment that has calm-mamba and PyTorch.

Reads a batch as JSON, then makes one training step for each line and prints its seconds.
"""

import json
import sys
import time

import torch
from calm import CalmLM, CalmTokenizer
from calm.dataset import CalmBatchCollator

SIZES = {
    "nano": (64, 3, 2, 2),
    "micro": (96, 5, 3, 2),
    "mini": (128, 6, 4, 3),
    "small": (192, 8, 4, 4),
}


def main() -> None:
    d_model, n_layers, ffn_expand, expand = SIZES[sys.argv[1]]
    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    config = {
        "model": {
            "d_model": d_model, "n_layers": n_layers, "ffn_expand": ffn_expand,
            "mamba_expand": expand, "mamba_d_state": 16, "mamba_d_conv": 4, "l_max": 768,
        },
        "training": {},
    }  # fmt: skip
    model = CalmLM.from_config(config, tokenizer=CalmTokenizer())
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    batch = json.loads(sys.stdin.readline())
    pairs = list(zip(batch["tokens"], batch["positions"], strict=True))
    collate = CalmBatchCollator()
    for _ in sys.stdin:
        began = time.perf_counter()
        tokens, positions = collate(pairs)
        optimizer.zero_grad(set_to_none=True)
        model.loss(tokens, cmd_positions=positions).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
