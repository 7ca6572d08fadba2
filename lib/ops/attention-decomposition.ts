/**
 * Attention as matrix products and a softmax, for devices that keep the matrix of probabilities. Equal parts of the forward and of the
 * backward pass are the same nodes, so the probabilities are computed once. Keys are never repeated: the heads of a group are rows of one product.
 *
 * @module
 */
import {
  add,
  and,
  equal,
  exp,
  greater,
  greaterEqual,
  less,
  lessEqual,
  log,
  mul,
  not,
  or,
  sub,
} from "./elementwise.ts";
import { cast } from "./cast.ts";
import { concat } from "./concat.ts";
import { gather } from "./gather.ts";
import { iota } from "./iota.ts";
import { matmul } from "./matmul.ts";
import { reduceMax, sum } from "./reduce.ts";
import { reshape } from "./reshape.ts";
import { select } from "./select.ts";
import { sliceAxis } from "./slice.ts";
import { softCap } from "./functions.ts";
import { softmax } from "./softmax.ts";
import { transpose } from "./transpose.ts";
import type { Attributes, Value } from "./value.ts";

/** Far below any score, but finite, so that a row that sees no key has finite probabilities. */
const HIDDEN = -1e30;

const HEADS_FIRST = [0, 2, 1, 3];

interface Rule {
  readonly causal: boolean;
  readonly window: number | null;
  readonly scale: number;
}

interface Masks {
  readonly querySegments: Value;
  readonly keySegments: Value;
  readonly offset: Value;
}

function ruleOf(attributes: Attributes): Rule {
  return attributes as unknown as Rule;
}

/** [B, T, H, D] as [B, G, H/G · T, D]: the heads of a group one after the other. */
function groupRows(x: Value, groups: number): Value {
  const [b, t, h, d] = x.shape;
  return reshape(transpose(x, HEADS_FIRST), [b, groups, h / groups * t, d]);
}

/** The inverse of {@link groupRows}, to the shape [B, T, H, D]. */
function ungroupRows(x: Value, shape: readonly number[]): Value {
  const [b, t, h, d] = shape;
  return transpose(reshape(x, [b, h, t, d]), HEADS_FIRST);
}

/** [B, T, H] as [B, G, H/G · T, 1]. */
function groupScalars(x: Value, groups: number): Value {
  const [b, t, h] = x.shape;
  return reshape(transpose(x, [0, 2, 1]), [b, groups, h / groups * t, 1]);
}

/** Which of the keys numbered `key` [.., S'] the queries numbered `query` [T, 1] see by position, if that matters. */
function visibleByPosition(query: Value, key: Value, rule: Rule): Value | undefined {
  let seen: Value | undefined;
  if (rule.causal || rule.window !== null) seen = lessEqual(key, query);
  if (rule.window !== null) seen = and(seen!, greater(key, sub(query, rule.window)));
  return seen;
}

/** `bool` [B, T, S']: segments that are equal and not zero. */
function visibleBySegment(query: Value, key: Value): Value {
  const [b, t] = query.shape, s = key.shape[1];
  const q = reshape(query, [b, t, 1]);
  return and(equal(q, reshape(key, [b, 1, s])), not(equal(q, 0)));
}

function both(a: Value | undefined, b: Value): Value {
  return a ? and(a, b) : b;
}

/** Adds 0 where a query sees a key and a very low number elsewhere, and takes the softmax. `scores` is [B, G, R·T, S]. */
function maskedSoftmax(scores: Value, visible: Value): Value {
  const [b, g, rows, s] = scores.shape, t = visible.shape[1];
  const bias = select(visible, 0, HIDDEN);
  const oneRow = t === 1 || rows === t;
  return oneRow ? softmax(add(scores, reshape(bias, [b, 1, t, s]))) : reshape(
    softmax(add(reshape(scores, [b, g, rows / t, t, s]), reshape(bias, [b, 1, 1, t, s]))),
    scores.shape,
  );
}

