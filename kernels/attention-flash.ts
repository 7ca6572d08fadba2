/**
 * Attention in tiles, which never keeps the T × S matrix (FlashAttention, Dao et al., 2022, arXiv:2205.14135), for hardware.
 *
 * A workgroup owns 32 rows (queries; keys for the gradients of k and v) of one head and streams the other side in tiles of 32 through
 * workgroup memory. 64 invocations hold 4 × 4 scores each and 4 rows of the result, so both products do 16 FLOP-pairs per two vector
 * reads, like the tiled matrix product. Global traffic per tile is 32·D words per operand for 2·32·32·D products: 1/16 word each and product, where
 * keeping the matrix would add 2 words per score. Tiles that the causal or window mask hides are skipped.
 *
 * The gradients compute the probabilities again from the log of each row's sum. Row sums, segments and places come packed
 * in one temporary, as WebGPU promises no more than 8 storage buffers.
 *
 * @module
 */
import {
  foldWorkgroups,
  itemDispatch,
  type Kernel,
  type KernelDispatch,
  workgroupNumber,
} from "./kernel.ts";
import {
  type AttentionPart,
  type AttentionProblem,
  HIDDEN,
  INPUTS,
  isPositional,
  LOG_SUM_INPUTS,
  NOTHING_SEEN,
  visibleFunction,
} from "./attention-problem.ts";
import { keyRows } from "./attention-flash-keys.ts";
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
  ZERO,
} from "./attention-tile.ts";
import type { Binding } from "./operand.ts";
import { createSizes, type Sizes } from "./sizes.ts";

/** One part of attention in tiles. */
export function flashAttention(problem: AttentionProblem, part: AttentionPart): Kernel {
  const gradient = part === "gradQ" || part === "gradK" || part === "gradV";
  const main = part === "gradK" || part === "gradV"
    ? keyRows(problem, part)
    : queryRows(problem, part);
  if (!gradient) return { variant: "flash", dispatches: [main] };
  const { batch, queries, heads } = problem;
  return {
    variant: "flash",
    dispatches: [rowInfo(problem), main],
    temporaries: [batch * queries * heads * 16],
  };
}

/** Packs (logSum, delta, segment, place) of each query and head into a `vec4<u32>`. */
function rowInfo({ batch, queries, heads }: AttentionProblem): KernelDispatch {
  const size = batch * queries * heads;
  const sizes = createSizes();
  const byHeads = sizes.divisor(heads, size), byQueries = sizes.divisor(queries, batch * queries);
  return itemDispatch({
    declare: `
@group(0) @binding(0) var<storage, read> segments: array<i32>;
@group(0) @binding(1) var<storage, read> offset: array<i32>;
@group(0) @binding(2) var<storage, read> logSum: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> info: array<vec4<u32>>;`,
    count: size,
    sizes,
    bindings: [INPUTS.querySegments, INPUTS.offset, INPUTS.logSum, INPUTS.delta, { temporary: 0 }],
    body: `let query = ${byHeads.quotient("index")};
  info[index] = vec4<u32>(
    bitcast<u32>(logSum[index]),
    bitcast<u32>(delta[index]),
    bitcast<u32>(segments[query]),
    bitcast<u32>(offset[0] + i32(${byQueries.remainder("query")})),
  );`,
  });
}

/** WGSL bounds `begin` and `end` of the keys that queries at places `low` to `high` may see, in whole tiles. */
function keyRange(
  problem: AttentionProblem,
  places: { readonly low: string; readonly high: string },
  { keys, sizes }: { readonly keys: string; readonly sizes: Sizes },
): string {
  const { window } = problem;
  const clamped = (place: string) => `u32(clamp(${place}, 0, i32(${keys})))`;
  const to = isPositional(problem) ? clamped(`${places.high} + 1`) : keys;
  const from = window === null
    ? "0u"
    : `${clamped(`${places.low} - ${sizes.i32(window - 1)}`)} / ${TILE}u * ${TILE}u`;
  return `let begin = ${from};
  let end = ${to};`;
}

