/**
 * The gradients of keys and values in tiles: a workgroup owns 32 keys of one head and streams the queries of all heads that share it. See
 * kernels/attention-flash.ts.
 *
 * @module
 */
import { foldWorkgroups, type KernelDispatch, workgroupNumber } from "./kernel.ts";
import {
  type AttentionProblem,
  INPUTS,
  isPositional,
  visibleFunction,
} from "./attention-problem.ts";
import {
  accumulate,
  accumulators,
  declareHeads,
  I,
  product,
  storeRows,
  THREADS,
  TILE,
  TILES,
  WRITE_WEIGHTS,
} from "./attention-tile.ts";
import type { Binding } from "./operand.ts";
import { createSizes } from "./sizes.ts";

/** The gradient of keys or of values; the first temporary holds what `rowInfo` packs. */
export function keyRows(problem: AttentionProblem, part: "gradK" | "gradV"): KernelDispatch {
  const { batch, queries, keys, heads, groups, depth, scale, window } = problem;
  const chunks = Math.ceil(depth / TILE);
  const tiles = Math.ceil(keys / TILE);
  const count = batch * groups * tiles;
  const ratio = heads / groups;
  const sizes = createSizes();
  const countQ = sizes.u32(queries), countK = sizes.u32(keys);
  const headsQ = sizes.u32(heads), headsK = sizes.u32(groups), shared = sizes.u32(ratio);
  const byTiles = sizes.divisor(tiles, count), byGroups = sizes.divisor(groups, batch * groups);
  const bindings: Binding[] = [];
  const declarations: string[] = [];
  for (const name of part === "gradK" ? ["q", "k", "g", "v"] as const : ["q", "k", "g"] as const) {
    declarations.push(declareHeads(name, { binding: bindings.length, depth, sizes }));
    bindings.push(INPUTS[name]);
  }
  const last = bindings.length;
  declarations.push(`@group(0) @binding(${last}) var<storage, read> keySegments: array<i32>;
@group(0) @binding(${last + 1}) var<storage, read> info: array<vec4<u32>>;
@group(0) @binding(${last + 2}) var<storage, read_write> output: array<${
    depth % 4 ? "f32" : "vec4<f32>"
  }>;
`);
  bindings.push(INPUTS.keySegments, { temporary: 0 }, "output");

  const lineK = (row: string) =>
    `(sequence * ${countK} + min(first + ${row}, ${countK} - 1u)) * ${headsK} + keyHead`;
  const lineQ = (column: string) =>
    `(sequence * ${countQ} + min(start + ${column}, ${countQ} - 1u)) * ${headsQ} + head`;
  const factor = sizes.f32(scale);
  const columns = I.map((c) => `let info${c} = info[${lineQ(`x * 4u + ${c}u`)}];`).join("\n    ");
  const weight = (i: number) =>
    `let w${i} = select(vec4<f32>(), exp(s${i} * ${factor} - logSum)${
      part === "gradK" ? ` * (p${i} - delta)` : ""
    }, vec4<bool>(${
      I.map((c) =>
        `start + x * 4u + ${c}u < ${countQ} && visible(bitcast<i32>(info${c}.z), segment${i}, bitcast<i32>(info${c}.w), key${i})`
      ).join(", ")
    }));`;
  // Query t sees key s where s − offset ≤ t < s − offset + window.
  const offset = `bitcast<i32>(info[sequence * ${countQ} * ${headsQ}].w)`;
  const from = isPositional(problem)
    ? `u32(clamp(i32(first) - ${offset}, 0, i32(${countQ}))) / ${TILE}u * ${TILE}u`
    : "0u";
  const to = window === null
    ? countQ
    : `u32(clamp(i32(first) + ${sizes.i32(TILE - 1 + window)} - ${offset}, 0, i32(${countQ})))`;
  return {
    source: `${declarations.join("")}${visibleFunction(problem, sizes)}${TILES}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = ${workgroupNumber("id")};
  if (group >= ${sizes.u32(count)}) { return; }
  let first = ${byTiles.remainder("group")} * ${TILE}u;
  let stack = ${byTiles.quotient("group")};
  let keyHead = ${byGroups.remainder("stack")};
  let sequence = ${byGroups.quotient("stack")};
  let x = thread % 8u;
  let y = thread / 8u;
  ${
      I.map((i) =>
        `let key${i} = i32(first + y * 4u + ${i}u);
  let segment${i} = keySegments[sequence * ${countK} + min(u32(key${i}), ${countK} - 1u)];`
      ).join("\n  ")
    }
  let begin = ${from};
  let end = ${to};
  ${accumulators(chunks)}
  for (var head = keyHead * ${shared}; head < keyHead * ${shared} + ${shared}; head++) {
  for (var start = begin; start < end; start += ${TILE}u) {
    var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
    ${product("s", { x: "k", y: "q", lineX: lineK, lineY: lineQ, chunks })}
    ${
      part === "gradK"
        ? `var p0 = vec4<f32>(); var p1 = vec4<f32>(); var p2 = vec4<f32>(); var p3 = vec4<f32>();
    ${product("p", { x: "v", y: "g", lineX: lineK, lineY: lineQ, chunks })}`
        : ""
    }
    ${columns}
    let logSum = bitcast<vec4<f32>>(vec4<u32>(info0.x, info1.x, info2.x, info3.x));
    ${
      part === "gradK"
        ? "let delta = bitcast<vec4<f32>>(vec4<u32>(info0.y, info1.y, info2.y, info3.y));"
        : ""
    }
    ${I.map(weight).join("\n    ")}
    ${WRITE_WEIGHTS}
    ${accumulate(part === "gradK" ? "q" : "g", { lineZ: lineQ, chunks })}
  }
  }
  ${
      storeRows((row) => `(sequence * ${countK} + ${row}) * ${headsK} + keyHead`, {
        rows: countK,
        sizes,
        depth,
        chunks,
        factor: part === "gradK" ? factor : "1.0",
      })
    }
}
`,
    sizes,
    bindings,
    workgroups: foldWorkgroups(count),
  };
}