function visibleKeys(t: number, s: number, masks: Masks, rule: Rule): Value {
  const { querySegments, keySegments, offset } = masks;
  const { graph } = offset;
  const query = add(iota(graph, [t, 1], { axis: 0 }), reshape(offset, [1, 1]));
  const key = iota(graph, [1, s], { axis: 1 });
  return both(
    visibleByPosition(query, key, rule),
    visibleBySegment(querySegments, keySegments),
  );
}

function scaledScores(q: Value, k: Value, rule: Rule): Value {
  const groups = k.shape[2];
  return mul(
    matmul(groupRows(q, groups), transpose(k, HEADS_FIRST), { transposeB: true }),
    rule.scale,
  );
}

/** [B, G, R·T, S] */
function probabilities(q: Value, k: Value, masks: Masks, rule: Rule): Value {
  return maskedSoftmax(
    scaledScores(q, k, rule),
    visibleKeys(q.shape[1], k.shape[1], masks, rule),
  );
}

function split(inputs: readonly Value[], from: number): Masks {
  const [querySegments, keySegments, offset] = inputs.slice(from);
  return { querySegments, keySegments, offset };
}

/**
 * `attention` with what only whole probabilities allow: a cap and a bias on the scores, and dropout. It is made of other operations on every device.
 *
 * @param q Queries [B, T, H, D].
 * @param keys As of `attention`; scaled scores become `cap` · tanh(scores / `cap`), `bias` [H or 1, T, S] is added, and `dropout` gets the probabilities [B, H, T, S].
 */
export function composedAttention(
  q: Value,
  keys: {
    readonly k: Value;
    readonly v: Value;
    readonly causal: boolean;
    readonly window: number | null;
    readonly scale?: number;
    readonly cap?: number | null;
    readonly bias?: Value;
    dropout(probabilities: Value): Value;
  } & Masks,
): Value {
  const { k, v, bias, cap, causal, window, scale = 1 / Math.sqrt(q.shape[3]) } = keys;
  const [b, t, h] = q.shape, [, s, g] = k.shape;
  const rule = { causal, window, scale };
  const grouped = [b, g, h / g * t, s];
  const scaled = reshape(scaledScores(q, k, rule), [b, h, t, s]);
  const scores = cap == null ? scaled : softCap(scaled, cap);
  const biased = bias ? add(scores, bias) : scores;
  const visible = visibleKeys(t, s, keys, rule);
  const p = maskedSoftmax(reshape(biased, grouped), visible);
  const dropped = reshape(keys.dropout(reshape(p, [b, h, t, s])), grouped);
  const y = ungroupRows(matmul(dropped, transpose(v, HEADS_FIRST)), q.shape);
  // transformers leaves what torch has no attention for as the softmax gives it: the mean of all values.
  return bias || cap != null ? y : mul(y, seeing(visible));
}

/** `attention` in terms of other operations. */
export function decomposeAttention(node: Value, inputs: readonly Value[]): Value {
  const [q, k, v] = inputs;
  const rule = ruleOf(node.attributes), masks = split(inputs, 3);
  const fresh = cachedAttention(q, k, v, masks, rule);
  const y = fresh ?? matmul(probabilities(q, k, masks, rule), transpose(v, HEADS_FIRST));
  const visible = visibleKeys(q.shape[1], k.shape[1], masks, rule);
  return mul(ungroupRows(y, q.shape), seeing(visible));
}

/** [B, T, 1, 1]: 1 for queries that see a key, 0 for others. */
function seeing(visible: Value): Value {
  const [b, t] = visible.shape;
  return reshape(reduceMax(cast(visible, "f32"), { axes: [-1] }), [b, t, 1, 1]);
}

/**
 * Attention over a cache that gets a few rows in the same pass: the old rows and the new ones are scored apart and share a softmax,
 * so that the cache need not be copied to be updated. [B, G, R·T, D], or nothing where that does not apply.
 */
