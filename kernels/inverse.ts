/**
 * Inverses of small square matrices by Gauss–Jordan elimination with the largest pivot of each column. A workgroup takes a matrix; its working copy and
 * the result lie in storage, so that the side may be of any length: these are blocks of rotations, a few tens long, and the work is that of a few products.
 *
 * @module
 */
import { foldWorkgroups, type Kernel, workgroupNumber } from "./kernel.ts";
import { createSizes } from "./sizes.ts";

const THREADS = 64;

/** Inverts `count` matrices [side, side]. */
export function inverseKernel(
  { count, side }: { readonly count: number; readonly side: number },
): Kernel {
  const sizes = createSizes();
  const n = sizes.u32(side);
  return {
    variant: "gauss-jordan",
    dispatches: [{
      source: `@group(0) @binding(0) var<storage, read> matrices: array<f32>;
@group(0) @binding(1) var<storage, read_write> work: array<f32>;
@group(0) @binding(2) var<storage, read_write> output: array<f32>;

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let matrix = ${workgroupNumber("id")};
  let inside = matrix < ${sizes.u32(count)};
  let n = ${n};
  let first = select(0u, matrix * n * n, inside);
  for (var i = lane; i < n * n && inside; i += ${THREADS}u) {
    work[first + i] = matrices[first + i];
    output[first + i] = select(0.0, 1.0, i / n == i % n);
  }
  for (var k = 0u; k < n; k++) {
    storageBarrier();
    var pivot = k;
    for (var row = k + 1u; row < n; row++) {
      if (abs(work[first + row * n + k]) > abs(work[first + pivot * n + k])) { pivot = row; }
    }
    let scale = 1.0 / work[first + pivot * n + k];
    storageBarrier();
    // The rows change places, column by column; the column of the pivot itself is done with.
    for (var j = lane; j < n && inside; j += ${THREADS}u) {
      let a = first + k * n + j;
      let b = first + pivot * n + j;
      let x = work[b];
      let y = output[b];
      work[b] = work[a];
      output[b] = output[a];
      work[a] = x * scale;
      output[a] = y * scale;
    }
    storageBarrier();
    for (var i = lane; i < n * n && inside; i += ${THREADS}u) {
      let row = i / n;
      let j = i % n;
      if (row == k) { continue; }
      let factor = work[first + row * n + k];
      output[first + i] -= factor * output[first + k * n + j];
      if (j > k) { work[first + i] -= factor * work[first + k * n + j]; }
    }
  }
}
`,
      sizes,
      bindings: [0, { temporary: 0 }, "output"],
      workgroups: foldWorkgroups(count),
    }],
    temporaries: [count * side * side * 4],
  };
}
