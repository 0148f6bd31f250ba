// The selective scan (formulas: calmgrad/ops/selective_scan.py), parallel over chunks of a sequence.
//
// A thread has one channel of one chunk. What goes in at one end of a chunk is decayed by the time
// that passes in it, and what the chunk adds does not depend on it. So the states are found in
// three passes: what every chunk adds to a state that enters as 0; from chunk to chunk, what enters
// each; and then all chunks again, now with the states that enter. The same backward, for the
// gradients that flow from the end of a sequence to its begin.
//
// One state after the other has its 16 tokens unrolled, all in registers. B and C of a chunk are
// the same for all channels and lie in shared memory, TILE states at a time. Tokens beyond the end
// of a chunk, and channels beyond the last, have dt, u, dy, B, C = 0: they change no state and add
// nothing to a sum. Empty chunks, behind the last, are left at once.

#include "scan.cuh"

#define THREADS 128  // at most, in a block of the passes over chunks
#define WARPS (THREADS / WARP)
#define TILE 16
#define AHEAD 8  // chunks whose states are loaded before the first of them is needed
#define SLICES 16

// B or C of states first .. first + TILE - 1, whose column `first` begins at `from`.
__device__ __forceinline__ void load_tile(
    Row* tile, const real* from, index_t row, Chunk chunk, int states) {
  for (int i = threadIdx.x; i < TILE * CHUNK; i += blockDim.x) {
    const int n = i % TILE, t = i / TILE;
    tile[n].at[t] = n < states && t < chunk.size ? from[(chunk.first + t) * row + n] : real(0);
  }
}

// 1. dt after softplus; the states at the end of each chunk if it began with 0; the time it took.
extern "C" __global__ void __launch_bounds__(THREADS) scan_chunk_states(
    real* __restrict__ dt, real* __restrict__ ends, real* __restrict__ times,
    const real* __restrict__ u, index_t u_row, const real* __restrict__ bc, index_t bc_row,
    const real* __restrict__ dt_bias, const real* __restrict__ A_log,
    const index_t* __restrict__ chunk_offsets, index_t channels, index_t states) {
  __shared__ Row B[TILE];
  const index_t k = blockIdx.x, c = index_t(blockIdx.y) * blockDim.x + threadIdx.x;
  const bool active = c < channels;
  const Chunk chunk = chunk_of(chunk_offsets, k);
  if (chunk.size == 0) return;
  const int size = active ? chunk.size : 0;
  const auto dt_of = column_of(dt, channels, chunk, c);
  const auto u_of = column_of(u, u_row, chunk, c);
  const real bias = active ? dt_bias[c] : real(0);
  real step[CHUNK], drive[CHUNK], time = 0;
#pragma unroll
  for (int t = 0; t < CHUNK; t++) {
    step[t] = t < size ? dt_of[t] : real(0);
    drive[t] = t < size ? u_of[t] : real(0);
  }
#pragma unroll
  for (int t = 0; t < CHUNK; t++) {
    step[t] = t < size ? softplus(step[t] + bias) : real(0);
    if (t < size) dt_of[t] = step[t];
    drive[t] *= step[t];
    time += step[t];
  }
  if (active) times[k * channels + c] = time;
  for (int tile = 0; tile < states; tile += TILE) {
    const int count = min(TILE, int(states) - tile);
    __syncthreads();
    load_tile(B, bc + tile, bc_row, chunk, count);
    __syncthreads();
    if (!active) continue;
    for (int n = 0; n < count; n++) {
      const real rate = rate_of(A_log[c * states + tile + n]);
      real h = 0;
#pragma unroll
      for (int t = 0; t < CHUNK; t++) h = power_of_2(step[t] * rate) * h + drive[t] * B[n].at[t];
      ends[(k * states + tile + n) * channels + c] = h;
    }
  }
}

// 2. From what each chunk adds to what enters it, in place. A thread has one state of one channel
// of one sequence.
extern "C" __global__ void __launch_bounds__(THREADS) scan_join_states(
    real* __restrict__ ends, const real* __restrict__ times, const real* __restrict__ A_log,
    const index_t* __restrict__ offsets, const index_t* __restrict__ chunk_offsets, index_t chunks,
    index_t channels, index_t states) {
  const index_t i = index_t(blockIdx.y) * blockDim.x + threadIdx.x;
  if (i >= channels * states) return;
  const index_t n = i / channels, c = i % channels;
  const real rate = rate_of(A_log[c * states + n]);
  const index_t first = chunks_before(offsets, chunk_offsets, chunks, blockIdx.x);
  const index_t last = chunks_before(offsets, chunk_offsets, chunks, blockIdx.x + 1);
  real h = 0, added[AHEAD], decay[AHEAD];
  for (index_t k = first; k < last; k += AHEAD) {
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      const bool there = k + j < last;
      added[j] = there ? ends[(k + j) * channels * states + i] : real(0);
      decay[j] = there ? power_of_2(times[(k + j) * channels + c] * rate) : real(1);
    }
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      if (k + j < last) ends[(k + j) * channels * states + i] = h;
      h = decay[j] * h + added[j];
    }
  }
}

