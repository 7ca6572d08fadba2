/**
 * Attention as matrix products in private memory, for software adapters (see kernels/matmul-register.ts for what these like). The probabilities of all
 * heads lie in a temporary: an element costs one store and one or two loads there, about a tenth of the 2·D products that it stands for, where the tiled
 * form's barriers cost more than half. Only for as many scores as fit into {@link LARGEST_SCORES} bytes.
 *
 * The scores are computed with queries or with keys contiguous, whichever way the next product reads them. Tiles that lie above the causal diagonal do no
 * products.
 *
 * @module
 */
import { itemDispatch, type Kernel, type KernelDispatch } from "./kernel.ts";
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
import { tilePlace } from "./matmul-problem.ts";
import { packDispatch, registerDispatch } from "./matmul-register.ts";
import type { Binding, Operand } from "./operand.ts";
import { createSizes, type Sizes } from "./sizes.ts";

/** Most bytes of scores for which this form is meant: what WebGPU promises to bind. */
const LARGEST_SCORES = 128 * 2 ** 20;

/** Temporaries: both sides of the scores with d as lines, and the scores. */
const LEFT = { temporary: 0 }, RIGHT = { temporary: 1 }, SCORES = { temporary: 2 };

const up4 = (n: number) => Math.ceil(n / 4) * 4;

/** Whether {@link registerAttention} is meant for an attention. */
export function isRegisterProblem({ batch, heads, queries, keys }: AttentionProblem): boolean {
  const padded = Math.max(up4(queries) * keys, queries * up4(keys));
  return batch * heads * padded * 4 <= LARGEST_SCORES;
}

/** One part of attention, with the scores in a temporary. */
export function registerAttention(problem: AttentionProblem, part: AttentionPart): Kernel {
  const { batch, queries, keys, heads, groups, depth } = problem;
  const keysContiguous = part === "gradK" || part === "gradV";
  const inputs = part === "logSum" ? { ...INPUTS, ...LOG_SUM_INPUTS } : INPUTS;
  const dispatches: KernelDispatch[] = [];
  const packQueries = (input: number) =>
    packDispatch(queryHeads(problem, input), {
      matrices: batch * heads,
      temporary: keysContiguous ? LEFT.temporary : RIGHT.temporary,
    });
  const packKeys = (input: number) =>
    packDispatch(keyHeads(problem, input), {
      matrices: batch * groups,
      temporary: keysContiguous ? RIGHT.temporary : LEFT.temporary,
    });
  dispatches.push(packQueries(inputs.q), packKeys(inputs.k));
  if (part === "output" || part === "logSum") {
    dispatches.push(scores(problem, { keysContiguous, inputs, form: "score" }));
    dispatches.push(part === "output" ? softmaxOfScores(problem) : logSumOfScores(problem));
  } else {
    dispatches.push(scores(problem, { keysContiguous, inputs, form: "probability" }));
    if (part !== "gradV") {
      dispatches.push(packQueries(INPUTS.g), packKeys(INPUTS.v));
      dispatches.push(scores(problem, { keysContiguous, inputs, form: "gradient" }));
    }
  }
  if (part !== "logSum") {
    dispatches.push(
      keysContiguous
        ? overQueries(problem, part === "gradK" ? INPUTS.q : INPUTS.g)
        : overKeys(problem, part === "gradQ" ? INPUTS.k : INPUTS.v),
    );
  }
  const sideBytes = [
    batch * heads * depth * up4(queries) * 4,
    batch * groups * depth * up4(keys) * 4,
  ];
  return {
    variant: "register",
    dispatches,
    temporaries: [
      ...(keysContiguous ? sideBytes : [sideBytes[1], sideBytes[0]]),
      batch * heads * (keysContiguous ? queries * up4(keys) : keys * up4(queries)) * 4,
    ],
  };
}

