// The selective scan, a thread a channel of a sequence, from its first token to its last: fewer
// operations than selective_scan.cu takes, but as few threads as there are channels times
// sequences. Of 16 states, which lie in registers; for float (double would need fewer threads).
//
// Backward, a chunk's states are found again from its checkpoint, one state after the other, with
// its 16 tokens unrolled. The gradients that go from chunk to chunk lie in shared memory.

#include "scan.cuh"

#define THREADS (512 / int(sizeof(real)))
#define WARPS (THREADS / WARP)
#define STATES 16
#define GROUP 8  // tokens whose inputs are loaded before the first of them is needed
#define LOADS (CHUNK * 2 * STATES / THREADS)

// B and C of one token; aligned, so that four are loaded at once.
struct __align__(16) Token { real B[STATES], C[STATES]; };

// This thread's share of B and C of a chunk. Beyond its end they are 0.
__device__ __forceinline__ void fetch(
    real* mine, const real* bc, index_t row, Chunk chunk) {
#pragma unroll
  for (int j = 0; j < LOADS; j++) {
    const int i = j * THREADS + threadIdx.x, t = i / (2 * STATES), n = i % (2 * STATES);
    mine[j] = t < chunk.size ? bc[(chunk.first + t) * row + n] : real(0);
  }
}

__device__ __forceinline__ void put(Token* tokens, const real* mine) {
  real* flat = tokens[0].B;
#pragma unroll
  for (int j = 0; j < LOADS; j++) flat[j * THREADS + threadIdx.x] = mine[j];
}

extern "C" __global__ void __launch_bounds__(THREADS, 3) scan_serial_forward(
    real* __restrict__ out, real* __restrict__ y, real* __restrict__ dt,
    real* __restrict__ checkpoints, const real* __restrict__ u, index_t u_row,
    const real* __restrict__ z, index_t z_row, const real* __restrict__ bc, index_t bc_row,
    const real* __restrict__ dt_bias, const real* __restrict__ A_log, const real* __restrict__ D,
    const index_t* __restrict__ offsets, const index_t* __restrict__ chunk_offsets,
    index_t chunks, index_t channels) {
  __shared__ Token tokens[2][CHUNK];  // of this chunk, and the next
  const index_t c = index_t(blockIdx.y) * THREADS + threadIdx.x;
  const bool active = c < channels;
  const index_t first = chunks_before(offsets, chunk_offsets, chunks, blockIdx.x);
  const index_t last = chunks_before(offsets, chunk_offsets, chunks, blockIdx.x + 1);
  if (first == last) return;
  const real bias = active ? dt_bias[c] : real(0), skip = active ? D[c] : real(0);
  real rate[STATES], h[STATES], mine[LOADS];
#pragma unroll
  for (int n = 0; n < STATES; n++) {
    rate[n] = active ? rate_of(A_log[c * STATES + n]) : real(0);
    h[n] = 0;
  }
  fetch(mine, bc, bc_row, chunk_of(chunk_offsets, first));
  put(tokens[0], mine);
  for (index_t k = first; k < last; k++) {
    const Chunk chunk = chunk_of(chunk_offsets, k);
    const Token* now = tokens[(k - first) % 2];
    __syncthreads();  // this chunk's are there, and the last one's have been read
    if (k + 1 < last) fetch(mine, bc, bc_row, chunk_of(chunk_offsets, k + 1));
#pragma unroll
    for (int n = 0; n < STATES; n++) {
      if (active) checkpoints[(k * STATES + n) * channels + c] = h[n];
    }
    for (int begin = 0; begin < chunk.size; begin += GROUP) {
      const Chunk group = {chunk.first + begin, active ? chunk.size - begin : 0};
      const auto dt_of = column_of(dt, channels, group, c);
      const auto u_of = column_of(u, u_row, group, c);
      const auto z_of = column_of(z, z_row, group, c);
      const auto y_of = column_of(y, channels, group, c);
      const auto out_of = column_of(out, channels, group, c);
      real step[GROUP], x[GROUP], gate[GROUP];
#pragma unroll
      for (int t = 0; t < GROUP; t++) {
        step[t] = t < group.size ? dt_of[t] : real(0);
        x[t] = t < group.size ? u_of[t] : real(0);
        gate[t] = t < group.size ? z_of[t] : real(0);
      }
#pragma unroll
      for (int t = 0; t < GROUP; t++) {
        const Token& token = now[begin + t];
        step[t] = softplus(step[t] + bias);  // behind a chunk that is short, the sequence ends
        const real drive = step[t] * x[t];
        real total = skip * x[t];
#pragma unroll
        for (int n = 0; n < STATES; n++) {
          h[n] = power_of_2(step[t] * rate[n]) * h[n] + drive * token.B[n];
          total += h[n] * token.C[n];
        }
        if (t >= group.size) continue;
        dt_of[t] = step[t];
        y_of[t] = total;
        out_of[t] = total * gate[t] * sigmoid(gate[t]);
      }
    }
    if (k + 1 < last) put(tokens[(k + 1 - first) % 2], mine);
  }
}

