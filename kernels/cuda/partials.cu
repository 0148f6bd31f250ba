// The second half of sums over all tokens: each block of the first half has left its part, a row
// of `size` numbers. A warp's lanes take neighbouring columns; the warps of a block take turns
// with the parts, and then their sums are added in order. The first `split` sums go to `out`, the
// others to `rest`.
#define WARPS 32

extern "C" __global__ void __launch_bounds__(WARPS * WARP) sum_partials(
    real* __restrict__ out, index_t split, real* __restrict__ rest,
    const real* __restrict__ partials, index_t parts, index_t size) {
  __shared__ real sums[WARPS][WARP];
  const index_t i = index_t(blockIdx.x) * WARP + threadIdx.x;
  real sum = 0;
  if (i < size) {
    for (index_t p = threadIdx.y; p < parts; p += WARPS) sum += partials[p * size + i];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y || i >= size) return;
  for (int w = 1; w < WARPS; w++) sum += sums[w][threadIdx.x];
  if (i < split) out[i] = sum;
  else rest[i - split] = sum;
}
