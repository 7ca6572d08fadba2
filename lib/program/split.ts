/**
 * Splits operations on values that are larger than one binding may be, so that each kernel sees a range of rows. The values themselves stay whole: slices of rows are views, and
 * concatenations of rows are written in place.
 *
 * @module
 */
import { add, and, greaterEqual, less, max, min, sub } from "../ops/elementwise.ts";
import { concat } from "../ops/concat.ts";
import { operationOf } from "../ops/mod.ts";
import { reshape } from "../ops/reshape.ts";
import { select } from "../ops/select.ts";
import { bytesOf } from "../ops/shapes.ts";
import { sliceAxis } from "../ops/slice.ts";
import { broadcastRows, type Cut, rows } from "../ops/split-rule.ts";
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
  if (!program.nodes.some((v) => bytesOf(v) > options.maxBytes)) return program;
  return rewrite(program, (node, inputs, keep) => {
    const kind = operationOf(node).kernel.kind;
    if (kind === "external" || kind === "view" || inputs.length === 0) return keep();
    return make({ ...node, inputs }, options);
  });
}

interface Draft extends Spec {
  readonly op: string;
  readonly inputs: readonly Value[];
  readonly attributes: Attributes;
}

interface Block {
  readonly start: number;
  readonly size: number;
}

/** The node itself, or what it splits into; parts that are still too large are split again. */
function make(draft: Draft, options: SplitOptions): Value {
  const { op, inputs, attributes } = draft;
  const isLarge = (v: Spec) => bytesOf(v) > options.maxBytes;
  let parts: Value | null = null;
  if (isLarge(draft) || inputs.some(isLarge)) {
    const { split, kernel: { kind } } = operationOf(draft);
    const standard = kind === "elementwise" || kind === "layout" ? broadcastRows : rows();
    const cut = split === null ? null : (split ?? standard)(draft, isLarge);
    parts = cut && splitAlong(draft, cut, options);
  }
  return parts ?? inputs[0].graph.node(op, inputs, attributes, draft);
}

/** Parts along the axes of a cut, joined again; `null` where one element of the axis is too much. */
function splitAlong(draft: Draft, cut: Cut, options: SplitOptions): Value | null {
  const { inputs, attributes } = draft;
  const { output, ids, join } = cut;
  const cutValues = [draft, ...inputs].flatMap(({ shape, dtype }, i) => {
    const axis = i ? cut.inputs[i - 1] : output;
    return axis === null ? [] : [{ shape, dtype, axis }];
  });
  const blocks = blocksOf(cutValues, options);
  if (!blocks) return null;
  const parts = blocks.map((block) => {
    const places = ids === undefined ? null : within(inputs[ids], block);
    const shape = output === null ? draft.shape : draft.shape.with(output, block.size);
    const value = make({
      ...draft,
      shape,
      inputs: inputs.map((x, i) => {
        if (i === ids && places) return places.local;
        const axis = cut.inputs[i];
        if (axis !== null) return take(x, axis, block);
        return places && output !== null ? select(places.inside, x, 0) : x;
      }),
      attributes: "shape" in attributes ? { ...attributes, shape } : attributes,
    }, options);
    return { value, places };
  });
  if (output !== null) return concat(parts.map((p) => p.value), { axis: output });
  return parts.map((p) => p.value).reduce((y, part, i) => {
    const { places } = parts[i];
    return places ? select(places.inside, part, y) : join === "max" ? max(y, part) : add(y, part);
  });
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
    // All sizes but those of packed weights are taken as of 4 bytes per element, so that values of one shape are cut at the same places.
    const row = sizeOf(v.shape.with(v.axis, 1));
    block = Math.min(block, Math.floor(options.maxBytes / (v.dtype === "u8" ? row : row * 4)));
    // Parts of what fits a binding can be copied out; only larger values have to be cut where a range may begin.
    if (bytesOf(v) <= options.maxBytes) continue;
    // 8-bit types need blocks of four times as many elements for the same alignment.
    let aligned = 1;
    while ((aligned * row) % options.alignment !== 0 && aligned < options.alignment) {
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

/** Which ids [N] lie in a block, as a column [N, 1], and their place in it (any place for those outside). */
function within(ids: Value, { start, size }: Block): { inside: Value; local: Value } {
  const local = sub(ids, start);
  return {
    inside: reshape(and(greaterEqual(local, 0), less(local, size)), [-1, 1]),
    local: min(max(local, 0), size - 1),
  };
}
