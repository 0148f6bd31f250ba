// GELU in its tanh form (formulas: calmgrad/ops/gelu.py). A warp takes a row.

#define SQRT_2_OVER_PI real(0.7978845608028654)
#define CUBIC real(0.044715)

extern "C" __global__ void gelu_forward(
    real* __restrict__ y, index_t y_row, const real* __restrict__ x, index_t x_row, index_t rows,
    index_t columns) {
  const index_t t = row_of_this_warp();
  if (t >= rows) return;
  for (index_t c = threadIdx.x; c < columns; c += WARP) {
    const real v = x[t * x_row + c];
    const real inner = SQRT_2_OVER_PI * (v + CUBIC * v * v * v);
    y[t * y_row + c] = real(0.5) * v * (real(1) + tanh(inner));
  }
}

extern "C" __global__ void gelu_backward(
    real* __restrict__ dx, index_t dx_row, const real* __restrict__ dy, index_t dy_row,
    const real* __restrict__ x, index_t x_row, index_t rows, index_t columns) {
  const index_t t = row_of_this_warp();
  if (t >= rows) return;
  for (index_t c = threadIdx.x; c < columns; c += WARP) {
    const real v = x[t * x_row + c];
    const real h = tanh(SQRT_2_OVER_PI * (v + CUBIC * v * v * v));
    const real slope = SQRT_2_OVER_PI * (real(1) + real(3) * CUBIC * v * v);
    const real rise = real(0.5) * (real(1) + h + v * (real(1) - h * h) * slope);
    dx[t * dx_row + c] = dy[t * dy_row + c] * rise;
  }
}
