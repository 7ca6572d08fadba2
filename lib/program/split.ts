/**
 * Splits operations on values that are larger than one binding may be, so that each kernel sees a range of rows. The values themselves stay whole: slices of rows are views, and
 * concatenations of rows are written in place.
 *
 * @module
 */
import { storageBytes } from "../../kernels/wgsl.ts";
import { add, and, greaterEqual, less, max, min, sub } from "../ops/binary.ts";
import { concat } from "../ops/concat.ts";
import { operationOf } from "../ops/mod.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import { sliceAxis } from "../ops/slice.ts";
import type { Attributes, Spec, Value } from "../ops/value.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { type Program, rewrite } from "./program.ts";

/** What splitting depends on. */
export interface SplitOptions {
  /** Most bytes of one binding. */
  readonly maxBytes: number;
  /** What the offsets of bound ranges are multiples of. */
  readonly alignment: number;
}

/**
 * An equal program in which operations on large values work on rows of them. Operations that cannot be split stay as they are.
 *
 * @param program A lowered program.
 * @param options The limits of the adapter.
 */
export function splitLarge(program: Program, options: SplitOptions): Program {
  const isLarge = (v: Spec) => bytesOf(v) > options.maxBytes;
  if (!program.nodes.some(isLarge)) return program;
  return rewrite(program, (node, inputs, keep) => {
    const kind = operationOf(node).kernel.kind;
    if (kind === "external" || kind === "view" || inputs.length === 0) return keep();
    return make({ op: node.op, inputs, attributes: node.attributes, spec: node }, options);
  });
}

interface Draft {
  readonly op: string;
  readonly inputs: readonly Value[];
  readonly attributes: Attributes;
  readonly spec: Spec;
}

interface Block {
  readonly start: number;
  readonly size: number;
}

function bytesOf(v: Spec): number {
  return storageBytes(v.dtype, sizeOf(v.shape));
}

/** The node itself, or what it splits into; parts that are still too large are split again. */
function make(draft: Draft, options: SplitOptions): Value {
  const { op, inputs, attributes, spec } = draft;
  const large = (v: Spec) => bytesOf(v) > options.maxBytes;
  const split = large(spec) || inputs.some(large) ? splitDraft(draft, options) : null;
  return split ?? inputs[0].graph.node(op, inputs, attributes, spec);
}

function splitDraft(draft: Draft, options: SplitOptions): Value | null {
  switch (draft.op) {
    case "matmul":
      return splitMatmul(draft, options);
    case "matmulQuantized":
      return splitMatmulQuantized(draft, options);
    case "gather":
      return splitGather(draft, options, 0, 1);
    case "gatherQuantized":
      return splitGather(draft, options, 1, 0);
    case "scatterAdd":
      return splitScatter(draft, options);
    case "reduce":
      return splitReduce(draft, options);
    case "concat":
      return draft.attributes.axis === firstAxis(draft.spec.shape)
        ? null
        : splitRows(draft, options);
    case "slice":
    case "transpose":
    case "pad":
    case "cacheUpdate":
    case "dropoutMask": // its elements depend on where they are; kernels that use it compute it in place
      return null;
    default:
      return splitRows(draft, options);
  }
}

/** The first axis that is longer than 1. */
function firstAxis(shape: readonly number[]): number {
  return Math.max(0, shape.findIndex((d) => d > 1));
}

/** Blocks of an axis such that each block of every one of `values` is aligned and fits a binding; null where one element of the axis is too much. */
function blocksOf(
  values: readonly (Spec & { readonly axis: number })[],
  options: SplitOptions,
): Block[] | null {
  const { shape, axis } = values[0];
  const length = shape[axis];
  let block = length, unit = 1;
  for (const v of values) {
    // All sizes are taken as of 4 bytes per element, so that values of one shape are cut at the same places.
    const row = sizeOf(v.shape.with(v.axis, 1)) * 4;
    block = Math.min(block, Math.floor(options.maxBytes / row));
    // Parts of what fits a binding can be copied out; only larger values have to be cut where a range may begin.
    if (bytesOf(v) <= options.maxBytes) continue;
    // 8-bit types need blocks of four times as many elements for the same alignment.
    let aligned = 1;
    while ((aligned * row / 4) % options.alignment !== 0 && aligned < options.alignment) {
      aligned *= 2;
    }
    unit = Math.max(unit, aligned);
  }
  if (block < length) block = Math.floor(block / unit) * unit;
  if (block < 1) return null;
  const blocks: Block[] = [];
  for (let start = 0; start < length; start += block) {
    blocks.push({ start, size: Math.min(block, length - start) });
  }
  return blocks.length > 1 ? blocks : null;
}

/** A block of a value; of a concatenation, the piece that lies there. */
function take(v: Value, axis: number, block: Block): Value {
  if (v.op === "concat" && v.attributes.axis === axis) {
    let start = 0;
    for (const piece of v.inputs) {
      if (start === block.start && piece.shape[axis] === block.size) return piece;
      start += piece.shape[axis];
    }
  }
  return sliceAxis(v, { axis, ...block });
}

