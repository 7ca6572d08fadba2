/**
 * Attention of a few queries with many keys, as in decoding with a cache: each key and value is read once and used by the queries of its
 * group only, so the memory's speed is the limit and one workgroup per head would leave most of a GPU idle.
 *
 * Keys are split into runs of 64, one workgroup each, which serves all query heads that share the key head. Each gives its largest score, its sum and its
 * weighted values; a second dispatch combines the runs. Runs that the mask hides (the unused end of a cache) stop at once.
 *
 * @module
 */
import { foldWorkgroups, type Kernel } from "../lib/ops/kernel-rule.ts";
import {
  type AttentionProblem,
  HIDDEN,
  INPUTS,
  isPositional,
  visibleFunction,
} from "./attention-problem.ts";
import { literal, opaqueZero, workgroupNumber } from "./wgsl.ts";

/** Keys per workgroup, and invocations. */
const RUN = 64;

/** Most queries of a sequence times query heads per key head. */
const MOST_ROWS = 8;

/** Whether {@link decodeAttention} can run an attention. */
export function isDecodeProblem({ queries, heads, groups, depth }: AttentionProblem): boolean {
  return queries * heads / groups <= MOST_ROWS && depth % 4 === 0 && depth <= 4 * RUN;
}

/** `attention` of a few queries. */
export function decodeAttention(problem: AttentionProblem): Kernel {
  const { batch, queries, keys, heads, groups, depth, scale, window } = problem;
  const ratio = heads / groups;
  const rows = queries * ratio;
  const fours = depth / 4;
  const runs = Math.ceil(keys / RUN);
  const count = batch * groups * runs;
  const slices = Math.floor(RUN / fours);
  const each = (text: (r: number) => string, separator = "\n    ") =>
    Array.from({ length: rows }, (_, r) => text(r)).join(separator);
  const queryOf = (r: number) => Math.floor(r / ratio);
  const line = (r: number) =>
    `((sequence * ${queries}u + ${queryOf(r)}u) * ${heads}u + keyHead * ${ratio}u + ${r % ratio}u)`;
  const hiddenRun = [
    ...(isPositional(problem) ? [`i32(first) > offset[0] + ${queries - 1}`] : []),
    ...(window === null ? [] : [`i32(first) + ${RUN - 1} <= offset[0] - ${window}`]),
  ].join(" || ");
  const stats = batch * groups * runs * rows;
  return {
    variant: "decode",
    temporaries: [stats * 8, stats * depth * 4],
    dispatches: [{
      source: `@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> querySegments: array<i32>;
@group(0) @binding(4) var<storage, read> keySegments: array<i32>;
@group(0) @binding(5) var<storage, read> offset: array<i32>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec2<f32>>;
@group(0) @binding(7) var<storage, read_write> parts: array<vec4<f32>>;
${visibleFunction(problem)}
var<workgroup> weights: array<f32, ${rows * RUN}>;
var<workgroup> tops: array<f32, ${rows}>;
var<workgroup> sums: array<vec4<f32>, ${rows * RUN}>;

@compute @workgroup_size(${RUN})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = ${workgroupNumber("id")};
  if (group >= ${count}u) { return; }
  let first = (group % ${runs}u) * ${RUN}u;
  let keyHead = (group / ${runs}u) % ${groups}u;
  let sequence = group / ${runs * groups}u;
  ${
        hiddenRun &&
        `if (${hiddenRun}) {
    if (thread < ${rows}u) { stats[group * ${rows}u + thread] = vec2<f32>(${HIDDEN}, 0.0); }
    return;
  }`
      }
  let count = min(${RUN}u, ${keys}u - first);
  let key = first + thread;
  let place = min(key, ${keys - 1}u);
  let keyLine = ((sequence * ${keys}u + place) * ${groups}u + keyHead) * ${fours}u;
  ${each((r) => `var score${r} = 0.0;`, "\n  ")}
  for (var d = ${opaqueZero("thread", RUN)}; d < ${fours}u; d++) {
    let part = k[keyLine + d];
    ${each((r) => `score${r} += dot(q[${line(r)} * ${fours}u + d], part);`)}
  }
  let factor = ${literal(scale, "f32")};
  let segment = keySegments[sequence * ${keys}u + place];
  ${
        each(
          (r) =>
            `let seen${r} = key < ${keys}u && visible(querySegments[sequence * ${queries}u + ${
              queryOf(r)
            }u], segment, offset[0] + ${queryOf(r)}, i32(key));
  weights[${r * RUN}u + thread] = select(${HIDDEN}, score${r} * factor, seen${r});`,
          "\n  ",
        )
      }
  workgroupBarrier();
  if (thread < ${rows}u) {
    var top = ${HIDDEN};
    for (var i = 0u; i < count; i++) { top = max(top, weights[thread * ${RUN}u + i]); }
    tops[thread] = top;
  }
  workgroupBarrier();
  ${
        each((r) =>
          `weights[${
            r * RUN
          }u + thread] = select(0.0, exp(score${r} * factor - tops[${r}]), seen${r});`, "\n  ")
      }
  workgroupBarrier();
  let slice = thread / ${fours}u;
  let four = thread % ${fours}u;
  ${each((r) => `var sum${r} = vec4<f32>();`, "\n  ")}
  if (slice < ${slices}u) {
    for (var i = slice; i < count; i += ${slices}u) {
      let part = v[((sequence * ${keys}u + first + i) * ${groups}u + keyHead) * ${fours}u + four];
      ${each((r) => `sum${r} += weights[${r * RUN}u + i] * part;`, "\n      ")}
    }
    ${each((r) => `sums[${r * RUN}u + thread] = sum${r};`)}
  }
  workgroupBarrier();
  for (var unit = thread; unit < ${rows * fours}u; unit += ${RUN}u) {
    let start = unit / ${fours}u * ${RUN}u + unit % ${fours}u;
    var all = sums[start];
    for (var i = 1u; i < ${slices}u; i++) { all += sums[start + i * ${fours}u]; }
    parts[group * ${rows * fours}u + unit] = all;
  }
  if (thread < ${rows}u) {
    var total = 0.0;
    for (var i = 0u; i < count; i++) { total += weights[thread * ${RUN}u + i]; }
    stats[group * ${rows}u + thread] = vec2<f32>(tops[thread], total);
  }
}
`,
      bindings: [
        INPUTS.q,
        INPUTS.k,
        INPUTS.v,
        INPUTS.querySegments,
        INPUTS.keySegments,
        INPUTS.offset,
        { temporary: 0 },
        { temporary: 1 },
      ],
      workgroups: foldWorkgroups(count),
    }, combine(problem, runs)],
  };
}

