// Some rows of a matrix (formulas: calmgrad/ops/select_rows.py). `rows` ascend, none twice.

// A warp copies a row.
extern "C" __global__ void select_rows_forward(
    real* __restrict__ y, index_t y_row, const real* __restrict__ x, index_t x_row,
    const index_t* __restrict__ rows, index_t count, index_t columns) {
  const index_t k = row_of_this_warp();
  if (k >= count) return;
  const real* from = x + rows[k] * x_row;
  for (index_t c = threadIdx.x; c < columns; c += WARP) y[k * y_row + c] = from[c];
}

// A warp puts a row back, and 0 into those between the row before and it; the last one has only
// the zeros behind the last row.
extern "C" __global__ void select_rows_backward(
    real* __restrict__ dx, index_t dx_row, const real* __restrict__ dy, index_t dy_row,
    const index_t* __restrict__ rows, index_t count, index_t tokens, index_t columns) {
  const index_t k = row_of_this_warp();
  if (k > count) return;
  const index_t own = k < count ? rows[k] : tokens;
  for (index_t t = k ? rows[k - 1] + 1 : 0; t < own; t++) {
    for (index_t c = threadIdx.x; c < columns; c += WARP) dx[t * dx_row + c] = 0;
  }
  if (k == count) return;
  for (index_t c = threadIdx.x; c < columns; c += WARP) {
    dx[own * dx_row + c] = dy[k * dy_row + c];
  }
}
