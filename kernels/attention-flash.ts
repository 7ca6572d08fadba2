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
import { foldWorkgroups, type Kernel, type KernelDispatch } from "../lib/ops/kernel-rule.ts";
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
import type { Binding } from "./operand.ts";
import { literal, opaqueZero, workgroupNumber } from "./wgsl.ts";

/** Rows and columns of a tile, and elements of a head per step. */
const TILE = 32;
/** Fours per line of a tile in workgroup memory; one more than there are, against bank conflicts. */
const STRIDE = TILE / 4 + 1;
const THREADS = 64;
/** Steps of the inner loops that are written out. */
const UNROLL = 2;
const ZERO = opaqueZero("thread", THREADS);

const I = [0, 1, 2, 3] as const;

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
  return {
    source: `
@group(0) @binding(0) var<storage, read> segments: array<i32>;
@group(0) @binding(1) var<storage, read> offset: array<i32>;
@group(0) @binding(2) var<storage, read> logSum: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> info: array<vec4<u32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = ${workgroupNumber("id")} * 64u + lane;
  if (i >= ${size}u) { return; }
  let query = i / ${heads}u;
  info[i] = vec4<u32>(
    bitcast<u32>(logSum[i]),
    bitcast<u32>(delta[i]),
    bitcast<u32>(segments[query]),
    bitcast<u32>(offset[0] + i32(query % ${queries}u)),
  );
}
`,
    bindings: [INPUTS.querySegments, INPUTS.offset, INPUTS.logSum, INPUTS.delta, { temporary: 0 }],
    workgroups: foldWorkgroups(Math.ceil(size / 64)),
  };
}

/** Declares a [.., heads, D] input and `NAMEAt(line, at)`, which gives four elements, zeros past D. `line` counts heads of rows. */
function declareHeads(name: string, binding: number, depth: number): string {
  const fours = Math.ceil(depth / 4);
  if (depth % 4 === 0) {
    return `@group(0) @binding(${binding}) var<storage, read> ${name}Data: array<vec4<f32>>;
fn ${name}At(line: u32, at: u32) -> vec4<f32> {
  ${
      fours % 8
        ? `return select(vec4<f32>(), ${name}Data[line * ${fours}u + min(at, ${
          fours - 1
        }u)], at < ${fours}u);`
        : `return ${name}Data[line * ${fours}u + at];`
    }
}
`;
  }
  const element = (i: number) =>
    `select(0.0, ${name}Data[line * ${depth}u + min(at * 4u + ${i}u, ${
      depth - 1
    }u)], at * 4u + ${i}u < ${depth}u)`;
  return `@group(0) @binding(${binding}) var<storage, read> ${name}Data: array<f32>;
fn ${name}At(line: u32, at: u32) -> vec4<f32> {
  return vec4<f32>(${I.map(element).join(", ")});
}
`;
}

const unrolled = (text: (u: number) => string) =>
  Array.from({ length: UNROLL }, (_, u) => `{ ${text(u)} }`).join("\n      ");

/** WGSL that adds `x · yᵀ` over all of D to `into0` … `into3`. The two give the line of a row of each side. */
function product(
  into: string,
  sides: {
    readonly x: string;
    readonly y: string;
    readonly lineX: (row: string) => string;
    readonly lineY: (column: string) => string;
    readonly chunks: number;
  },
): string {
  const { x, y, lineX, lineY, chunks } = sides;
  const transpose = (tile: string) =>
    ["x", "y", "z", "w"].map((c, i) =>
      `${tile}[(step * 4u + ${i}u) * ${STRIDE}u + four] = vec4<f32>(v0.${c}, v1.${c}, v2.${c}, v3.${c});`
    ).join("\n      ");
  return `for (var chunk = 0u; chunk < ${chunks}u; chunk++) {
      let step = thread % 8u;
      let four = thread / 8u;
      let at = chunk * 8u + step;
      {
      ${I.map((i) => `let v${i} = ${x}At(${lineX(`four * 4u + ${i}u`)}, at);`).join("\n      ")}
      ${transpose("tileX")}
      }
      {
      ${I.map((i) => `let v${i} = ${y}At(${lineY(`four * 4u + ${i}u`)}, at);`).join("\n      ")}
      ${transpose("tileY")}
      }
      workgroupBarrier();
      for (var d = ${ZERO}; d < ${TILE}u; d += ${UNROLL}u) {
        ${
    unrolled((u) =>
      `let a = tileX[(d + ${u}u) * ${STRIDE}u + y];
        let b = tileY[(d + ${u}u) * ${STRIDE}u + x];
        ${I.map((i) => `${into}${i} += a.${"xyzw"[i]} * b;`).join(" ")}`
    )
  }
      }
      workgroupBarrier();
    }`;
}

