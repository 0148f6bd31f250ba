// Rows of length one (formulas: calmgrad/ops/l2_normalize.py). A warp takes a row.

// The longer of the two; NaN if `norm` is.
__device__ __forceinline__ real divisor(real norm, real eps) { return norm <= eps ? eps : norm; }

extern "C" __global__ void l2_normalize_forward(
    real* __restrict__ y, index_t y_row, real* __restrict__ norm, const real* __restrict__ x,
    index_t x_row, index_t rows, index_t columns, real eps) {
  const index_t b = row_of_this_warp();
  if (b >= rows) return;
  real sum = 0;
  for (index_t c = threadIdx.x; c < columns; c += WARP) sum += x[b * x_row + c] * x[b * x_row + c];
  const real length = sqrt(warp_sum(sum));
  for (index_t c = threadIdx.x; c < columns; c += WARP) {
    y[b * y_row + c] = x[b * x_row + c] / divisor(length, eps);
  }
  if (threadIdx.x == 0) norm[b] = length;
}

extern "C" __global__ void l2_normalize_backward(
    real* __restrict__ dx, index_t dx_row, const real* __restrict__ dy, index_t dy_row,
    const real* __restrict__ y, index_t y_row, const real* __restrict__ norm, index_t rows,
    index_t columns, real eps) {
  const index_t b = row_of_this_warp();
  if (b >= rows) return;
  real along = 0;
  for (index_t c = threadIdx.x; c < columns; c += WARP) {
    along += y[b * y_row + c] * dy[b * dy_row + c];
  }
  along = norm[b] > eps ? warp_sum(along) : real(0);
  for (index_t c = threadIdx.x; c < columns; c += WARP) {
    const real change = dy[b * dy_row + c] - y[b * y_row + c] * along;
    dx[b * dx_row + c] = change / divisor(norm[b], eps);
  }
}
