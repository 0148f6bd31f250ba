// What the two mappings of the selective scan share: selective_scan.cu, selective_scan_serial.cu.

#define PAD 4
#define LOG2E real(1.4426950408889634)
#define LN2 real(0.6931471805599453)

// One state's B or C of all tokens of a chunk; aligned, so that four are loaded at once.
struct __align__(16) Row { real at[CHUNK + PAD]; };

struct Chunk {
  index_t first;  // row of its first token
  int size;
};

__device__ __forceinline__ Chunk chunk_of(const index_t* chunk_offsets, index_t k) {
  return {chunk_offsets[k], int(chunk_offsets[k + 1] - chunk_offsets[k])};
}

// Channel c of a chunk's rows in a matrix, by token. (Steps of 32 bits take few instructions.)
template <class T> struct Column {
  T* first;
  int row;
  __device__ __forceinline__ T& operator[](int t) const { return first[t * row]; }
};
template <class T> __device__ __forceinline__ Column<T> column_of(
    T* matrix, index_t row, Chunk chunk, index_t c) {
  return {matrix + chunk.first * row + c, int(row)};
}

__device__ __forceinline__ real softplus(real x) {
  return (x > real(0) ? x : real(0)) + log1p(exp(-fabs(x)));
}

// A * log2(e): what remains of a state after the time dt is power_of_2(dt * rate).
__device__ __forceinline__ real rate_of(real A_log) { return -exp(A_log) * LOG2E; }

// exp2f is this one instruction (within 2 ulp) and three that scale, before and after, for results
// below 2^-126. Without them these become 0: as good, for a decay.
__device__ __forceinline__ float power_of_2(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2(x);
#endif
}
__device__ __forceinline__ double power_of_2(double x) { return exp2(x); }

// The number of chunks before sequence b: where its offset stands in chunk_offsets.
__device__ __forceinline__ index_t chunks_before(
    const index_t* offsets, const index_t* chunk_offsets, index_t chunks, index_t b) {
  const index_t offset = offsets[b];
  index_t low = (offset + CHUNK - 1) / CHUNK, high = offset / CHUNK + b;
  if (high > chunks) high = chunks;
  while (low < high) {
    const index_t middle = (low + high) / 2;
    if (chunk_offsets[middle] < offset) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The sums over the lanes of a warp of 2 * HALF values each: lane i gets that of values[i]. Each
// lane keeps the half that it shares with half of the lanes and gives the other away. (As a
// template, so that no index is left to run time and the values stay in registers.)
template <int HALF> __device__ __forceinline__ real sums_by_lane(real* values) {
  const bool upper = threadIdx.x & HALF;
#pragma unroll
  for (int i = 0; i < HALF; i++) {
    const real kept = upper ? values[i + HALF] : values[i];
    const real given = upper ? values[i] : values[i + HALF];
    values[i] = kept + __shfl_xor_sync(ALL_LANES, given, HALF);
  }
  return sums_by_lane<HALF / 2>(values);
}
template <> __device__ __forceinline__ real sums_by_lane<0>(real* values) { return values[0]; }
