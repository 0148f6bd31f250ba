// Shared by all kernels. `real` is float or double; CHUNK the tokens between two saved scan states.
// Every kernel gives the same bytes at every run: no atomic additions, sums in a fixed order.
//
// A matrix is token-major: row t begins at t * row, where `row` is at least the number of columns,
// so that some columns of a wider matrix are a matrix too. Blocks are WARP threads wide: the lanes
// of a warp have neighbouring columns, and load and store them together.

typedef long long index_t;

#define WARP 32
#define ALL_LANES 0xffffffffu

// Where a warp takes a row: which one.
__device__ __forceinline__ index_t row_of_this_warp() {
  return index_t(blockIdx.x) * blockDim.y + threadIdx.y;
}

__device__ __forceinline__ real sigmoid(real x) { return real(1) / (real(1) + exp(-x)); }

// The sum over a warp, in every lane; all 32 lanes call it.
template <class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int offset = WARP / 2; offset; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
  return x;
}

template <class T> __device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int offset = WARP / 2; offset; offset /= 2) {
    const T other = __shfl_xor_sync(ALL_LANES, x, offset);
    x = other > x ? other : x;
  }
  return x;
}
