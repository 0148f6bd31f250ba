"""The state of a training step that stays on the device: (8,) float64, the control vector.

The host reads it once in a while; between two reads no kernel waits for it. The kernels in
optimizer.cu know the same numbers.
"""

LOSS = 0  # weighted sum of this step's token losses so far
NORM = 1  # of this step's gradient, before it is clipped
SCALE = 2  # what the update multiplies the gradient with
HEALTHY = 3  # 1; from the first loss or norm on that is not finite 0, and no update is made
LR = 4
STEP = 5  # updates made
CORRECTION1, CORRECTION2 = 6, 7  # 1 - beta^STEP, of AdamW's moments
SIZE = 8
