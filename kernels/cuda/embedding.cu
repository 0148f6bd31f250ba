// Rows of a table, and the sum of gradients back into them (formulas: calmgrad/ops/embedding.py).

// A warp copies a row.
extern "C" __global__ void embedding_forward(
    real* __restrict__ y, index_t y_row, const real* __restrict__ table, index_t table_row,
    const index_t* __restrict__ tokens, index_t rows, index_t columns) {
  const index_t t = row_of_this_warp();
  if (t >= rows) return;
  const real* from = table + tokens[t] * table_row;
  for (index_t c = threadIdx.x; c < columns; c += WARP) y[t * y_row + c] = from[c];
}

// A block takes one row of the table and looks through all tokens for its own; each of its warps
// through an equal part of them. So nothing is sorted, and the order of the sums is always the
// same: within a warp that of the tokens, then warp after warp.
#define WARPS 32
#define WIDE 4  // columns of a lane: a block sums WIDE * WARP columns before it looks again

extern "C" __global__ void __launch_bounds__(WARPS * WARP) embedding_backward(
    real* __restrict__ dtable, index_t dtable_row, const real* __restrict__ dy, index_t dy_row,
    const index_t* __restrict__ tokens, index_t rows, index_t columns) {
  __shared__ real sums[WARPS][WIDE * WARP];
  const index_t row = blockIdx.x;
  const int lane = threadIdx.x, warp = threadIdx.y;
  const index_t tiles = (rows + WARP - 1) / WARP, part = (tiles + WARPS - 1) / WARPS * WARP;
  const index_t first = warp * part, last = first + part < rows ? first + part : rows;
  for (index_t start = 0; start < columns; start += WIDE * WARP) {
    real sum[WIDE] = {};
    for (index_t tile = first; tile < last; tile += WARP) {
      const bool mine = tile + lane < last && tokens[tile + lane] == row;
      unsigned found = __ballot_sync(ALL_LANES, mine);
      while (found) {
        const real* from = dy + (tile + __ffs(found) - 1) * dy_row + start;
        found &= found - 1;
#pragma unroll
        for (int k = 0; k < WIDE; k++) {
          const int c = k * WARP + lane;
          if (start + c < columns) sum[k] += from[c];
        }
      }
    }
#pragma unroll
    for (int k = 0; k < WIDE; k++) sums[warp][k * WARP + lane] = sum[k];
    __syncthreads();
    const int c = warp * WARP + lane;  // the first WIDE warps add up a column each lane
    if (warp < WIDE && start + c < columns) {
      real total = 0;
      for (int w = 0; w < WARPS; w++) total += sums[w][c];
      dtable[row * dtable_row + start + c] += total;
    }
    __syncthreads();
  }
}
