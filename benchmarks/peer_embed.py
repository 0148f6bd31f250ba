"""Run by embed.py with the Python of an environment that has calm-mamba and PyTorch.

Reads sequences as JSON, then embeds them once for each line and prints the seconds it took.
"""

import json
import sys
import time

import torch
from calm import CalmLM, CalmTokenizer
from peer_step import SIZES


def main() -> None:
    d_model, n_layers, ffn_expand, expand = SIZES[sys.argv[1]]
    torch.set_num_threads(int(sys.argv[2]))
    config = {
        "model": {
            "d_model": d_model, "n_layers": n_layers, "ffn_expand": ffn_expand,
            "mamba_expand": expand, "mamba_d_state": 16, "mamba_d_conv": 4, "l_max": 768,
        },
        "training": {},
    }  # fmt: skip
    model = CalmLM.from_config(config, tokenizer=CalmTokenizer())
    model.eval()
    sequences = json.loads(sys.stdin.readline())
    longest = max(map(len, sequences))
    for _ in sys.stdin:
        began = time.perf_counter()
        ids = torch.full((len(sequences), longest), 256)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, tokens in enumerate(sequences):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        with torch.inference_mode():
            model.embed(ids, attention_mask=mask)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
