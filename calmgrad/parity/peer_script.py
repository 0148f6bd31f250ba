# mypy: ignore-errors
"""Run by the peer's Python, alone: one pass of calm-mamba with hooks, written as a dump.

Takes a folder with model.cwgt and batch.npz; writes dump.npz into it. Every sequence is run by
itself, without padding; what a target weighs in the loss comes with the batch.
"""

import os
import sys

import numpy as np
import torch
from calm.checkpoint import load_cwgt


def main(folder):
    loaded = load_cwgt(os.path.join(folder, "model.cwgt"))
    model = next(
        x for x in (loaded if isinstance(loaded, tuple) else (loaded,)) if hasattr(x, "blocks")
    )
    model = model.cpu().eval()
    batch = np.load(os.path.join(folder, "batch.npz"))
    held = {}  # name -> the tensors of each sequence
    watch(model, held)
    total = 0.0
    for first, end in zip(batch["offsets"][:-1], batch["offsets"][1:], strict=True):
        tokens = torch.from_numpy(batch["tokens"][first:end])
        wanted = torch.from_numpy(batch["targets"][first:end])
        share = torch.from_numpy(batch["shares"][first:end].astype(np.float32))
        logits = model(tokens[None])[0]
        nll = torch.nn.functional.cross_entropy(logits, wanted, reduction="none", ignore_index=-1)
        keep(held, "nll", nll[None, :, None])
        total = total + (nll * share).sum()
    total.backward()
    arrays = {"tokens": batch["tokens"], "offsets": batch["offsets"]}
    for name, tensors in held.items():
        arrays[name] = np.concatenate([rows(t) for t in tensors])
        if all(t.grad is not None for t in tensors):
            arrays["grad/" + name] = np.concatenate([rows(t.grad) for t in tensors])
    arrays["nll"] = arrays["nll"][:, 0]
    arrays.pop("grad/nll", None)
    arrays["loss"] = np.float32(total.item())
    for name, parameter in model.named_parameters():
        if parameter.grad is None or name == "lm_head.weight":
            continue
        linear = parameter.grad.ndim == 2 and name.endswith(".weight") and "token_emb" not in name
        gradient = parameter.grad.numpy()
        arrays["grad/" + name] = np.ascontiguousarray(gradient.T if linear else gradient)
    np.savez(os.path.join(folder, "dump.npz"), **arrays)


def rows(tensor):
    return tensor.detach().numpy()[0]


def keep(held, name, tensor):
    if tensor.requires_grad:
        tensor.retain_grad()
    held.setdefault(name, []).append(tensor)


def watch(model, held):
    """Have every module leave what it gives, and some what they read."""

    def output(name):
        return lambda module, given, made: keep(held, name, made)

    def reading(name):
        return lambda module, given: keep(held, name, given[0])

    model.token_emb.register_forward_hook(output("token_emb"))
    model.ln_f.register_forward_hook(output("ln_f"))
    model.lm_head.register_forward_hook(output("logits"))
    for i, block in enumerate(model.blocks):
        b, mixer = f"blocks.{i}", block.mixer
        for part in ("ln1", "ln2", "ffn_fc1", "ffn_fc2"):
            getattr(block, part).register_forward_hook(output(f"{b}.{part}"))
        block.ln2.register_forward_pre_hook(reading(f"{b}.residual1"))
        block.ffn_fc2.register_forward_pre_hook(reading(f"{b}.gelu"))
        block.register_forward_hook(output(f"{b}.residual2"))
        for part in ("in_proj", "x_proj", "dt_proj", "out_proj"):
            getattr(mixer, part).register_forward_hook(output(f"{b}.mixer.{part}"))
        mixer.x_proj.register_forward_pre_hook(reading(f"{b}.mixer.u"))
        mixer.out_proj.register_forward_pre_hook(reading(f"{b}.mixer.gated"))
        around(mixer, "_causal_depthwise_conv1d", conv_watcher(held, f"{b}.mixer"))
        around(mixer, "_ssm_scan", scan_watcher(held, f"{b}.mixer"))


def around(mixer, method, watcher):
    """Have a method tell what it reads and gives, if this version has it."""
    inner = getattr(mixer, method, None)
    if inner is not None:
        setattr(mixer, method, watcher(inner))


def conv_watcher(held, name):
    def watcher(inner):
        def run(x, kernel):
            rows_first = inner(x, kernel).transpose(1, 2).contiguous()
            keep(held, f"{name}.conv1d", rows_first)
            return rows_first.transpose(1, 2)

        return run

    return watcher


def scan_watcher(held, name):
    def watcher(inner):
        def run(x, dt, A, B, C):
            keep(held, f"{name}.dt", dt)
            y = inner(x, dt, A, B, C)
            y = y.clone()
            keep(held, f"{name}.y", y)
            return y

        return run

    return watcher


main(sys.argv[1])
