// Softmax and negative log likelihood (formulas: calmgrad/ops/cross_entropy.py). A warp takes a
// row; one without a target is skipped.

extern "C" __global__ void cross_entropy_forward(
    real* __restrict__ nll, real* __restrict__ lse, const real* __restrict__ logits, index_t row,
    const index_t* __restrict__ targets, index_t rows, index_t classes) {
  const index_t t = row_of_this_warp();
  if (t >= rows) return;
  const real* scores = logits + t * row;
  const index_t target = targets[t];
  real total = 0;
  if (target >= 0) {
    real top = scores[0];
    for (index_t c = threadIdx.x; c < classes; c += WARP) top = scores[c] > top ? scores[c] : top;
    top = warp_max(top);
    real sum = 0;
    for (index_t c = threadIdx.x; c < classes; c += WARP) sum += exp(scores[c] - top);
    total = top + log(warp_sum(sum));
  }
  if (threadIdx.x == 0) {
    lse[t] = total;
    nll[t] = target >= 0 ? total - scores[target] : real(0);
  }
}

extern "C" __global__ void cross_entropy_backward(
    real* __restrict__ dlogits, index_t dlogits_row, const real* __restrict__ dnll,
    const real* __restrict__ lse, const real* __restrict__ logits, index_t row,
    const index_t* __restrict__ targets, index_t rows, index_t classes) {
  const index_t t = row_of_this_warp();
  if (t >= rows) return;
  const index_t target = targets[t];
  for (index_t c = threadIdx.x; c < classes; c += WARP) {
    real slope = 0;
    if (target >= 0) {
      const real p = exp(logits[t * row + c] - lse[t]);
      slope = dnll[t] * (c == target ? p - real(1) : p);
    }
    dlogits[t * dlogits_row + c] = slope;
  }
}
