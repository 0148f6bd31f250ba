"""calm-mamba on PyTorch as a worker; runs under a Python that has both, without calmgrad.

`scan` chooses how the selective scan is computed: "loop" as calm-mamba does it; "stack", the
same loop collecting its outputs in a list; "pscan", mambapy's parallel scan.
"""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from calm import CalmLM, CalmMambaOperator, CalmTokenizer
from calm.dataset import CalmBatchCollator
from serving import serve

Call = Callable[[], object]
SIZES = {
    "nano": (64, 3, 2, 2),
    "micro": (96, 5, 3, 2),
    "mini": (128, 6, 4, 3),
    "small": (192, 8, 4, 4),
}
EVALUATED_AT_ONCE = 32  # sequences, as calm-train's validation by default


def prepare(settings: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
    """The call of `settings["task"]`, and the versions it runs with."""
    torch.set_num_threads(settings["threads"])
    scan = settings.get("scan", "loop")
    if scan != "loop":
        CalmMambaOperator._ssm_scan = SCANS[scan]
    call = TASKS[settings["task"]](settings)
    about = {"calm-mamba": version("calm-mamba"), "torch": torch.__version__}
    if scan == "pscan":
        about["mambapy"] = version("mambapy")
    return call, about


def new_model(size: str) -> Any:
    """A model of one of the preset sizes."""
    d_model, n_layers, ffn_expand, expand = SIZES[size]
    sizes = {
        "d_model": d_model, "n_layers": n_layers, "ffn_expand": ffn_expand,
        "mamba_expand": expand, "mamba_d_state": 16, "mamba_d_conv": 4, "l_max": 768,
    }  # fmt: skip
    torch.manual_seed(0)
    return CalmLM.from_config({"model": sizes, "training": {}}, tokenizer=CalmTokenizer())


# --- tasks ------------------------------------------------------------------------------------


def train(settings: dict[str, Any]) -> Call:
    """Training steps (one) on the same batch, collated and run as calm-train does it.

    On a GPU its Triton kernels do the scan; with `amp` in bfloat16. Every loss is read at once.
    """
    device = torch.device(settings.get("device", "cpu"))
    model = new_model(settings["size"]).to(device)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    pairs = list(zip(settings["tokens"], settings["positions"], strict=True))
    collate = CalmBatchCollator()
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=settings.get("amp", False))

    def step() -> None:
        tokens, positions = (x.to(device) for x in collate(pairs))
        optimizer.zero_grad(set_to_none=True)
        with mixed:
            loss = model.loss(tokens, cmd_positions=positions)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    def call() -> dict[str, int]:
        for _ in range(settings.get("steps", 1)):
            step()
        if device.type != "cuda":
            return {}
        torch.cuda.synchronize()
        return {"device_bytes": torch.cuda.max_memory_allocated()}

    return call


def evaluate(settings: dict[str, Any]) -> Call:
    """The losses of all batches."""
    model = new_model(settings["size"])
    model.eval()
    pairs = list(zip(settings["tokens"], settings["positions"], strict=True))
    collate = CalmBatchCollator()

    def losses() -> None:
        with torch.no_grad():
            for start in range(0, len(pairs), EVALUATED_AT_ONCE):
                tokens, positions = collate(pairs[start : start + EVALUATED_AT_ONCE])
                model.loss(tokens, cmd_positions=positions).item()

    return losses


def generate(settings: dict[str, Any]) -> Call:
    """A greedy completion of the next prompt by calm-inference; tells the tokens of all."""
    from itertools import cycle

    from calm.checkpoint import load_cwgt
    from calm.cli.inference import generate as complete

    model = load_cwgt(settings["path"])[0]
    model.eval()
    tokenizer = CalmTokenizer()
    prompts = cycle(enumerate(settings["prompts"]))
    tokens: dict[str, list[int]] = {}

    def call() -> dict[str, list[int]]:
        i, prompt = next(prompts)
        found = complete(model, prompt, tokenizer, temperature=0.0, max_tokens=settings["count"])
        tokens[str(i)] = found.tokens
        return tokens

    return call


def embed(settings: dict[str, Any]) -> Call:
    """Vectors of all sequences, padded to the longest."""
    model = new_model(settings["size"])
    model.eval()
    sequences = settings["tokens"]
    longest = max(map(len, sequences))

    def call() -> None:
        ids = torch.full((len(sequences), longest), 256)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for row, tokens in enumerate(sequences):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        with torch.inference_mode():
            model.embed(ids, attention_mask=mask)

    return call


TASKS: dict[str, Callable[[dict[str, Any]], Call]] = {
    "train": train,
    "evaluate": evaluate,
    "embed": embed,
    "generate": generate,
}


# --- other scans ------------------------------------------------------------------------------


def stacked(self: Any, x: Any, dt: Any, A: Any, B: Any, C: Any) -> Any:
    """The loop, without writing into a tensor that the graph holds."""
    state = x.new_zeros(x.shape[0], x.shape[2], A.shape[1])
    outputs = []
    for xt, step, b, c in zip(x.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        decay = torch.exp(step[..., None] * A)
        state = decay * state + (step * xt)[..., None] * b[:, None]
        outputs.append((state * c[:, None]).sum(-1))
    return torch.stack(outputs, 1) + self.D * x


def parallel(self: Any, x: Any, dt: Any, A: Any, B: Any, C: Any) -> Any:
    """mambapy's scan: all decays and drives in memory, then a tree of products."""
    from mambapy.pscan import pscan

    decay = torch.exp(dt[..., None] * A)
    drive = (dt * x)[..., None] * B[:, :, None]
    states = pscan(decay, drive)
    return (states @ C[..., None]).squeeze(-1) + self.D * x


SCANS = {"stack": stacked, "pscan": parallel}

if __name__ == "__main__":
    serve(prepare)