/** Inputs (by number) that all rows of an operation share. */
const SHARED: Readonly<Record<string, readonly number[]>> = {
  rmsNorm: [1],
  layerNorm: [1, 2],
  attention: [5],
  attentionLogSum: [4],
  attentionGradQ: [5],
  attentionGradK: [5],
  attentionGradV: [5],
};

/** Operations that treat the elements of their first axis alike. */
function splitRows(draft: Draft, options: SplitOptions): Value | null {
  const { op, inputs, attributes, spec } = draft;
  // The parts of a loss have the rows of the logits that they come from.
  const axis = firstAxis(spec.shape);
  const rank = spec.shape.length;
  const isElementwise = ["elementwise", "layout"].includes(
    operationOf({ op }).kernel.kind,
  );
  /** The axis of an input along which it goes with the output's. */
  const axisOf = (x: Value, i: number): number | null => {
    if (SHARED[op]?.includes(i)) return null;
    const own = isElementwise ? axis - rank + x.shape.length : axis;
    return own >= 0 && x.shape[own] === spec.shape[axis] ? own : null;
  };
  if (op === "softmax" && axis === rank - 1) return null;
  if (op.endsWith("Norm") && axis === rank - 1) return null;
  const parts = inputs.flatMap((x, i) => {
    const own = axisOf(x, i);
    return own === null ? [] : [{ ...specOf(x), axis: own }];
  });
  const blocks = blocksOf([{ ...spec, axis }, ...parts], options);
  if (!blocks) return null;
  return concat(
    blocks.map((block) => {
      const shape = spec.shape.with(axis, block.size);
      return make({
        op,
        inputs: inputs.map((x, i) => {
          const own = axisOf(x, i);
          return own === null ? x : take(x, own, block);
        }),
        attributes: "shape" in attributes ? { ...attributes, shape } : attributes,
        spec: { shape, dtype: spec.dtype },
      }, options);
    }),
    { axis },
  );
}

function specOf(v: Value): Spec {
  return { shape: v.shape, dtype: v.dtype };
}

function sumOf(values: readonly Value[]): Value {
  return values.reduce((a, b) => add(a, b));
}

function splitMatmul(
  { inputs: [a, b], attributes, spec }: Draft,
  options: SplitOptions,
): Value | null {
  const { transposeA, transposeB } = attributes as { transposeA: boolean; transposeB: boolean };
  const rank = spec.shape.length;
  const large = (v: Spec) => bytesOf(v) > options.maxBytes;
  const product = (x: Value, y: Value, shape: readonly number[]) =>
    make({ op: "matmul", inputs: [x, y], attributes, spec: { shape, dtype: "f32" } }, options);
  // One block of products after the other, where there are several.
  const batch = spec.shape.slice(0, -2).findIndex((d) => d > 1);
  if (batch >= 0) {
    const own = (x: Value) => {
      const axis = batch - rank + x.shape.length;
      return axis >= 0 && x.shape[axis] === spec.shape[batch] ? axis : null;
    };
    const parts = [a, b].flatMap((x) => own(x) === null ? [] : [{ ...specOf(x), axis: own(x)! }]);
    const blocks = blocksOf([{ ...spec, axis: batch }, ...parts], options);
    if (!blocks) return null;
    const pick = (x: Value, block: Block) => own(x) === null ? x : take(x, own(x)!, block);
    return concat(
      blocks.map((block) =>
        product(pick(a, block), pick(b, block), spec.shape.with(batch, block.size))
      ),
      { axis: batch },
    );
  }
  const rowAxis = a.shape.length - (transposeA ? 1 : 2),
    innerA = a.shape.length - (transposeA ? 2 : 1);
  const columnAxis = b.shape.length - (transposeB ? 2 : 1),
    innerB = b.shape.length - (transposeB ? 1 : 2);
  if (large(spec) || (large(a) && !transposeA)) {
    const blocks = blocksOf(
      [{ ...spec, axis: rank - 2 }, { ...specOf(a), axis: rowAxis }],
      options,
    );
    if (!blocks) return null;
    return concat(
      blocks.map((block) =>
        product(take(a, rowAxis, block), b, spec.shape.with(rank - 2, block.size))
      ),
      { axis: rank - 2 },
    );
  }
  if (large(b) && transposeB) {
    const blocks = blocksOf([{ ...specOf(b), axis: columnAxis }], options);
    if (!blocks) return null;
    return concat(
      blocks.map((block) =>
        product(a, take(b, columnAxis, block), spec.shape.with(rank - 1, block.size))
      ),
      { axis: rank - 1 },
    );
  }
  const blocks = blocksOf(
    [{ ...specOf(a), axis: innerA }, { ...specOf(b), axis: innerB }],
    options,
  );
  if (!blocks) return null;
  return sumOf(
    blocks.map((block) => product(take(a, innerA, block), take(b, innerB, block), spec.shape)),
  );
}

