// One row a sequence (formulas: calmgrad/ops/pool.py). A block takes WARP columns of a sequence,
// blockIdx.y counts them; its warps take turns with the tokens.
#define WARPS 16

extern "C" __global__ void __launch_bounds__(WARPS * WARP) pool_forward(
    real* __restrict__ y, index_t y_row, const real* __restrict__ x, index_t x_row,
    const index_t* __restrict__ offsets, index_t columns, index_t last) {
  __shared__ real sums[WARPS][WARP];
  const index_t b = blockIdx.x, c = index_t(blockIdx.y) * WARP + threadIdx.x;
  const index_t start = offsets[b], stop = offsets[b + 1];
  real sum = 0;
  if (c < columns && !last) {
    for (index_t t = start + threadIdx.y; t < stop; t += WARPS) sum += x[t * x_row + c];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y || c >= columns) return;
  for (int w = 1; w < WARPS; w++) sum += sums[w][threadIdx.x];
  y[b * y_row + c] = last ? x[(stop - 1) * x_row + c] : sum / real(stop - start);
}

extern "C" __global__ void __launch_bounds__(WARPS * WARP) pool_backward(
    real* __restrict__ dx, index_t dx_row, const real* __restrict__ dy, index_t dy_row,
    const index_t* __restrict__ offsets, index_t columns, index_t last) {
  const index_t b = blockIdx.x, c = index_t(blockIdx.y) * WARP + threadIdx.x;
  if (c >= columns) return;
  const index_t start = offsets[b], stop = offsets[b + 1];
  const real share = last ? real(0) : dy[b * dy_row + c] / real(stop - start);
  for (index_t t = start + threadIdx.y; t < stop; t += WARPS) {
    dx[t * dx_row + c] = last && t == stop - 1 ? dy[b * dy_row + c] : share;
  }
}