function combine(problem: AttentionProblem, runs: number): Kernel["dispatches"][number] {
  const { batch, queries, heads, groups, depth } = problem;
  const ratio = heads / groups, rows = queries * ratio, fours = depth / 4;
  const size = batch * queries * heads * fours;
  return {
    source: `@group(0) @binding(0) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let i = ${workgroupNumber("id")} * 64u + lane;
  if (i >= ${size}u) { return; }
  let head = (i / ${fours}u) % ${heads}u;
  let query = (i / ${fours * heads}u) % ${queries}u;
  let sequence = i / ${fours * heads * queries}u;
  let row = query * ${ratio}u + head % ${ratio}u;
  let start = (sequence * ${groups}u + head / ${ratio}u) * ${runs}u;
  var top = ${HIDDEN};
  for (var r = ${
      opaqueZero("lane", 64)
    }; r < ${runs}u; r++) { top = max(top, stats[(start + r) * ${rows}u + row].x); }
  var sum = vec4<f32>();
  var total = 0.0;
  for (var r = ${opaqueZero("lane", 64)}; r < ${runs}u; r++) {
    let at = (start + r) * ${rows}u + row;
    let stat = stats[at];
    // A run that saw nothing wrote no part.
    if (stat.y > 0.0) {
      let factor = exp(stat.x - top);
      sum += factor * parts[at * ${fours}u + i % ${fours}u];
      total += factor * stat.y;
    }
  }
  output[i] = select(vec4<f32>(), sum / total, total > 0.0);
}
`,
    bindings: [{ temporary: 0 }, { temporary: 1 }, "output"],
    workgroups: foldWorkgroups(Math.ceil(size / 64)),
  };
}