function queryRows(problem: AttentionProblem, part: "output" | "logSum" | "gradQ"): KernelDispatch {
  const { batch, queries, keys, heads, groups, depth, scale } = problem;
  const chunks = Math.ceil(depth / TILE);
  const tiles = Math.ceil(queries / TILE);
  const count = batch * heads * tiles;
  const ratio = heads / groups;
  const gradient = part === "gradQ";
  const sizes = createSizes();
  const countQ = sizes.u32(queries), countK = sizes.u32(keys);
  const headsQ = sizes.u32(heads), headsK = sizes.u32(groups);
  const byTiles = sizes.divisor(tiles, count), byHeads = sizes.divisor(heads, batch * heads);
  const byRatio = sizes.divisor(ratio, heads);
  const inputs = part === "logSum" ? { ...LOG_SUM_INPUTS, v: -1 } : INPUTS;
  const bindings: Binding[] = [];
  const declarations: string[] = [];
  const bind = (name: string, what: Binding) => {
    declarations.push(declareHeads(name, { binding: bindings.length, depth, sizes }));
    bindings.push(what);
  };
  const bindArray = (name: string, type: string, what: Binding, mode = "read") => {
    declarations.push(
      `@group(0) @binding(${bindings.length}) var<storage, ${mode}> ${name}: array<${type}>;\n`,
    );
    bindings.push(what);
  };
  bind("q", inputs.q);
  bind("k", inputs.k);
  if (part !== "logSum") bind("v", inputs.v);
  bindArray("keySegments", "i32", inputs.keySegments);
  if (gradient) {
    bind("g", INPUTS.g);
    bindArray("info", "vec4<u32>", { temporary: 0 });
  } else {
    bindArray("querySegments", "i32", inputs.querySegments);
    bindArray("offset", "i32", inputs.offset);
  }
  const whole = part === "logSum" || depth % 4;
  bindArray("output", whole ? "f32" : "vec4<f32>", "output", "read_write");

  const query = (row: string) => `min(first + ${row}, ${countQ} - 1u)`;
  const lineQ = (row: string) => `(sequence * ${countQ} + ${query(row)}) * ${headsQ} + head`;
  const lineK = (column: string) =>
    `(sequence * ${countK} + min(start + ${column}, ${countK} - 1u)) * ${headsK} + keyHead`;
  const rows = I.map((i) =>
    gradient
      ? `let info${i} = info[${lineQ(`y * 4u + ${i}u`)}];
  let segment${i} = bitcast<i32>(info${i}.z);
  let place${i} = bitcast<i32>(info${i}.w);`
      : `let segment${i} = querySegments[sequence * ${countQ} + ${query(`y * 4u + ${i}u`)}];
  let place${i} = offset[0] + i32(${query(`y * 4u + ${i}u`)});`
  ).join("\n  ");
  const low = gradient ? `bitcast<i32>(info[${lineQ("0u")}].w)` : `offset[0] + i32(first)`;
  const high = gradient
    ? `bitcast<i32>(info[${lineQ(`${TILE - 1}u`)}].w)`
    : `offset[0] + i32(${query(`${TILE - 1}u`)})`;
  // Which of the invocation's scores count, by columns.
  const seen = `let key = start + x * 4u;
    let keySegment = vec4<i32>(${
    I.map((c) => `keySegments[sequence * ${countK} + min(key + ${c}u, ${countK} - 1u)]`).join(", ")
  });
    ${
    I.map((i) =>
      `let seen${i} = vec4<bool>(${
        I.map((c) =>
          `key + ${c}u < ${countK} && visible(segment${i}, keySegment.${
            "xyzw"[c]
          }, place${i}, i32(key + ${c}u))`
        ).join(", ")
      });`
    ).join("\n    ")
  }`;
  const scores =
    `var s0 = vec4<f32>(); var s1 = vec4<f32>(); var s2 = vec4<f32>(); var s3 = vec4<f32>();
    ${product("s", { x: "q", y: "k", lineX: lineQ, lineY: lineK, chunks })}
    ${seen}`;
  const factor = sizes.f32(scale);
  let body: string, end: string;
  if (gradient) {
    body = `${scores}
    var p0 = vec4<f32>(); var p1 = vec4<f32>(); var p2 = vec4<f32>(); var p3 = vec4<f32>();
    ${product("p", { x: "g", y: "v", lineX: lineQ, lineY: lineK, chunks })}
    ${
      I.map((i) =>
        `let w${i} = select(vec4<f32>(), exp(s${i} * ${factor} - bitcast<f32>(info${i}.x)) * (p${i} - bitcast<f32>(info${i}.y)), seen${i});`
      ).join("\n    ")
    }
    ${WRITE_WEIGHTS}
    ${accumulate("k", { lineZ: lineK, chunks })}`;
    end = storeRows((row) => `(sequence * ${countQ} + ${row}) * ${headsQ} + head`, {
      rows: countQ,
      sizes,
      depth,
      chunks,
      factor,
    });
  } else {
    // Each invocation keeps the sum of its own columns; the largest score is the row's.
    body = `${scores}
    ${
      I.map((i) => `let v${i} = select(vec4<f32>(${HIDDEN}), s${i} * ${factor}, seen${i});`).join(
        "\n    ",
      )
    }
    tileY[x * 8u + y] = vec4<f32>(${
      I.map((i) => `max(max(v${i}.x, v${i}.y), max(v${i}.z, v${i}.w))`).join(", ")
    });
    workgroupBarrier();
    var top = largest;
    for (var n = ${ZERO}; n < 8u; n++) { top = max(top, tileY[n * 8u + y]); }
    let shrink = exp(largest - top);
    largest = top;
    ${
      I.map((i) => `let w${i} = select(vec4<f32>(), exp(v${i} - top.${"xyzw"[i]}), seen${i});`)
        .join("\n    ")
    }
    total = total * shrink + vec4<f32>(${I.map((i) => `dot(w${i}, vec4<f32>(1.0))`).join(", ")});
    ${
      part === "logSum"
        ? "workgroupBarrier();"
        : `${
          I.map((i) =>
            Array.from({ length: chunks }, (_, c) => `acc${i}x${c} *= shrink.${"xyzw"[i]};`).join(
              " ",
            )
          ).join("\n    ")
        }
    ${WRITE_WEIGHTS}
    ${accumulate("v", { lineZ: lineK, chunks })}`
    }`;
    end = `tileY[x * 8u + y] = total;
  workgroupBarrier();
  total = vec4<f32>();
  for (var n = ${ZERO}; n < 8u; n++) { total += tileY[n * 8u + y]; }
  ` + (part === "logSum"
      ? `if (x == 0u) {
    let result = select(vec4<f32>(${NOTHING_SEEN}), largest + log(total), total > vec4<f32>());
    ${
        I.map((i) =>
          `if (first + y * 4u + ${i}u < ${countQ}) { output[(sequence * ${countQ} + first + y * 4u + ${i}u) * ${headsQ} + head] = result.${
            "xyzw"[i]
          }; }`
        ).join("\n    ")
      }
  }`
      : `let inverse = select(vec4<f32>(), 1.0 / total, total > vec4<f32>());
  ${
        storeRows((row) => `(sequence * ${countQ} + ${row}) * ${headsQ} + head`, {
          rows: countQ,
          sizes,
          depth,
          chunks,
          factor: "inverse[i]",
        })
      }`);
  }
  return {
    source: `${declarations.join("")}${visibleFunction(problem, sizes)}${TILES}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = ${workgroupNumber("id")};
  if (group >= ${sizes.u32(count)}) { return; }
  let first = ${byTiles.remainder("group")} * ${TILE}u;
  let stack = ${byTiles.quotient("group")};
  let head = ${byHeads.remainder("stack")};
  let keyHead = ${byRatio.quotient("head")};
  let sequence = ${byHeads.quotient("stack")};
  let x = thread % 8u;
  let y = thread / 8u;
  ${rows}
  ${keyRange(problem, { low, high }, { keys: countK, sizes })}
  ${part === "logSum" ? "" : accumulators(chunks)}
  ${gradient ? "" : `var largest = vec4<f32>(${HIDDEN});\n  var total = vec4<f32>();`}
  for (var start = begin; start < end; start += ${TILE}u) {
    ${body}
  }
  ${end}
}
`,
    sizes,
    bindings,
    workgroups: foldWorkgroups(count),
  };
}