function splitMatmulQuantized(draft: Draft, options: SplitOptions): Value | null {
  const { inputs: [x, ...weight], attributes, spec } = draft;
  const large = (v: Spec) => bytesOf(v) > options.maxBytes;
  const product = (left: Value, right: readonly Value[], shape: readonly number[]) =>
    make({
      op: "matmulQuantized",
      inputs: [left, ...right],
      attributes,
      spec: { shape, dtype: "f32" },
    }, options);
  if (large(spec) || large(x)) {
    const blocks = blocksOf([{ ...spec, axis: 0 }, { ...specOf(x), axis: 0 }], options);
    if (!blocks) return null;
    return concat(
      blocks.map((block) => product(take(x, 0, block), weight, [block.size, spec.shape[1]])),
      { axis: 0 },
    );
  }
  const blocks = blocksOf(packedRows(weight), options);
  if (!blocks) return null;
  const part = (block: Block) => weight.map((w) => take(w, 0, block));
  return attributes.transposeB
    ? concat(blocks.map((b) => product(x, part(b), [spec.shape[0], b.size])), { axis: 1 })
    : sumOf(blocks.map((b) => product(take(x, 1, b), part(b), spec.shape)));
}

/** The parts of a quantized matrix, where the packed one counts by its bytes. */
function packedRows(weight: readonly Value[]): (Spec & { axis: number })[] {
  return weight.map((w) => ({
    ...specOf(w),
    shape: w.dtype === "u8" ? [w.shape[0], Math.ceil(w.shape[1] / 4)] : w.shape,
    axis: 0,
  }));
}

/** Lookups: by rows of the result, or in one block of the table after the other. */
function splitGather(
  draft: Draft,
  options: SplitOptions,
  table: number,
  ids: number,
): Value | null {
  const { op, inputs, attributes, spec } = draft;
  const index = inputs[ids];
  const parts = inputs.filter((_, i) => i !== ids);
  const lookUp = (part: readonly Value[], at: Value, shape: readonly number[]) =>
    make({
      op,
      inputs: table === 0 ? [...part, at] : [at, ...part],
      attributes,
      spec: { shape, dtype: spec.dtype },
    }, options);
  if (bytesOf(spec) > options.maxBytes) {
    const blocks = blocksOf([{ ...spec, axis: 0 }], options);
    if (!blocks) return null;
    return concat(
      blocks.map((b) => lookUp(parts, take(index, 0, b), [b.size, spec.shape[1]])),
      { axis: 0 },
    );
  }
  const blocks = blocksOf(packedRows(parts), options);
  if (!blocks) return null;
  return blocks.map((b) => {
    const { inside, local } = within(index, b);
    const rows = lookUp(parts.map((p) => take(p, 0, b)), local, spec.shape);
    return { inside: reshape(inside, [-1, 1]), rows };
  }).reduce<Value | null>((y, { inside, rows }) => y ? select(inside, rows, y) : rows, null);
}

/** Which ids lie in a block, and their place in it (any place for those outside). */
function within(ids: Value, { start, size }: Block): { inside: Value; local: Value } {
  const local = sub(ids, start);
  return {
    inside: and(greaterEqual(local, 0), less(local, size)),
    local: min(max(local, 0), size - 1),
  };
}

function splitScatter(
  { inputs: [updates, ids], spec }: Draft,
  options: SplitOptions,
): Value | null {
  const scatter = (rows: Value, at: Value, shape: readonly number[]) =>
    make({
      op: "scatterAdd",
      inputs: [rows, at],
      attributes: { rows: shape[0] },
      spec: { shape, dtype: "f32" },
    }, options);
  if (bytesOf(spec) > options.maxBytes) {
    const blocks = blocksOf([{ ...spec, axis: 0 }], options);
    if (!blocks) return null;
    return concat(
      blocks.map((b) => {
        const { inside, local } = within(ids, b);
        const rows = select(reshape(inside, [-1, 1]), updates, 0);
        return scatter(rows, local, [b.size, spec.shape[1]]);
      }),
      { axis: 0 },
    );
  }
  const blocks = blocksOf([{ ...specOf(updates), axis: 0 }], options);
  if (!blocks) return null;
  return sumOf(blocks.map((b) => scatter(take(updates, 0, b), take(ids, 0, b), spec.shape)));
}

function splitReduce(draft: Draft, options: SplitOptions): Value | null {
  const { inputs: [x], attributes, spec } = draft;
  const axis = firstAxis(x.shape);
  const reduced = (attributes.axes as readonly number[]).includes(axis);
  const blocks = blocksOf([{ ...specOf(x), axis }], options);
  if (!blocks) return null;
  const parts = blocks.map((block) =>
    make({
      op: "reduce",
      inputs: [take(x, axis, block)],
      attributes,
      spec: reduced ? spec : { shape: spec.shape.with(axis, block.size), dtype: spec.dtype },
    }, options)
  );
  if (!reduced) return concat(parts, { axis });
  return attributes.fn === "sum" ? sumOf(parts) : parts.reduce((a, b) => max(a, b));
}