/** Rows and columns of an invocation's tile; as for plain products, large ones pay off where they run long. */
function tileSize({ batch, queries, keys, heads, depth }: AttentionProblem): number {
  return 2 * batch * heads * queries * keys * depth >= 2 ** 26 ? 16 : 8;
}

function queryHeads({ batch, queries, heads, depth }: AttentionProblem, input: number): Operand {
  return {
    format: "f32",
    lines: queries,
    length: depth,
    bindings: [input],
    heads: { count: heads, lines: queries, stacks: batch * heads },
  };
}

function keyHeads({ batch, keys, groups, depth }: AttentionProblem, input: number): Operand {
  return {
    format: "f32",
    lines: keys,
    length: depth,
    bindings: [input],
    heads: { count: groups, lines: keys, stacks: batch * groups },
  };
}

function packedSide(depth: number, length: number, binding: Binding): Operand {
  return { format: "f32", lines: depth, length: up4(length), bindings: [binding] };
}

/**
 * Writes [B·H, S, T] (or [B·H, T, S] with keys contiguous): masked scores; probabilities from the log of each row's sum; or, over those, the
 * gradients of the scores.
 */
function scores(
  problem: AttentionProblem,
  options: {
    readonly keysContiguous: boolean;
    readonly inputs: {
      readonly querySegments: number;
      readonly keySegments: number;
      readonly offset: number;
      readonly logSum: number;
      readonly delta: number;
    };
    readonly form: "score" | "probability" | "gradient";
  },
): KernelDispatch {
  const { batch, queries, keys, heads, groups, depth, scale } = problem;
  const { keysContiguous, inputs, form } = options;
  const ratio = heads / groups;
  const tile = tileSize(problem);
  const [m, n] = keysContiguous ? [queries, up4(keys)] : [keys, up4(queries)];
  const queryBatch = [batch, groups, ratio], keyBatch = [batch, groups, 1];
  /** WGSL of the epilogue, whose four elements differ in the contiguous side only. */
  const epilogue = (sizes: Sizes) => {
    const factor = sizes.f32(scale), countQ = sizes.u32(queries), countK = sizes.u32(keys);
    const place = tilePlace(
      "index",
      { down: m, across: n, matrices: batch * heads },
      sizes,
    );
    const byHeads = sizes.divisor(heads, batch * heads);
    const query = (i: number) => keysContiguous ? "row" : `min(column + ${i}u, ${countQ} - 1u)`;
    const key = (i: number) => keysContiguous ? `min(column + ${i}u, ${countK} - 1u)` : "row";
    const four = (text: (i: number) => string) => `vec4<f32>(${[0, 1, 2, 3].map(text).join(", ")})`;
    const lines = (name: string) =>
      four((i) => `${name}[(sequence * ${countQ} + ${query(i)}) * ${byHeads.value} + head]`);
    const isVisible = (i: number) =>
      `visible(querySegments[sequence * ${countQ} + ${
        query(i)
      }], keySegments[sequence * ${countK} + ${key(i)}], offset[0] + i32(${query(i)}), i32(${
        key(i)
      }))`;
    const seen = `vec4<bool>(${[0, 1, 2, 3].map(isVisible).join(", ")})`;
    const bodies = {
      score: `return select(vec4<f32>(${HIDDEN}), value * ${factor}, ${seen});`,
      probability: `return select(vec4<f32>(), exp(value * ${factor} - ${
        lines("logSum")
      }), ${seen});`,
      gradient: `return output[index / 4u] * (value - ${lines("delta")}) * ${factor};`,
    };
    return `${form === "gradient" ? "" : visibleFunction(problem, sizes)}
fn epilogue4(value: vec4<f32>, index: u32) -> vec4<f32> {
  let column = ${place.column};
  let row = ${place.row};
  let stack = ${place.matrix};
  let head = ${byHeads.remainder("stack")};
  let sequence = ${byHeads.quotient("stack")};
  ${bodies[form]}
}
`;
  };
  const buffers: [string, string, Binding][] = [];
  if (form !== "gradient") {
    buffers.push(["querySegments", "i32", inputs.querySegments]);
    buffers.push(["keySegments", "i32", inputs.keySegments]);
  }
  if (form !== "gradient" || isPositional(problem)) buffers.push(["offset", "i32", inputs.offset]);
  if (form === "probability") buffers.push(["logSum", "f32", inputs.logSum]);
  if (form === "gradient") buffers.push(["delta", "f32", inputs.delta]);
  const [firstKey, lastQuery] = keysContiguous
    ? ["column", `row + ${tile - 1}u`]
    : ["row", `column + ${tile - 1}u`];
  return registerDispatch({
    m,
    n,
    k: depth,
    batch: queryBatch,
    a: {
      operand: packedSide(depth, keysContiguous ? queries : keys, LEFT),
      kMajor: true,
      batch: keysContiguous ? queryBatch : keyBatch,
    },
    b: {
      operand: packedSide(depth, keysContiguous ? keys : queries, RIGHT),
      kMajor: true,
      batch: keysContiguous ? keyBatch : queryBatch,
    },
  }, {
    rows: tile,
    columns: tile,
    output: SCORES,
    limit: isPositional(problem)
      ? () => `if (i32(${firstKey}) > offset[0] + i32(${lastQuery})) { steps = 0u; }`
      : undefined,
    epilogue: {
      declare: (binding, sizes) =>
        buffers.map(([name, type], i) =>
          `@group(0) @binding(${binding + i}) var<storage, read> ${name}: array<${type}>;\n`
        ).join("") + epilogue(sizes),
      bindings: buffers.map(([, , what]) => what),
    },
  });
}

