/**
 * Adds rows into a table of zeros, in a fixed order and without atomics (WebGPU has none for floats, and their order would not be fixed).
 *
 * The table (a vocabulary) is much larger than the updates, so one pass fills it with zeros at the memory's speed. Meanwhile each update finds the next
 * one with the same id (N² comparisons of integers, next to nothing for the few thousand tokens of a batch); then the first update of each id walks that chain and owns
 * the row.
 *
 * @module
 */
import { foldWorkgroups, itemDispatch, type Kernel, workgroupNumber } from "./kernel.ts";
import { createSizes } from "./sizes.ts";

/** Sizes of a scatter. */
export interface ScatterSize {
  /** Updates (N). */
  readonly count: number;
  /** Rows of the table (V). */
  readonly rows: number;
  /** Elements of a row (D). */
  readonly length: number;
  /** Whether no two ids are equal, but for rows of zeros. */
  readonly unique?: boolean;
}

/** Sums of the updates (input 0) by their ids (input 1). */
export function scatterAddKernel(size: ScatterSize): Kernel {
  const { count, rows, length, unique } = size;
  const vector = length % 4 === 0;
  const item = vector ? "vec4<f32>" : "f32";
  const per = vector ? length / 4 : length;
  const fours = Math.ceil(rows * length / 4);
  // Several fours per invocation, as filling is nothing but stores.
  const each = 8;
  const fillSizes = createSizes(), linkSizes = createSizes(), addSizes = createSizes();
  const fill = `@group(0) @binding(0) var<storage, read_write> output: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let start = ${workgroupNumber("id")} * ${64 * each}u + lane;
  for (var i = start; i < min(start + ${64 * each}u, ${
    fillSizes.u32(fours)
  }); i += 64u) { output[i] = vec4<f32>(); }
}
`;
  const last = linkSizes.i32(rows - 1), end = linkSizes.u32(count);
  const byRow = addSizes.divisor(per, count * per);
  const filled = {
    source: fill,
    sizes: fillSizes,
    bindings: ["output" as const],
    workgroups: foldWorkgroups(Math.ceil(fours / 64 / each)),
  };
  const row = `u32(clamp(ids[n], 0, ${addSizes.i32(rows - 1)})) * ${byRow.value}`;
  if (unique) {
    return {
      variant: "unique",
      dispatches: [
        filled,
        itemDispatch({
          declare: `@group(0) @binding(0) var<storage, read> updates: array<${item}>;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read_write> output: array<${item}>;
`,
          count: count * per,
          sizes: addSizes,
          bindings: [0, 1, "output"],
          body: `let n = ${byRow.quotient("index")};
  let value = updates[index];
  if (${vector ? "all(value == vec4<f32>())" : "value == 0.0"}) { return; }
  output[${row} + ${byRow.remainder("index")}] = value;`,
        }),
      ],
    };
  }
  return {
    variant: "chains",
    dispatches: [
      filled,
      itemDispatch({
        declare: `@group(0) @binding(0) var<storage, read> ids: array<i32>;
@group(0) @binding(1) var<storage, read_write> links: array<u32>;
`,
        count,
        sizes: linkSizes,
        bindings: [1, { temporary: 0 }],
        body: `let mine = clamp(ids[index], 0, ${last});
  var next = ${end};
  for (var m = index + 1u; m < ${end}; m++) {
    if (clamp(ids[m], 0, ${last}) == mine) { next = m; break; }
  }
  var earlier = false;
  for (var m = 0u; m < index; m++) {
    if (clamp(ids[m], 0, ${last}) == mine) { earlier = true; break; }
  }
  links[index] = select(next, next | 0x80000000u, earlier);`,
      }),
      itemDispatch({
        declare: `@group(0) @binding(0) var<storage, read> updates: array<${item}>;
@group(0) @binding(1) var<storage, read> ids: array<i32>;
@group(0) @binding(2) var<storage, read> links: array<u32>;
@group(0) @binding(3) var<storage, read_write> output: array<${item}>;
`,
        count: count * per,
        sizes: addSizes,
        bindings: [0, 1, { temporary: 0 }, "output"],
        body: `let n = ${byRow.quotient("index")};
  let at = ${byRow.remainder("index")};
  var last = n;
  var next = links[n];
  if (next >= 0x80000000u) { return; }
  var sum = updates[index];
  // Links lead forward only; one that does not was not written by the dispatch before.
  while (next < ${addSizes.u32(count)} && next > last) {
    sum += updates[next * ${byRow.value} + at];
    last = next;
    next = links[next] & 0x7fffffffu;
  }
  output[${row} + at] = sum;`,
      }),
    ],
    temporaries: [Math.ceil(count / 4) * 16],
  };
}