// 3. The outputs, from the states that enter.
extern "C" __global__ void __launch_bounds__(THREADS) scan_outputs(
    real* __restrict__ out, real* __restrict__ y, const real* __restrict__ dt,
    const real* __restrict__ checkpoints, const real* __restrict__ u, index_t u_row,
    const real* __restrict__ z, index_t z_row, const real* __restrict__ bc, index_t bc_row,
    const real* __restrict__ A_log, const real* __restrict__ D,
    const index_t* __restrict__ chunk_offsets, index_t channels, index_t states) {
  __shared__ Row B[TILE];
  __shared__ Row C[TILE];
  const index_t k = blockIdx.x, c = index_t(blockIdx.y) * blockDim.x + threadIdx.x;
  const bool active = c < channels;
  const Chunk chunk = chunk_of(chunk_offsets, k);
  if (chunk.size == 0) return;
  const int size = active ? chunk.size : 0;
  const auto dt_of = column_of(dt, channels, chunk, c);
  const auto u_of = column_of(u, u_row, chunk, c);
  const auto z_of = column_of(z, z_row, chunk, c);
  const auto y_of = column_of(y, channels, chunk, c);
  const auto out_of = column_of(out, channels, chunk, c);
  const real skip = active ? D[c] : real(0);
  real step[CHUNK], drive[CHUNK], total[CHUNK];
#pragma unroll
  for (int t = 0; t < CHUNK; t++) {
    step[t] = t < size ? dt_of[t] : real(0);
    const real x = t < size ? u_of[t] : real(0);
    drive[t] = step[t] * x;
    total[t] = skip * x;
  }
  for (int tile = 0; tile < states; tile += TILE) {
    const int count = min(TILE, int(states) - tile);
    __syncthreads();
    load_tile(B, bc + tile, bc_row, chunk, count);
    load_tile(C, bc + states + tile, bc_row, chunk, count);
    __syncthreads();
    if (!active) continue;
    for (int n = 0; n < count; n++) {
      const real rate = rate_of(A_log[c * states + tile + n]);
      real h = checkpoints[(k * states + tile + n) * channels + c];
#pragma unroll
      for (int t = 0; t < CHUNK; t++) {
        h = power_of_2(step[t] * rate) * h + drive[t] * B[n].at[t];
        total[t] += h * C[n].at[t];
      }
    }
  }
  real gate[CHUNK];
#pragma unroll
  for (int t = 0; t < CHUNK; t++) gate[t] = t < size ? z_of[t] : real(0);
#pragma unroll
  for (int t = 0; t < CHUNK; t++) {
    if (t >= size) continue;
    y_of[t] = total[t];
    out_of[t] = total[t] * gate[t] * sigmoid(gate[t]);
  }
}