/** WGSL: how many keys, at most, the queries of the tile that holds `query` see. */
function keysSeen(
  problem: AttentionProblem,
  query: string,
  { tile, sizes }: { readonly tile: number; readonly sizes: Sizes },
): string {
  const keys = sizes.i32(problem.keys);
  return isPositional(problem)
    ? `u32(clamp(offset[0] + i32(${query} / ${tile}u * ${tile}u + ${tile}u), 0, ${keys}))`
    : `u32(${keys})`;
}

/** Start of a dispatch with one invocation per four queries of a head: largest score and sum over the keys. */
function reduceScores(
  problem: AttentionProblem,
  options: {
    readonly mode: "read" | "read_write";
    readonly offset: number;
    readonly declare?: string;
    /** WGSL of the end, from that of the distance between scores of one query. */
    readonly end: (pitch: string, sizes: Sizes) => string;
    readonly bindings: readonly Binding[];
  },
): KernelDispatch {
  const { batch, queries, keys, heads } = problem;
  const fours = up4(queries) / 4;
  const count = batch * heads * fours;
  const sizes = createSizes();
  const byFours = sizes.divisor(fours, count);
  const positional = isPositional(problem);
  return itemDispatch({
    declare: `@group(0) @binding(0) var<storage, ${options.mode}> scores: array<vec4<f32>>;
${positional ? "@group(0) @binding(1) var<storage, read> offset: array<i32>;" : ""}
${options.declare ?? ""}`,
    count,
    threads: 8,
    sizes,
    bindings: [SCORES, ...(positional ? [options.offset] : []), ...options.bindings],
    body: `let four = ${byFours.remainder("index")};
  let stack = ${byFours.quotient("index")};
  let start = stack * ${sizes.u32(keys)} * ${byFours.value} + four;
  let end = ${keysSeen(problem, "(four * 4u)", { tile: tileSize(problem), sizes })};
  var largest = vec4<f32>(${HIDDEN});
  var total = vec4<f32>();
  for (var s = 0u; s < end; s++) {
    let score = scores[start + s * ${byFours.value}];
    let top = max(largest, score);
    total = total * exp(largest - top) + exp(score - top);
    largest = top;
  }
  ${options.end(byFours.value, sizes)}`,
  });
}