/** WGSL that adds `weights · z` to `accIxC`; the weights are in `tileW`, written by the caller before. */
function accumulate(
  z: string,
  options: { readonly lineZ: (column: string) => string; readonly chunks: number },
): string {
  const { lineZ, chunks } = options;
  return Array.from(
    { length: chunks },
    (_, c) =>
      `for (var unit = thread; unit < ${TILE * 8}u; unit += ${THREADS}u) {
      let line = unit / 8u;
      let four = unit % 8u;
      tileX[line * ${STRIDE}u + four] = ${z}At(${lineZ("line")}, ${c * 8}u + four);
    }
    workgroupBarrier();
    for (var n = ${ZERO}; n < ${TILE}u; n += ${UNROLL}u) {
      ${
        unrolled((u) =>
          `let w = tileW[(n + ${u}u) * ${STRIDE}u + y];
      let z = tileX[(n + ${u}u) * ${STRIDE}u + x];
      ${I.map((i) => `acc${i}x${c} += w.${"xyzw"[i]} * z;`).join(" ")}`
        )
      }
    }
    workgroupBarrier();`,
  ).join("\n    ");
}

/** WGSL that stores the four rows of an invocation, each times `factor(i)`. */
function storeRows(
  line: (row: string) => string,
  options: {
    readonly rows: number;
    readonly depth: number;
    readonly chunks: number;
    readonly factor: (i: number) => string;
  },
): string {
  const { rows, depth, chunks, factor } = options;
  const fours = Math.ceil(depth / 4);
  return I.map((i) => {
    const row = `first + y * 4u + ${i}u`;
    const parts = Array.from({ length: chunks }, (_, c) => {
      const at = `${c * 8}u + x`;
      const value = `acc${i}x${c} * ${factor(i)}`;
      return depth % 4 === 0
        ? `if (${at} < ${fours}u) { output[line * ${fours}u + ${at}] = ${value}; }`
        : `{ let value = ${value}; ${
          I.map((e) =>
            `if ((${at}) * 4u + ${e}u < ${depth}u) { output[line * ${depth}u + (${at}) * 4u + ${e}u] = value.${
              "xyzw"[e]
            }; }`
          ).join(" ")
        } }`;
    });
    return `if (${row} < ${rows}u) {
    let line = ${line(row)};
    ${parts.join("\n    ")}
  }`;
  }).join("\n  ");
}

const TILES = `
var<workgroup> tileX: array<vec4<f32>, ${TILE * STRIDE}>;
var<workgroup> tileY: array<vec4<f32>, ${TILE * STRIDE}>;
var<workgroup> tileW: array<vec4<f32>, ${TILE * STRIDE}>;
`;

const accumulators = (chunks: number) =>
  Array.from(
    { length: chunks },
    (_, c) => I.map((i) => `var acc${i}x${c} = vec4<f32>();`).join(" "),
  )
    .join("\n  ");

/** The weights of a tile, as [column][row] fours of rows. */
const WRITE_WEIGHTS = I.map((c) =>
  `tileW[(x * 4u + ${c}u) * ${STRIDE}u + y] = vec4<f32>(${
    I.map((i) => `w${i}.${"xyzw"[c]}`).join(", ")
  });`
).join("\n    ");

