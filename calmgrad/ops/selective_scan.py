"""The selective state space model at the heart of a Mamba block, with its step size and gate."""

from calmgrad.packing import Packing
from calmgrad.shapes import check
from calmgrad.tape import Tensor


def selective_scan(
    u: Tensor,
    z: Tensor,
    p: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    packing: Packing,
) -> Tensor:
    """Run each channel's N states over its sequence, read them out, and gate the result.

    `p` holds three things side by side: [dt_raw (R), B (N), C (N)].

    Forward, with A = -exp(A_log) and h = 0 before each sequence (c channel, n state)::

        dt[t, c]   = softplus(dt_raw[t] @ dt_weight[:, c] + dt_bias[c])
        a[t, c, n] = exp(dt[t, c] * A[c, n])
        h[t, c, n] = a[t, c, n] * h[t-1, c, n] + dt[t, c] * B[t, n] * u[t, c]
        y[t, c]    = sum_n C[t, n] * h[t, c, n] + D[c] * u[t, c]
        out[t, c]  = y[t, c] * silu(z[t, c])

    Backward, with s = sigmoid(z) and dE the gradient of the exponent E = dt * A; dh gathers what
    the later tokens of the sequence send back::

        dy = dout * z * s                 dz = dout * y * s * (1 + z * (1 - s))
        dh[t, c, n] = dy[t, c] * C[t, n] + a[t+1, c, n] * dh[t+1, c, n]
        dC[t, n] = sum_c dy * h           dB[t, n] = sum_c dh * dt * u
        dD[c] = sum_t dy * u              du = dt * sum_n dh * B + D * dy
        dE[t, c, n] = dh * h[t-1] * a     dA_log[c, n] = A * sum_t dE * dt
        ddt = sum_n (dE * A + dh * B * u), times softplus' = 1 - exp(-dt): now of its argument
        ddt_bias = sum_t ddt              ddt_raw = ddt @ dt_weight.T
        ddt_weight = dt_raw.T @ ddt

    Args:
        u: (T, C) the convolved input.
        z: (T, C) the gate.
        p: (T, R + 2N) of one projection of u.
        dt_weight: (R, C).
        dt_bias: (C,).
        A_log: (C, N).
        D: (C,).
        packing: where the sequences start.

    Returns:
        out, (T, C).

    Raises:
        ValueError: a shape disagrees with the letters above.

    Saves dt, y, and h before every sixteenth token of a sequence. Source: Mamba
    (arXiv:2312.00752), algorithm 2 and section 3.3; FORMATS §1.3–6.
    """
    dims = check(
        "selective_scan",
        u=(u.value, "T C"),
        z=(z.value, "T C"),
        dt_weight=(dt_weight.value, "R C"),
        dt_bias=(dt_bias.value, "C"),
        A_log=(A_log.value, "C N"),
        D=(D.value, "C"),
        pos=(packing.pos, "T"),
    )
    tokens, channels, states, rank = (dims[letter] for letter in "TCNR")
    if p.shape != (tokens, rank + 2 * states):
        raise ValueError(
            f"selective_scan: p has shape {p.shape}, expected (T, R + 2N)"
            f" = {(tokens, rank + 2 * states)}"
        )
    tape = u.tape
    kernels = tape.backend.kernels
    size = kernels.selective_scan_workspace(tokens, packing.chunks, channels, states)
    dt_raw, bc = p.value[:, :rank], p.value[:, rank:]
    out = tape.empty(u.shape)
    y = tape.values.take(u.shape)
    dt = tape.values.take(u.shape)
    checkpoints = tape.values.take((packing.chunks, states, channels))
    kernels.matmul(dt, dt_raw, dt_weight.value)
    with tape.scratch(size) as work:
        kernels.selective_scan_forward(
            out.value, y, dt, checkpoints,
            u.value, z.value, bc, dt_bias.value, A_log.value, D.value,
            packing.offsets, packing.chunk_offsets, work,
        )  # fmt: skip

    inputs = {
        "u": u, "z": z, "p": p, "dt_weight": dt_weight, "dt_bias": dt_bias, "A_log": A_log, "D": D,
    }  # fmt: skip

    @tape.record("selective_scan", out, inputs, {"dt": dt, "y": y, "h": checkpoints})
    def backward() -> None:
        ddt = tape.pool.take(u.shape)
        with (
            p.gradient() as dp,
            dt_weight.gradient() as ddt_weight,
            dt_bias.gradient() as ddt_bias,
            A_log.gradient() as dA_log,
            D.gradient() as dD,
        ):
            with u.gradient() as du, z.gradient() as dz, tape.scratch(size) as work:
                kernels.selective_scan_backward(
                    du, dz, ddt, dp[:, rank:], ddt_bias, dA_log, dD,
                    out.grad, y, dt, checkpoints,
                    u.value, z.value, bc, A_log.value, D.value,
                    packing.offsets, packing.chunk_offsets, work,
                )  # fmt: skip
            kernels.matmul(dp[:, :rank], ddt, dt_weight.value.T)
            kernels.matmul(ddt_weight, dt_raw.T, ddt)
        tape.pool.give(ddt)

    return out
