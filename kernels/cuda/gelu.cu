// GELU in its tanh form (formulas: calmgrad/ops/gelu.py). One thread an element.

#define SQRT_2_OVER_PI real(0.7978845608028654)
#define CUBIC real(0.044715)

extern "C" __global__ void gelu_forward(real* y, const real* x, index_t size) {
  const index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const real v = SQRT_2_OVER_PI * (x[i] + CUBIC * x[i] * x[i] * x[i]);
  y[i] = real(0.5) * x[i] * (real(1) + tanh(v));
}

extern "C" __global__ void gelu_backward(real* dx, const real* dy, const real* x, index_t size) {
  const index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  const real t = tanh(SQRT_2_OVER_PI * (x[i] + CUBIC * x[i] * x[i] * x[i]));
  const real slope = SQRT_2_OVER_PI * (real(1) + real(3) * CUBIC * x[i] * x[i]);
  dx[i] = dy[i] * real(0.5) * (real(1) + t + x[i] * (real(1) - t * t) * slope);
}