// All gradients. dA, dbias and dskip get this sequence's part; dbc that of this block's channels,
// `dbc_block` elements apart. An empty sequence's part is 0.
extern "C" __global__ void __launch_bounds__(THREADS) scan_serial_backward(
    real* __restrict__ du, index_t du_row, real* __restrict__ dz, index_t dz_row,
    real* __restrict__ ddt, real* __restrict__ dA, real* __restrict__ dbias,
    real* __restrict__ dskip, real* __restrict__ dbc, index_t dbc_row, index_t dbc_block,
    const real* __restrict__ dout, index_t dout_row, const real* __restrict__ y,
    const real* __restrict__ dt, const real* __restrict__ checkpoints,
    const real* __restrict__ u, index_t u_row, const real* __restrict__ z, index_t z_row,
    const real* __restrict__ bc, index_t bc_row, const real* __restrict__ A_log,
    const real* __restrict__ D, const index_t* __restrict__ offsets,
    const index_t* __restrict__ chunk_offsets, index_t chunks, index_t channels) {
  __shared__ Row B[STATES];
  __shared__ Row C[STATES];
  __shared__ real sums[WARPS][STATES][WARP + 1];
  __shared__ real rates[STATES][THREADS];  // from here on, each thread's own column
  __shared__ real carried[STATES][THREADS];
  __shared__ real dA_sum[STATES][THREADS];
  const index_t s = blockIdx.x, c = index_t(blockIdx.y) * THREADS + threadIdx.x;
  const int me = threadIdx.x, lane = me % WARP, warp = me / WARP;
  const bool active = c < channels;
  const index_t first = chunks_before(offsets, chunk_offsets, chunks, s);
  const index_t last = chunks_before(offsets, chunk_offsets, chunks, s + 1);
  const real skip = active ? D[c] : real(0);
  real bias_total = 0, skip_total = 0;
  for (int n = 0; n < STATES; n++) {
    rates[n][me] = active ? rate_of(A_log[c * STATES + n]) : real(0);
    carried[n][me] = dA_sum[n][me] = 0;
  }
  for (index_t k = last - 1; k >= first; k--) {
    const Chunk chunk = chunk_of(chunk_offsets, k);
    for (int i = me; i < STATES * CHUNK; i += THREADS) {
      const int n = i % STATES, t = i / STATES;
      const real* from = bc + (chunk.first + t) * bc_row;
      B[n].at[t] = t < chunk.size ? from[n] : real(0);
      C[n].at[t] = t < chunk.size ? from[STATES + n] : real(0);
    }
    const int size = active ? chunk.size : 0;
    const auto dt_of = column_of(dt, channels, chunk, c);
    const auto u_of = column_of(u, u_row, chunk, c);
    const auto z_of = column_of(z, z_row, chunk, c);
    const auto y_of = column_of(y, channels, chunk, c);
    const auto dout_of = column_of(dout, dout_row, chunk, c);
    const auto dz_of = column_of(dz, dz_row, chunk, c);
    real step[CHUNK], drive[CHUNK], dy[CHUNK];
    real ddrive[CHUNK], dexponent[CHUNK];  // of drive = dt * u, and of the decays' exponent by dt
#pragma unroll
    for (int t = 0; t < CHUNK; t++) {
      step[t] = t < size ? dt_of[t] : real(0);
      drive[t] = t < size ? u_of[t] * step[t] : real(0);
      dy[t] = t < size ? dout_of[t] : real(0);
    }
#pragma unroll
    for (int t = 0; t < CHUNK; t++) {
      const real gate = t < size ? z_of[t] : real(0), g = sigmoid(gate);
      const real slope = g * (real(1) + gate * (real(1) - g));
      if (t < size) dz_of[t] = dy[t] * y_of[t] * slope;
      dy[t] *= gate * g;
      ddrive[t] = dexponent[t] = 0;
    }
    __syncthreads();  // B and C are there; the sums of the chunk before have been read
#pragma unroll 1
    for (int n = 0; n < STATES; n++) {
      const real rate = rates[n][me];
      real h[CHUNK + 1], decay[CHUNK], values[2 * CHUNK];
      h[0] = active ? checkpoints[(k * STATES + n) * channels + c] : real(0);
#pragma unroll
      for (int t = 0; t < CHUNK; t++) {
        decay[t] = power_of_2(step[t] * rate);
        h[t + 1] = decay[t] * h[t] + drive[t] * B[n].at[t];
      }
      real g = carried[n][me], total = 0;
#pragma unroll
      for (int t = CHUNK - 1; t >= 0; t--) {
        g += dy[t] * C[n].at[t];
        values[CHUNK + t] = dy[t] * h[t + 1];
        values[t] = g * drive[t];
        ddrive[t] += g * B[n].at[t];
        g *= decay[t];
        const real e = g * h[t];
        dexponent[t] += e * rate;
        total += e * step[t];
      }
      carried[n][me] = g;
      dA_sum[n][me] += total;
      sums[warp][n][lane] = sums_by_lane<WARP / 2>(values);
    }
    __syncthreads();  // the sums are there; B and C have been read
    for (int i = me; i < STATES * WARP; i += THREADS) {
      const int n = i % STATES, t = i / STATES % CHUNK, which = i / STATES / CHUNK;  // of B, C
      if (t >= chunk.size) continue;
      real total = 0;
      for (int w = 0; w < WARPS; w++) total += sums[w][n][which * CHUNK + t];
      dbc[blockIdx.y * dbc_block + (chunk.first + t) * dbc_row + which * STATES + n] = total;
    }
    const auto ddt_of = column_of(ddt, channels, chunk, c);
    const auto du_of = column_of(du, du_row, chunk, c);
#pragma unroll
    for (int t = 0; t < CHUNK; t++) {
      const real x = t < size ? u_of[t] : real(0), slope = -expm1(-step[t]);  // of softplus
      const real dstep = (dexponent[t] * LN2 + x * ddrive[t]) * slope;
      bias_total += dstep;
      skip_total += dy[t] * x;
      if (t >= size) continue;
      ddt_of[t] = dstep;
      du_of[t] = step[t] * ddrive[t] + skip * dy[t];
    }
  }
  if (!active) return;
  for (int n = 0; n < STATES; n++) dA[(s * STATES + n) * channels + c] = dA_sum[n][me];
  dbias[s * channels + c] = bias_total;
  dskip[s * channels + c] = skip_total;
}