function cachedAttention(
  q: Value,
  k: Value,
  v: Value,
  masks: Masks,
  rule: Rule,
): Value | undefined {
  if (k.op !== "cacheUpdate" || v.op !== "cacheUpdate" || k.inputs[2] !== v.inputs[2]) {
    return undefined;
  }
  const [oldKeys, newKeys, at] = k.inputs;
  const [oldValues, newValues] = v.inputs;
  const t = newKeys.shape[1], [b, s] = oldKeys.shape;
  if (t * 4 > s) return undefined;
  const { querySegments, keySegments, offset } = masks;
  const { graph } = q;
  const from = reshape(at, [1, 1]);
  const query = add(iota(graph, [q.shape[1], 1], { axis: 0 }), reshape(offset, [1, 1]));
  const oldKey = iota(graph, [1, s], { axis: 1 });
  const newKey = add(iota(graph, [1, t], { axis: 1 }), from);
  const kept = or(less(oldKey, from), greaterEqual(oldKey, add(from, t)));
  const newSegments = transpose(gather(transpose(keySegments), reshape(newKey, [t])));
  const visible = concat([
    and(
      both(visibleByPosition(query, oldKey, rule), kept),
      visibleBySegment(querySegments, keySegments),
    ),
    both(visibleByPosition(query, newKey, rule), visibleBySegment(querySegments, newSegments)),
  ], { axis: 2 });
  const scores = concat(
    [scaledScores(q, oldKeys, rule), scaledScores(q, newKeys, rule)],
    { axis: 3 },
  );
  const p = maskedSoftmax(scores, reshape(visible, [b, q.shape[1], s + t]));
  return add(
    matmul(sliceAxis(p, { axis: 3, start: 0, size: s }), transpose(oldValues, HEADS_FIRST)),
    matmul(sliceAxis(p, { axis: 3, start: s, size: t }), transpose(newValues, HEADS_FIRST)),
  );
}

/** `attentionLogSum` in terms of other operations. */
export function decomposeLogSum(node: Value, inputs: readonly Value[]): Value {
  const [q, k] = inputs, rule = ruleOf(node.attributes);
  const [b, t, h] = q.shape, [, s, g] = k.shape;
  const bias = select(visibleKeys(t, s, split(inputs, 2), rule), 0, HIDDEN);
  const scores = add(
    reshape(scaledScores(q, k, rule), [b, g, h / g, t, s]),
    reshape(bias, [b, 1, 1, t, s]),
  );
  const largest = reduceMax(scores, { axes: [-1], keepDims: true });
  const total = sum(exp(sub(scores, largest)), { axes: [-1], keepDims: true });
  return transpose(reshape(add(largest, log(total)), [b, h, t]), [0, 2, 1]);
}

/** The gradient of the scores before scaling, [B, G, R·T, S], and what the three gradients share. */
function backward(node: Value, inputs: readonly Value[]): {
  readonly p: Value;
  readonly scores: () => Value;
  readonly rows: Value;
} {
  const [q, k, v] = inputs, [g, , delta] = inputs.slice(6);
  const groups = k.shape[2], rule = ruleOf(node.attributes);
  const p = probabilities(q, k, split(inputs, 3), rule);
  const visible = visibleKeys(q.shape[1], k.shape[1], split(inputs, 3), rule);
  const rows = groupRows(mul(g, seeing(visible)), groups);
  const scores = () => {
    const dp = matmul(rows, transpose(v, HEADS_FIRST), { transposeB: true });
    return mul(p, sub(dp, groupScalars(delta, groups)));
  };
  return { p, scores, rows };
}

/** `attentionGradQ` in terms of other operations. */
export function decomposeGradQ(node: Value, inputs: readonly Value[]): Value {
  const [q, k] = inputs, { scale } = ruleOf(node.attributes);
  const y = matmul(backward(node, inputs).scores(), transpose(k, HEADS_FIRST));
  return ungroupRows(mul(y, scale), q.shape);
}

/** `attentionGradK` in terms of other operations. */
export function decomposeGradK(node: Value, inputs: readonly Value[]): Value {
  const [q, k] = inputs, { scale } = ruleOf(node.attributes);
  const y = matmul(backward(node, inputs).scores(), groupRows(q, k.shape[2]), {
    transposeA: true,
  });
  return transpose(mul(y, scale), HEADS_FIRST);
}

/** `attentionGradV` in terms of other operations. */
export function decomposeGradV(node: Value, inputs: readonly Value[]): Value {
  const { p, rows } = backward(node, inputs);
  return transpose(matmul(p, rows, { transposeA: true }), HEADS_FIRST);
}
