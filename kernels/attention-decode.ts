/**
 * Attention of a few queries with many keys, as in decoding with a cache: each key and value is read once and used by the queries of its
 * group only, so the memory's speed is the limit and one workgroup per head would leave most of a GPU idle.
 *
 * Keys are split into runs of 64, one workgroup each, which serves all query heads that share the key head. Each gives its largest score, its sum and its
 * weighted values; a second dispatch combines the runs. Runs that the mask hides (the unused end of a cache) stop at once.
 *
 * @module
 */
import { foldWorkgroups, itemDispatch, type Kernel, workgroupNumber } from "./kernel.ts";
import {
  type AttentionProblem,
  HIDDEN,
  INPUTS,
  isPositional,
  visibleFunction,
} from "./attention-problem.ts";
import { createSizes } from "./sizes.ts";

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
  const sizes = createSizes();
  const countQ = sizes.u32(queries), countK = sizes.u32(keys), factor = sizes.f32(scale);
  const headsQ = sizes.u32(heads), headsK = sizes.u32(groups), share = sizes.u32(slices);
  const byFours = sizes.divisor(fours, Math.max(RUN, rows * fours));
  const byRuns = sizes.divisor(runs, count), byGroups = sizes.divisor(groups, batch * groups);
  const queryOf = (r: number) => Math.floor(r / ratio);
  const line = (r: number) =>
    `((sequence * ${countQ} + ${queryOf(r)}u) * ${headsQ} + keyHead * ${ratio}u + ${r % ratio}u)`;
  const hiddenRun = [
    ...(isPositional(problem) ? [`i32(first) > offset[0] + ${queries - 1}`] : []),
    ...(window === null ? [] : [`i32(first) + ${RUN - 1} <= offset[0] - ${sizes.i32(window)}`]),
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
${visibleFunction(problem, sizes)}
var<workgroup> weights: array<f32, ${rows * RUN}>;
var<workgroup> tops: array<f32, ${rows}>;
var<workgroup> sums: array<vec4<f32>, ${rows * RUN}>;

@compute @workgroup_size(${RUN})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = ${workgroupNumber("id")};
  if (group >= ${sizes.u32(count)}) { return; }
  let first = ${byRuns.remainder("group")} * ${RUN}u;
  let stack = ${byRuns.quotient("group")};
  let keyHead = ${byGroups.remainder("stack")};
  let sequence = ${byGroups.quotient("stack")};
  ${
        hiddenRun &&
        `if (${hiddenRun}) {
    if (thread < ${rows}u) { stats[group * ${rows}u + thread] = vec2<f32>(${HIDDEN}, 0.0); }
    return;
  }`
      }
  let count = min(${RUN}u, ${countK} - first);
  let key = first + thread;
  let place = min(key, ${countK} - 1u);
  let keyLine = ((sequence * ${countK} + place) * ${headsK} + keyHead) * ${byFours.value};
  ${each((r) => `var score${r} = 0.0;`, "\n  ")}
  for (var d = 0u; d < ${byFours.value}; d++) {
    let part = k[keyLine + d];
    ${each((r) => `score${r} += dot(q[${line(r)} * ${byFours.value} + d], part);`)}
  }
  let factor = ${factor};
  let segment = keySegments[sequence * ${countK} + place];
  ${
        each(
          (r) =>
            `let seen${r} = key < ${countK} && visible(querySegments[sequence * ${countQ} + ${
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
  let slice = ${byFours.quotient("thread")};
  let four = ${byFours.remainder("thread")};
  ${each((r) => `var sum${r} = vec4<f32>();`, "\n  ")}
  if (slice < ${share}) {
    for (var i = slice; i < count; i += ${share}) {
      let part = v[((sequence * ${countK} + first + i) * ${headsK} + keyHead) * ${byFours.value} + four];
      ${each((r) => `sum${r} += weights[${r * RUN}u + i] * part;`, "\n      ")}
    }
    ${each((r) => `sums[${r * RUN}u + thread] = sum${r};`)}
  }
  workgroupBarrier();
  for (var unit = thread; unit < ${rows}u * ${byFours.value}; unit += ${RUN}u) {
    let start = ${byFours.quotient("unit")} * ${RUN}u + ${byFours.remainder("unit")};
    var all = sums[start];
    for (var i = 1u; i < ${share}; i++) { all += sums[start + i * ${byFours.value}]; }
    parts[group * ${rows}u * ${byFours.value} + unit] = all;
  }
  if (thread < ${rows}u) {
    var total = 0.0;
    for (var i = 0u; i < count; i++) { total += weights[thread * ${RUN}u + i]; }
    stats[group * ${rows}u + thread] = vec2<f32>(tops[thread], total);
  }
}
`,
      sizes,
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
  const sizes = createSizes();
  const byFours = sizes.divisor(fours, size);
  const byHeads = sizes.divisor(heads, batch * queries * heads);
  const byQueries = sizes.divisor(queries, batch * queries);
  const byRatio = sizes.divisor(ratio, heads);
  const each = sizes.u32(rows), count = sizes.u32(runs);
  return itemDispatch({
    declare: `@group(0) @binding(0) var<storage, read> stats: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> output: array<vec4<f32>>;`,
    count: size,
    sizes,
    bindings: [{ temporary: 0 }, { temporary: 1 }, "output"],
    body: `let line = ${byFours.quotient("index")};
  let four = ${byFours.remainder("index")};
  let head = ${byHeads.remainder("line")};
  let place = ${byHeads.quotient("line")};
  let query = ${byQueries.remainder("place")};
  let sequence = ${byQueries.quotient("place")};
  let row = query * ${byRatio.value} + ${byRatio.remainder("head")};
  let start = (sequence * ${sizes.u32(groups)} + ${byRatio.quotient("head")}) * ${count};
  var top = ${HIDDEN};
  for (var r = 0u; r < ${count}; r++) { top = max(top, stats[(start + r) * ${each} + row].x); }
  var sum = vec4<f32>();
  var total = 0.0;
  for (var r = 0u; r < ${count}; r++) {
    let at = (start + r) * ${each} + row;
    let stat = stats[at];
    // A run that saw nothing wrote no part.
    if (stat.y > 0.0) {
      let factor = exp(stat.x - top);
      sum += factor * parts[at * ${byFours.value} + four];
      total += factor * stat.y;
    }
  }
  output[index] = select(vec4<f32>(), sum / total, total > 0.0);`,
  });
}