// Backward 1. dz, and du as the gradient of y; the gradient that leaves each chunk at its begin if
// none enters at its end; the time it took.
extern "C" __global__ void __launch_bounds__(THREADS) scan_chunk_gradients(
    real* __restrict__ dz, index_t dz_row, real* __restrict__ du, index_t du_row,
    real* __restrict__ leaving, real* __restrict__ times,
    const real* __restrict__ dout, index_t dout_row, const real* __restrict__ y,
    const real* __restrict__ dt, const real* __restrict__ z, index_t z_row,
    const real* __restrict__ bc, index_t bc_row, const real* __restrict__ A_log,
    const index_t* __restrict__ chunk_offsets, index_t channels, index_t states) {
  __shared__ Row C[TILE];
  const index_t k = blockIdx.x, c = index_t(blockIdx.y) * blockDim.x + threadIdx.x;
  const bool active = c < channels;
  const Chunk chunk = chunk_of(chunk_offsets, k);
  if (chunk.size == 0) return;
  const int size = active ? chunk.size : 0;
  const auto z_of = column_of(z, z_row, chunk, c);
  const auto dout_of = column_of(dout, dout_row, chunk, c);
  const auto dt_of = column_of(dt, channels, chunk, c);
  const auto dz_of = column_of(dz, dz_row, chunk, c);
  const auto y_of = column_of(y, channels, chunk, c);
  const auto du_of = column_of(du, du_row, chunk, c);
  real step[CHUNK], gate[CHUNK], dgated[CHUNK], value[CHUNK], dy[CHUNK], time = 0;
#pragma unroll
  for (int t = 0; t < CHUNK; t++) {
    step[t] = t < size ? dt_of[t] : real(0);
    gate[t] = t < size ? z_of[t] : real(0);
    dgated[t] = t < size ? dout_of[t] : real(0);
    value[t] = t < size ? y_of[t] : real(0);
  }
#pragma unroll
  for (int t = 0; t < CHUNK; t++) {
    const real s = sigmoid(gate[t]);
    time += step[t];
    dy[t] = dgated[t] * gate[t] * s;
    if (t >= size) continue;
    dz_of[t] = dgated[t] * value[t] * s * (real(1) + gate[t] * (real(1) - s));
    du_of[t] = dy[t];
  }
  if (active) times[k * channels + c] = time;
  for (int tile = 0; tile < states; tile += TILE) {
    const int count = min(TILE, int(states) - tile);
    __syncthreads();
    load_tile(C, bc + states + tile, bc_row, chunk, count);
    __syncthreads();
    if (!active) continue;
    for (int n = 0; n < count; n++) {
      const real rate = rate_of(A_log[c * states + tile + n]);
      real g = 0;
#pragma unroll
      for (int t = CHUNK - 1; t >= 0; t--) g = (g + dy[t] * C[n].at[t]) * power_of_2(step[t] * rate);
      leaving[(k * states + tile + n) * channels + c] = g;
    }
  }
}

// Backward 2. From what leaves each chunk to what enters it at its end, in place.
extern "C" __global__ void __launch_bounds__(THREADS) scan_join_gradients(
    real* __restrict__ leaving, const real* __restrict__ times, const real* __restrict__ A_log,
    const index_t* __restrict__ offsets, const index_t* __restrict__ chunk_offsets, index_t chunks,
    index_t channels, index_t states) {
  const index_t i = index_t(blockIdx.y) * blockDim.x + threadIdx.x;
  if (i >= channels * states) return;
  const index_t n = i / channels, c = i % channels;
  const real rate = rate_of(A_log[c * states + n]);
  const index_t first = chunks_before(offsets, chunk_offsets, chunks, blockIdx.x);
  const index_t last = chunks_before(offsets, chunk_offsets, chunks, blockIdx.x + 1);
  real g = 0, added[AHEAD], decay[AHEAD];
  for (index_t k = last - 1; k >= first; k -= AHEAD) {
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      const bool there = k - j >= first;
      added[j] = there ? leaving[(k - j) * channels * states + i] : real(0);
      decay[j] = there ? power_of_2(times[(k - j) * channels + c] * rate) : real(1);
    }
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      if (k - j >= first) leaving[(k - j) * channels * states + i] = g;
      g = decay[j] * g + added[j];
    }
  }
}

