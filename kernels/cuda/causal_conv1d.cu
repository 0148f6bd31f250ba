// Causal convolution and SiLU (formulas: calmgrad/ops/causal_conv1d.py). A thread takes one
// channel through RUN tokens, a block WARP channels through RUN * WARPS of them. With four taps,
// as all presets have, what a thread needs stays in its registers; any other number is slower.
#define WARPS 8
#define RUN 8
#define FOUR 4

// The sum over j of weight[j] * x[-j * row], as far as the sequence reaches back.
__device__ __forceinline__ real convolve(
    const real* x, index_t row, const real* weight, index_t taps, index_t pos) {
  real a = weight[0] * x[0];
  for (index_t j = 1; j < taps && j <= pos; j++) a += weight[j] * x[-j * row];
  return a;
}

__device__ __forceinline__ real silu(real a) { return a * sigmoid(a); }

// Times dy: the gradient of what silu was given.
__device__ __forceinline__ real silu_slope(real a) {
  const real s = sigmoid(a);
  return s * (real(1) + a * (real(1) - s));
}

// A channel's last four inputs within one sequence, 0 before it, and its taps.
struct Window {
  real x[FOUR], weight[FOUR];

  // For the tokens from `t` on; `from` is x at token t.
  __device__ Window(const real* from, index_t row, const real* taps, index_t pos) {
#pragma unroll
    for (int j = 0; j < FOUR; j++) weight[j] = taps[j];
    x[FOUR - 1] = 0;
#pragma unroll
    for (int j = 0; j < FOUR - 1; j++) x[j] = pos > j ? from[-(j + 1) * row] : real(0);
  }

  // The convolution at the next token.
  __device__ __forceinline__ real next(real input, index_t pos) {
#pragma unroll
    for (int j = FOUR - 1; j > 0; j--) x[j] = pos ? x[j - 1] : real(0);
    x[0] = input;
    real a = weight[0] * x[0];
#pragma unroll
    for (int j = 1; j < FOUR; j++) a += weight[j] * x[j];
    return a;
  }
};

extern "C" __global__ void __launch_bounds__(WARPS * WARP) causal_conv1d_forward(
    real* __restrict__ y, index_t y_row, const real* __restrict__ x, index_t x_row,
    const real* __restrict__ weight, const index_t* __restrict__ pos, index_t tokens,
    index_t channels, index_t taps) {
  const index_t c = index_t(blockIdx.x) * WARP + threadIdx.x;
  const index_t first = (index_t(blockIdx.y) * WARPS + threadIdx.y) * RUN;
  if (c >= channels || first >= tokens) return;
  const real* w = weight + c * taps;
  if (taps != FOUR) {
    for (index_t t = first; t < first + RUN && t < tokens; t++) {
      y[t * y_row + c] = silu(convolve(x + t * x_row + c, x_row, w, taps, pos[t]));
    }
    return;
  }
  Window window(x + first * x_row + c, x_row, w, pos[first]);
#pragma unroll
  for (int k = 0; k < RUN; k++) {
    const index_t t = first + k;
    if (t < tokens) y[t * y_row + c] = silu(window.next(x[t * x_row + c], pos[t]));
  }
}

// The sum over the warps of a block, in its first warp; all threads call it.
__device__ __forceinline__ real sum_of_warps(real x) {
  __shared__ real sums[WARPS][WARP];
  __syncthreads();  // the sums before have been read
  sums[threadIdx.y][threadIdx.x] = x;
  __syncthreads();
  for (int w = 1; w < WARPS; w++) x += sums[w][threadIdx.x];
  return x;
}

// partials: (blocks along the tokens, channels, taps), the weights' gradient from each block.
extern "C" __global__ void __launch_bounds__(WARPS * WARP, 4) causal_conv1d_backward(
    real* __restrict__ dx, index_t dx_row, real* __restrict__ partials, const real* __restrict__ dy,
    index_t dy_row, const real* __restrict__ x, index_t x_row, const real* __restrict__ weight,
    const index_t* __restrict__ pos, index_t tokens, index_t channels, index_t taps) {
  const index_t c = index_t(blockIdx.x) * WARP + threadIdx.x;
  const index_t first = (index_t(blockIdx.y) * WARPS + threadIdx.y) * RUN;
  const bool mine = c < channels && first < tokens;
  const real* w = weight + c * taps;
  real* part = partials + (blockIdx.y * channels + c) * taps;

  // The gradient of the convolution's result at token t, from memory.
  auto da_at = [&](index_t t) {
    const real a = convolve(x + t * x_row + c, x_row, w, taps, pos[t]);
    return dy[t * dy_row + c] * silu_slope(a);
  };

  if (taps != FOUR) {
    for (index_t t = first; mine && t < first + RUN && t < tokens; t++) {
      real sum = 0;
      for (index_t j = 0; j < taps && t + j < tokens && pos[t + j] >= j; j++) {
        sum += w[j] * da_at(t + j);
      }
      dx[t * dx_row + c] = sum;
    }
    for (index_t j = 0; j < taps; j++) {
      real sum = 0;
      for (index_t t = first; mine && t < first + RUN && t < tokens; t++) {
        if (pos[t] >= j) sum += x[(t - j) * x_row + c] * da_at(t);
      }
      sum = sum_of_warps(sum);
      if (threadIdx.y == 0 && c < channels) part[j] = sum;
    }
    return;
  }

  real dweight[FOUR] = {};
  if (mine) {
    Window window(x + first * x_row + c, x_row, w, pos[first]);
    real dx_of[FOUR] = {};  // of this token and the three before it, as far as is known
#pragma unroll
    for (int k = 0; k < RUN + FOUR - 1; k++) {  // the tokens behind the run reach back into it
      const index_t t = first + k;
      const index_t p = t < tokens ? pos[t] : 0;
      real da = 0;
      if (t < tokens) {
        da = dy[t * dy_row + c] * silu_slope(window.next(x[t * x_row + c], p));
      }
#pragma unroll
      for (int j = FOUR - 1; j > 0; j--) dx_of[j] = dx_of[j - 1];
      dx_of[0] = 0;
#pragma unroll
      for (int j = 0; j < FOUR; j++) {
        if (j <= p) dx_of[j] += window.weight[j] * da;
        if (k < RUN) dweight[j] += window.x[j] * da;
      }
      const index_t done = t - (FOUR - 1);
      if (k >= FOUR - 1 && done < tokens) dx[done * dx_row + c] = dx_of[FOUR - 1];
    }
  }
#pragma unroll
  for (int j = 0; j < FOUR; j++) {
    const real sum = sum_of_warps(dweight[j]);
    if (threadIdx.y == 0 && c < channels) part[j] = sum;
  }
}
