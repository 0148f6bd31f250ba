// LayerNorm of every row (formulas: calmgrad/ops/layer_norm.py).

// A warp takes a row. It reads it three times; the second and third time it is in the cache.
extern "C" __global__ void layer_norm_forward(
    real* __restrict__ y, index_t y_row, real* __restrict__ mean, real* __restrict__ rstd,
    const real* __restrict__ x, index_t x_row, const real* __restrict__ weight,
    const real* __restrict__ bias, index_t rows, index_t columns, real eps) {
  const index_t t = row_of_this_warp();
  if (t >= rows) return;
  const real* from = x + t * x_row;
  real sum = 0;
  for (index_t c = threadIdx.x; c < columns; c += WARP) sum += from[c];
  const real m = warp_sum(sum) / real(columns);
  real squares = 0;
  for (index_t c = threadIdx.x; c < columns; c += WARP) squares += (from[c] - m) * (from[c] - m);
  const real r = real(1) / sqrt(warp_sum(squares) / real(columns) + eps);
  for (index_t c = threadIdx.x; c < columns; c += WARP) {
    y[t * y_row + c] = (from[c] - m) * r * weight[c] + bias[c];
  }
  if (threadIdx.x == 0) {
    mean[t] = m;
    rstd[t] = r;
  }
}

// A block takes ROWS rows: first each of its warps some of them, for dx; then, from the cache,
// WARP columns after WARP columns of all of them, for its part of dweight and dbias.
// partials: (blocks, 2, columns).
#define WARPS 8
#define ROWS 32

extern "C" __global__ void __launch_bounds__(WARPS * WARP) layer_norm_backward(
    real* __restrict__ dx, index_t dx_row, real* __restrict__ partials, const real* __restrict__ dy,
    index_t dy_row, const real* __restrict__ x, index_t x_row, const real* __restrict__ mean,
    const real* __restrict__ rstd, const real* __restrict__ weight, index_t rows, index_t columns,
    index_t accumulate) {
  __shared__ real sums[2][WARPS][WARP];
  const index_t first = index_t(blockIdx.x) * ROWS;
  const index_t last = first + ROWS < rows ? first + ROWS : rows;
  const int lane = threadIdx.x, warp = threadIdx.y;
  for (index_t t = first + warp; t < last; t += WARPS) {
    const real m = mean[t], r = rstd[t];
    real sum = 0, along = 0;
    for (index_t c = lane; c < columns; c += WARP) {
      const real g = dy[t * dy_row + c] * weight[c];
      sum += g;
      along += g * (x[t * x_row + c] - m) * r;
    }
    sum = warp_sum(sum) / real(columns);
    along = warp_sum(along) / real(columns);
    for (index_t c = lane; c < columns; c += WARP) {
      const real g = dy[t * dy_row + c] * weight[c];
      const real share = r * (g - sum - (x[t * x_row + c] - m) * r * along);
      dx[t * dx_row + c] = accumulate ? dx[t * dx_row + c] + share : share;
    }
  }
  for (index_t start = 0; start < columns; start += WARP) {
    const index_t c = start + lane;
    real dweight = 0, dbias = 0;
    for (index_t t = first + warp; c < columns && t < last; t += WARPS) {
      const real g = dy[t * dy_row + c];
      dbias += g;
      dweight += g * (x[t * x_row + c] - mean[t]) * rstd[t];
    }
    sums[0][warp][lane] = dweight;
    sums[1][warp][lane] = dbias;
    __syncthreads();
    if (warp < 2 && c < columns) {
      real total = 0;
      for (int w = 0; w < WARPS; w++) total += sums[warp][w][lane];
      partials[(index_t(blockIdx.x) * 2 + warp) * columns + c] = total;
    }
    __syncthreads();
  }
}