function softmaxOfScores(problem: AttentionProblem): KernelDispatch {
  return reduceScores(problem, {
    mode: "read_write",
    offset: INPUTS.offset,
    bindings: [],
    // Where a row sees no key, its largest score is what hidden keys count as.
    end: (pitch) =>
      `let inverse = select(vec4<f32>(), 1.0 / total, largest > vec4<f32>(${HIDDEN}));
  for (var s = 0u; s < end; s++) {
    let at = start + s * ${pitch};
    scores[at] = exp(scores[at] - largest) * inverse;
  }`,
  });
}

function logSumOfScores(problem: AttentionProblem): KernelDispatch {
  const { batch, queries, heads } = problem;
  const binding = isPositional(problem) ? 2 : 1;
  return reduceScores(problem, {
    mode: "read",
    offset: LOG_SUM_INPUTS.offset,
    declare: `@group(0) @binding(${binding}) var<storage, read_write> output: array<f32>;`,
    bindings: ["output"],
    end: (_pitch, sizes) => {
      const count = sizes.u32(queries), byHeads = sizes.divisor(heads, batch * heads);
      const line = `${byHeads.quotient("stack")} * ${count} + four * 4u + n`;
      return `let result = select(vec4<f32>(${NOTHING_SEEN}), largest + log(total), largest > vec4<f32>(${HIDDEN}));
  for (var n = 0u; n < min(4u, ${count} - four * 4u); n++) {
    output[(${line}) * ${byHeads.value} + ${byHeads.remainder("stack")}] = result[n];
  }`;
    },
  });
}

const IDENTITY = `fn epilogue(value: f32, index: u32) -> f32 { return value; }
fn epilogue4(value: vec4<f32>, index: u32) -> vec4<f32> { return value; }
`;

/** [B·H, S, T] as weights of keys or values: [B, T, H, D]. */
function overKeys(problem: AttentionProblem, input: number): KernelDispatch {
  const { batch, queries, keys, heads, groups, depth } = problem;
  const tile = tileSize(problem), columns = Math.min(tile, up4(depth));
  const batches = [batch, groups, heads / groups];
  const positional = isPositional(problem);
  return registerDispatch({
    m: queries,
    n: depth,
    k: keys,
    batch: batches,
    a: {
      operand: { format: "f32", lines: keys, length: up4(queries), bindings: [SCORES] },
      kMajor: true,
      batch: batches,
    },
    b: {
      operand: keyHeads(problem, input),
      kMajor: true,
      batch: [batch, groups, 1],
    },
  }, {
    rows: tile,
    columns,
    heads,
    limit: positional
      ? (sizes) => `steps = ${keysSeen(problem, "row", { tile, sizes })};`
      : undefined,
    epilogue: {
      declare: (binding) =>
        (positional
          ? `@group(0) @binding(${binding}) var<storage, read> offset: array<i32>;\n`
          : "") + IDENTITY,
      bindings: positional ? [INPUTS.offset] : [],
    },
  });
}

/** [B·H, T, S] as weights of queries or gradients, summed over the query heads of each key head: [B, S, G, D]. */
function overQueries(problem: AttentionProblem, input: number): KernelDispatch {
  const { batch, queries, keys, heads, groups, depth } = problem;
  const tile = tileSize(problem), columns = Math.min(tile, up4(depth));
  const lines = heads / groups * queries;
  const batches = [batch, groups];
  return registerDispatch({
    m: keys,
    n: depth,
    k: lines,
    batch: batches,
    a: {
      operand: { format: "f32", lines, length: up4(keys), bindings: [SCORES] },
      kMajor: true,
      batch: batches,
    },
    b: {
      operand: { ...queryHeads(problem, input), lines },
      kMajor: true,
      batch: batches,
    },
  }, {
    rows: tile,
    columns,
    heads: groups,
    epilogue: { declare: () => IDENTITY, bindings: [] },
  });
}