// Backward 3. All gradients, from the states and the gradients that enter a chunk. `entering` gets
// the chunk's part of dA; dbc that of this block's channels, `dbc_block` elements apart.
extern "C" __global__ void __launch_bounds__(THREADS) scan_gradients(
    real* __restrict__ du, index_t du_row, real* __restrict__ ddt, real* __restrict__ entering,
    real* __restrict__ dbias, real* __restrict__ dskip,
    real* __restrict__ dbc, index_t dbc_row, index_t dbc_block,
    const real* __restrict__ dt, const real* __restrict__ checkpoints,
    const real* __restrict__ u, index_t u_row, const real* __restrict__ bc, index_t bc_row,
    const real* __restrict__ A_log, const real* __restrict__ D,
    const index_t* __restrict__ chunk_offsets, index_t channels, index_t states) {
  __shared__ Row B[TILE];
  __shared__ Row C[TILE];
  __shared__ real sums[WARPS][TILE][WARP + 1];
  const index_t k = blockIdx.x, c = index_t(blockIdx.y) * blockDim.x + threadIdx.x;
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
  const bool active = c < channels;
  const Chunk chunk = chunk_of(chunk_offsets, k);
  if (chunk.size == 0) {  // its parts of the sums are 0
    for (index_t n = 0; active && n < states; n++) entering[(k * states + n) * channels + c] = 0;
    if (active) dbias[k * channels + c] = dskip[k * channels + c] = 0;
    return;
  }
  const int size = active ? chunk.size : 0;
  const auto dt_of = column_of(dt, channels, chunk, c);
  const auto u_of = column_of(u, u_row, chunk, c);
  const auto du_of = column_of(du, du_row, chunk, c);
  const auto ddt_of = column_of(ddt, channels, chunk, c);
  real step[CHUNK], drive[CHUNK], dy[CHUNK];
  real ddrive[CHUNK], dexponent[CHUNK];  // of drive = dt * u, and of the decays' exponent by dt
#pragma unroll
  for (int t = 0; t < CHUNK; t++) {
    step[t] = t < size ? dt_of[t] : real(0);
    drive[t] = t < size ? step[t] * u_of[t] : real(0);
    dy[t] = t < size ? du_of[t] : real(0);
    ddrive[t] = dexponent[t] = 0;
  }
  for (int tile = 0; tile < states; tile += TILE) {
    const int count = min(TILE, int(states) - tile);
    __syncthreads();
    load_tile(B, bc + tile, bc_row, chunk, count);
    load_tile(C, bc + states + tile, bc_row, chunk, count);
    __syncthreads();
    for (int n = 0; n < count; n++) {
      const index_t place = (k * states + tile + n) * channels + c;
      const real rate = active ? rate_of(A_log[c * states + tile + n]) : real(0);
      real h[CHUNK + 1], decay[CHUNK], values[2 * CHUNK];
      h[0] = active ? checkpoints[place] : real(0);
#pragma unroll
      for (int t = 0; t < CHUNK; t++) {
        decay[t] = power_of_2(step[t] * rate);
        h[t + 1] = decay[t] * h[t] + drive[t] * B[n].at[t];
      }
      real g = active ? entering[place] : real(0), dA = 0;
#pragma unroll
      for (int t = CHUNK - 1; t >= 0; t--) {
        g += dy[t] * C[n].at[t];
        values[CHUNK + t] = dy[t] * h[t + 1];
        values[t] = g * drive[t];
        ddrive[t] += g * B[n].at[t];
        g *= decay[t];
        const real e = g * h[t];
        dexponent[t] += e * rate;
        dA += e * step[t];
      }
      if (active) entering[place] = dA;
      sums[warp][n][lane] = sums_by_lane<WARP / 2>(values);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * WARP; i += blockDim.x) {
      const int n = i % TILE, t = i / TILE % CHUNK, which = i / TILE / CHUNK;  // of B, C
      if (n >= count || t >= chunk.size) continue;
      real total = 0;
      for (int w = 0; w < warps; w++) total += sums[w][n][which * CHUNK + t];
      dbc[blockIdx.y * dbc_block + (chunk.first + t) * dbc_row + which * states + tile + n] = total;
    }
  }
  if (!active) return;
  const real skip = D[c];
  real bias_total = 0, skip_total = 0;
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
  dbias[k * channels + c] = bias_total;
  dskip[k * channels + c] = skip_total;
}

// Backward 4. The sums over chunks: of dA (N, C), of ddt_bias (C) and of dD (C), column by column.
extern "C" __global__ void scan_sum_chunks(
    real* __restrict__ dA_log, real* __restrict__ ddt_bias, real* __restrict__ dD,
    const real* __restrict__ dA, const real* __restrict__ dbias, const real* __restrict__ dskip,
    const real* __restrict__ A_log, index_t chunks, index_t channels, index_t states) {
  __shared__ real sums[SLICES][WARP];
  const index_t column = index_t(blockIdx.x) * WARP + threadIdx.x, of_A = channels * states;
  const bool active = column < of_A + 2 * channels;
  const index_t width = column < of_A ? of_A : channels;
  const real* from = column < of_A ? dA + column
      : column < of_A + channels ? dbias + (column - of_A) : dskip + (column - of_A - channels);
  real total = 0;
  if (active) {
#pragma unroll 8
    for (index_t k = threadIdx.y; k < chunks; k += SLICES) total += from[k * width];
  }
  sums[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (!active || threadIdx.y) return;
  for (int slice = 1; slice < SLICES; slice++) total += sums[slice][threadIdx.x];
  if (column < of_A) {
    const index_t i = column % channels * states + column / channels;
    dA_log[i] = total * -exp(A_log[i]);
  } else if (column < of_A + channels) {
    ddt_bias[column - of_A] = total;
  } else {
    dD[column - of_A - channels] = total;
  }
}

// Backward 5. The sum over blocks of channels of their parts of dbc, (blocks, T, 2N).
extern "C" __global__ void scan_sum_blocks(
    real* __restrict__ dbc, index_t dbc_row, const real* __restrict__ parts,
    index_t n_blocks, index_t tokens, index_t columns) {
  const index_t i = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= tokens * columns) return;
  real total = 0;
  for (index_t block = 0; block < n_blocks; block++) total += parts[block * tokens * columns + i];
  dbc[i / columns * dbc_row + i % columns] = total;
}