/** WGSL bounds `begin` and `end` of the keys that queries at places `low` to `high` may see, in whole tiles. */
function keyRange(problem: AttentionProblem, low: string, high: string): string {
  const { keys, window } = problem;
  const to = isPositional(problem) ? `u32(clamp(${high} + 1, 0, ${keys}))` : `${keys}u`;
  const from = window === null
    ? "0u"
    : `u32(clamp(${low} - ${window - 1}, 0, ${keys})) / ${TILE}u * ${TILE}u`;
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
  const inputs = part === "logSum" ? { ...LOG_SUM_INPUTS, v: -1 } : INPUTS;
  const bindings: Binding[] = [];
  const declarations: string[] = [];
  const bind = (name: string, what: Binding) => {
    declarations.push(declareHeads(name, bindings.length, depth));
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

  const query = (row: string) => `min(first + ${row}, ${queries - 1}u)`;
  const lineQ = (row: string) => `(sequence * ${queries}u + ${query(row)}) * ${heads}u + head`;
  const lineK = (column: string) =>
    `(sequence * ${keys}u + min(start + ${column}, ${keys - 1}u)) * ${groups}u + head / ${ratio}u`;
  const rows = I.map((i) =>
    gradient
      ? `let info${i} = info[${lineQ(`y * 4u + ${i}u`)}];
  let segment${i} = bitcast<i32>(info${i}.z);
  let place${i} = bitcast<i32>(info${i}.w);`
      : `let segment${i} = querySegments[sequence * ${queries}u + ${query(`y * 4u + ${i}u`)}];
  let place${i} = offset[0] + i32(${query(`y * 4u + ${i}u`)});`
  ).join("\n  ");
  const low = gradient ? `bitcast<i32>(info[${lineQ("0u")}].w)` : `offset[0] + i32(first)`;
  const high = gradient
    ? `bitcast<i32>(info[${lineQ(`${TILE - 1}u`)}].w)`
    : `offset[0] + i32(${query(`${TILE - 1}u`)})`;
  // Which of the invocation's scores count, by columns.
  const seen = `let key = start + x * 4u;
    let keySegment = vec4<i32>(${
    I.map((c) => `keySegments[sequence * ${keys}u + min(key + ${c}u, ${keys - 1}u)]`).join(", ")
  });
    ${
    I.map((i) =>
      `let seen${i} = vec4<bool>(${
        I.map((c) =>
          `key + ${c}u < ${keys}u && visible(segment${i}, keySegment.${
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
  const factor = literal(scale, "f32");
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
    end = storeRows((row) => `(sequence * ${queries}u + ${row}) * ${heads}u + head`, {
      rows: queries,
      depth,
      chunks,
      factor: () => factor,
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
          `if (first + y * 4u + ${i}u < ${queries}u) { output[(sequence * ${queries}u + first + y * 4u + ${i}u) * ${heads}u + head] = result.${
            "xyzw"[i]
          }; }`
        ).join("\n    ")
      }
  }`
      : `let inverse = select(vec4<f32>(), 1.0 / total, total > vec4<f32>());
  ${
        storeRows((row) => `(sequence * ${queries}u + ${row}) * ${heads}u + head`, {
          rows: queries,
          depth,
          chunks,
          factor: (i) => `inverse.${"xyzw"[i]}`,
        })
      }`);
  }
  return {
    source: `${declarations.join("")}${visibleFunction(problem)}${TILES}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = ${workgroupNumber("id")};
  if (group >= ${count}u) { return; }
  let first = (group % ${tiles}u) * ${TILE}u;
  let head = (group / ${tiles}u) % ${heads}u;
  let sequence = group / ${tiles * heads}u;
  let x = thread % 8u;
  let y = thread / 8u;
  ${rows}
  ${keyRange(problem, low, high)}
  ${part === "logSum" ? "" : accumulators(chunks)}
  ${gradient ? "" : `var largest = vec4<f32>(${HIDDEN});\n  var total = vec4<f32>();`}
  for (var start = begin; start < end; start += ${TILE}u) {
    ${body}
  }
  ${end}
}
`,
    bindings,
    workgroups: foldWorkgroups(count),
  };
}

function keyRows(problem: AttentionProblem, part: "gradK" | "gradV"): KernelDispatch {
  const { batch, queries, keys, heads, groups, depth, scale, window } = problem;
  const chunks = Math.ceil(depth / TILE);
  const tiles = Math.ceil(keys / TILE);
  const count = batch * groups * tiles;
  const ratio = heads / groups;
  const bindings: Binding[] = [];
  const declarations: string[] = [];
  for (const name of part === "gradK" ? ["q", "k", "g", "v"] as const : ["q", "k", "g"] as const) {
    declarations.push(declareHeads(name, bindings.length, depth));
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
    `(sequence * ${keys}u + min(first + ${row}, ${keys - 1}u)) * ${groups}u + keyHead`;
  const lineQ = (column: string) =>
    `(sequence * ${queries}u + min(start + ${column}, ${queries - 1}u)) * ${heads}u + head`;
  const factor = literal(scale, "f32");
  const columns = I.map((c) => `let info${c} = info[${lineQ(`x * 4u + ${c}u`)}];`).join("\n    ");
  const weight = (i: number) =>
    `let w${i} = select(vec4<f32>(), exp(s${i} * ${factor} - logSum)${
      part === "gradK" ? ` * (p${i} - delta)` : ""
    }, vec4<bool>(${
      I.map((c) =>
        `start + x * 4u + ${c}u < ${queries}u && visible(bitcast<i32>(info${c}.z), segment${i}, bitcast<i32>(info${c}.w), key${i})`
      ).join(", ")
    }));`;
  // Query t sees key s where s − offset ≤ t < s − offset + window.
  const offset = `bitcast<i32>(info[sequence * ${queries * heads}u].w)`;
  const from = isPositional(problem)
    ? `u32(clamp(i32(first) - ${offset}, 0, ${queries})) / ${TILE}u * ${TILE}u`
    : "0u";
  const to = window === null
    ? `${queries}u`
    : `u32(clamp(i32(first) + ${TILE - 1 + window} - ${offset}, 0, ${queries}))`;
  return {
    source: `${declarations.join("")}${visibleFunction(problem)}${TILES}
@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = ${workgroupNumber("id")};
  if (group >= ${count}u) { return; }
  let first = (group % ${tiles}u) * ${TILE}u;
  let keyHead = (group / ${tiles}u) % ${groups}u;
  let sequence = group / ${tiles * groups}u;
  let x = thread % 8u;
  let y = thread / 8u;
  ${
      I.map((i) =>
        `let key${i} = i32(first + y * 4u + ${i}u);
  let segment${i} = keySegments[sequence * ${keys}u + min(u32(key${i}), ${keys - 1}u)];`
      ).join("\n  ")
    }
  let begin = ${from};
  let end = ${to};
  ${accumulators(chunks)}
  for (var head = keyHead * ${ratio}u; head < keyHead * ${ratio}u + ${ratio}u; head++) {
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
      storeRows((row) => `(sequence * ${keys}u + ${row}) * ${groups}u + keyHead`, {
        rows: keys,
        depth,
        chunks,
        factor: () => part === "gradK" ? factor : "1.0",
      })
    }
}
`,
    bindings,
    workgroups: foldWorkgroups(count),
  };
}
