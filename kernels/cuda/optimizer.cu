// Updates over flat buffers, and what decides about them (formulas: FORMATS, paragraph 7). A
// thread takes an element. `control` is the state of the step: kernels/cuda/control.py.

#define LOSS 0
#define NORM 1
#define SCALE 2
#define HEALTHY 3
#define LR 4
#define STEP 5
#define CORRECTION1 6
#define CORRECTION2 7

#define THREADS 256
#define MOST_THREADS 1024

__device__ __forceinline__ index_t my_element() {
  return index_t(blockIdx.x) * blockDim.x + threadIdx.x;
}

// The sum over a block of whole warps, in its first thread; all threads call it, once.
__device__ __forceinline__ double block_sum(double x) {
  __shared__ double sums[WARP];
  x = warp_sum(x);
  if (threadIdx.x % WARP == 0) sums[threadIdx.x / WARP] = x;
  __syncthreads();
  for (int w = 1; w < blockDim.x / WARP; w++) x += sums[w];
  return x;
}

// Each block adds up the squares of equally many elements: partials[block].
extern "C" __global__ void __launch_bounds__(THREADS) sum_squares(
    double* partials, const real* x, index_t size) {
  double sum = 0;
  for (index_t i = my_element(); i < size; i += index_t(gridDim.x) * blockDim.x) {
    sum += double(x[i]) * double(x[i]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// One block: result[0] = the sum of all partials.
extern "C" __global__ void __launch_bounds__(THREADS) sum_of_squares(
    double* result, const double* partials, index_t count) {
  double sum = 0;
  for (index_t i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) result[0] = sum;
}

extern "C" __global__ void begin_step(double* control) {
  if (threadIdx.x == 0) control[LOSS] = 0;
}

// One block: adds the weighted losses of all tokens.
extern "C" __global__ void __launch_bounds__(MOST_THREADS) sum_losses(
    double* control, const real* nll, const real* weights, index_t count) {
  double sum = 0;
  for (index_t i = threadIdx.x; i < count; i += blockDim.x) {
    sum += double(nll[i]) * double(weights[i]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) control[LOSS] += sum;
}

// One block: is there anything wrong with this step? If not, it counts.
extern "C" __global__ void __launch_bounds__(THREADS) judge(
    double* control, const double* partials, index_t count, double grad_clip, double beta1,
    double beta2) {
  double sum = 0;
  for (index_t i = threadIdx.x; i < count; i += blockDim.x) sum += partials[i];
  const double norm = sqrt(block_sum(sum));
  if (threadIdx.x) return;
  control[NORM] = norm;
  const double clipped = grad_clip / (norm + 1e-6);
  control[SCALE] = grad_clip > 0 && clipped < 1 ? clipped : 1.0;
  if (!isfinite(norm) || !isfinite(control[LOSS])) control[HEALTHY] = 0;
  if (control[HEALTHY] == 0) return;
  const double step = control[STEP] + 1;
  control[STEP] = step;
  control[CORRECTION1] = 1 - pow(beta1, step);
  control[CORRECTION2] = 1 - pow(beta2, step);
}

// rest: 1 - beta; rate: lr / (1 - beta1^step); correction: 1 / (1 - beta2^step); decay: lr times
// weight decay.
__device__ __forceinline__ void adamw_element(
    real* p, real* m, real* v, real g, real beta1, real rest1, real beta2, real rest2, real rate,
    real correction, real decay, real eps) {
  const real first = beta1 * *m + rest1 * g;
  const real second = beta2 * *v + rest2 * g * g;
  *m = first;
  *v = second;
  *p -= *p * decay + first * rate / (sqrt(second * correction) + eps);
}

extern "C" __global__ void __launch_bounds__(THREADS) adamw(
    real* p, real* m, real* v, const real* g, index_t size, real scale, real beta1, real rest1,
    real beta2, real rest2, real eps, real rate, real correction, real decay) {
  const index_t i = my_element();
  if (i >= size) return;
  adamw_element(p + i, m + i, v + i, g[i] * scale, beta1, rest1, beta2, rest2, rate, correction,
                decay, eps);
}

extern "C" __global__ void __launch_bounds__(THREADS) adamw_step(
    real* p, real* m, real* v, const real* g, index_t size, const double* control, real beta1,
    real rest1, real beta2, real rest2, real eps, real decay) {
  const index_t i = my_element();
  if (i >= size || control[HEALTHY] == 0) return;
  const real lr = control[LR];
  adamw_element(p + i, m + i, v + i, g[i] * real(control[SCALE]), beta1, rest1, beta2, rest2,
                lr / real(control[CORRECTION1]), real(1) / real(control[CORRECTION2]), lr * decay,
                eps);
}

extern "C" __global__ void __launch_bounds__(THREADS) sgd(
    real* p, const real* g, index_t size, real rate, real decay) {
  const index_t i = my_element();
  if (i < size) p[i] -= decay * p[i] + rate * g[i];
}

extern "C" __global__ void __launch_bounds__(THREADS) sgd_step(
    real* p, const real* g, index_t size, const double* control, real decay) {
  const index_t i = my_element();
  if (i >= size || control[HEALTHY] == 0) return;
  const real lr = control[LR], scale = control[SCALE];
  p[i] -= lr * decay * p[i] + lr * scale * g[i];
}

extern "C" __global__ void __launch_bounds__(THREADS) ewc_gradient(
    real* g, const real* p, const real* fisher, const real* anchor, index_t size, real strength) {
  const index_t i = my_element();
  if (i < size) g[i] += strength * fisher[i] * (p[i] - anchor[i]);
}
