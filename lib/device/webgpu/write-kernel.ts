/**
 * From groups of a fused program to dispatches: the source of each, and the values that it binds.
 *
 * @module
 */
import { elementwiseKernel } from "../../../kernels/elementwise.ts";
import {
  type FusedDispatch,
  type Leaf,
  type Reads,
  writeExpression,
} from "../../../kernels/expression.ts";
import { pieceKernel, transposeKernel } from "../../../kernels/layout.ts";
import { reduceKernel } from "../../../kernels/reduce.ts";
import { joinFunctions } from "../../../kernels/scalar-functions.ts";
import type { Sizes } from "../../../kernels/sizes.ts";
import { LITERAL_FUNCTIONS } from "../../../kernels/wgsl.ts";
import { type Kernel, MAX_WORKGROUPS } from "../../../kernels/kernel.ts";
import { operationOf } from "../../ops/mod.ts";
import { showSpec } from "../../ops/shapes.ts";
import type { Value } from "../../ops/value.ts";
import type { FusedProgram } from "../../program/fuse.ts";
import { type Group, leafOf } from "../../program/groups.ts";
import { DeviceError } from "../../errors.ts";
import { sizeOf } from "../../tensor/dtype.ts";

/** What a dispatch binds: a value that lies in a buffer, or a temporary of its group. */
export type Binding =
  | {
    readonly kind: "value";
    readonly value: Value;
    /** The kernel reads through indices of its own, from where the value begins to the end of its buffer. */
    readonly open: boolean;
  }
  | { readonly kind: "temporary"; readonly index: number };

/** One dispatch of a group. */
export interface WrittenDispatch {
  /** WGSL with entry point `main`. */
  readonly source: string;
  /** The numbers that the source names. */
  readonly sizes: Sizes;
  /** What is bound, in order. */
  readonly bindings: readonly Binding[];
  /** Workgroups in x, y, z. */
  readonly workgroups: readonly [number, number, number];
}

/** All dispatches of a group. */
export interface WrittenKernel {
  /** What to call it in errors and profiles. */
  readonly name: string;
  /** The dispatches, in order. */
  readonly dispatches: readonly WrittenDispatch[];
  /** Bytes of its temporaries. */
  readonly temporaries: readonly number[];
}

/** What a group is called: the operations in it and the shape of its result. */
export function groupName(group: Group): string {
  const [output] = group.outputs;
  const more = group.outputs.length > 1 ? ` and ${group.outputs.length - 1} more` : "";
  const title = group.node
    ? group.node === output ? group.node.op : `${group.node.op} with ${operationName(output)}`
    : operationName(output);
  return `${title} ${showSpec(output)}${more}`;
}

function operationName(v: Value): string {
  return v.op === "unary" || v.op === "binary" ? String(v.attributes.fn) : v.op;
}

function readsOf(fused: FusedProgram, group: Group): Reads {
  return { leaf: leafOf(fused, group), rule: (v) => operationOf(v).kernel };
}

/** The dispatches of an elementwise group. */
export function writeElementwise(
  fused: FusedProgram,
  group: Group,
  { inPlace, software }: {
    readonly inPlace: ReadonlyMap<number, string>;
    readonly software: boolean;
  },
): WrittenKernel {
  const name = groupName(group);
  const reads = readsOf(fused, group);
  const [root] = group.outputs;
  // On a processor, tiles cost more than reading along columns.
  if (!software && group.outputs.length === 1 && !inPlace.size && root.op === "transpose") {
    const rule = operationOf(root).kernel;
    const moved = reads.leaf(root.inputs[0]) && rule?.kind === "layout" &&
      transposeKernel(rule.map(root), root.dtype);
    if (moved) {
      const bindings = [whole(root.inputs[0]), whole(root)];
      return { name, dispatches: [checked({ ...moved, bindings }, name)], temporaries: [] };
    }
  }
  const dispatch = elementwiseKernel({ roots: group.outputs, ...reads, inPlace });
  return { name, dispatches: [fromFused(dispatch, group, name)], temporaries: [] };
}

/** The dispatches of a reduction. */
export function writeReduce(
  fused: FusedProgram,
  group: Group,
  { software }: { readonly software: boolean },
): WrittenKernel {
  const name = groupName(group);
  const { dispatches, temporaries } = reduceKernel({
    node: group.node!,
    root: group.outputs[0],
    ...readsOf(fused, group),
    software,
  });
  return { name, dispatches: dispatches.map((d) => fromFused(d, group, name)), temporaries };
}

/** The dispatches of a concatenation along an inner axis. */
export function writeConcat(group: Group): WrittenKernel {
  const node = group.node!, name = groupName(group);
  const axis = node.attributes.axis as number;
  const inner = sizeOf(node.shape.slice(axis + 1));
  let start = 0;
  const dispatches = node.inputs.map((piece) => {
    const kernel = pieceKernel({
      dtype: node.dtype,
      rows: sizeOf(node.shape.slice(0, axis)),
      length: piece.shape[axis] * inner,
      pitch: node.shape[axis] * inner,
      offset: start * inner,
    });
    if (!kernel) throw new TypeError(`${name} joins parts of words.`);
    start += piece.shape[axis];
    return checked({ ...kernel, bindings: [whole(piece), whole(node)] }, name);
  });
  return { name, dispatches, temporaries: [] };
}

/** The dispatches of a node's own kernel, with what is fused after it. */
export function writeOwn(fused: FusedProgram, group: Group, kernel: Kernel): WrittenKernel {
  const node = group.node!, [output] = group.outputs;
  const name = `${groupName(group)} (${kernel.variant})`;
  const reads = readsOf(fused, group);
  const dispatches = kernel.dispatches.map((d) => {
    const bindings: Binding[] = d.bindings.map((b) =>
      b === "output"
        ? whole(output)
        : typeof b === "number"
        ? whole(node.inputs[b])
        : { kind: "temporary", index: b.temporary }
    );
    if (!d.epilogue) {
      if (output !== node && d.bindings.includes("output")) {
        throw new TypeError(
          `${name} was fused with an epilogue that one of its dispatches does not call.`,
        );
      }
      return checked({ ...d, bindings }, name);
    }
    if (output === node) {
      return checked({ ...d, source: `${d.source}\n${IDENTITY_EPILOGUE}`, bindings }, name);
    }
    const sizes = d.sizes.extended();
    const expression = writeExpression({
      roots: [output],
      sizes,
      parameter: node,
      ...reads,
      name: "epilogue",
      firstBinding: bindings.length,
    });
    const source = [
      d.source,
      missingFunctions([LITERAL_FUNCTIONS, ...expression.functions], d.source),
      expression.source,
    ].join("\n");
    const leaves = expression.leaves.map((l) => open(l));
    return checked({ ...d, source, sizes, bindings: [...bindings, ...leaves] }, name);
  });
  return { name, dispatches, temporaries: kernel.temporaries ?? [] };
}

/** An epilogue that changes nothing. */
export const IDENTITY_EPILOGUE = `
fn epilogue(value: f32, index: u32) -> f32 { return value; }
fn epilogue4(value: vec4<f32>, index: u32) -> vec4<f32> { return value; }
`;

/** The functions in these texts that a source does not declare yet. */
function missingFunctions(texts: readonly string[], source: string): string {
  return joinFunctions(texts).split(/\n(?=fn )/)
    .filter((f) => !source.includes(f.slice(0, f.indexOf("(") + 1))).join("\n");
}

function whole(value: Value): Binding {
  return { kind: "value", value, open: false };
}

function open(leaf: Leaf): Binding {
  return { kind: "value", value: leaf.value, open: true };
}

function fromFused(dispatch: FusedDispatch, group: Group, name: string): WrittenDispatch {
  const bindings = dispatch.bindings.map((b): Binding =>
    "output" in b
      ? whole(group.outputs[b.output])
      : "temporary" in b
      ? { kind: "temporary", index: b.temporary }
      : open(b)
  );
  return checked({ ...dispatch, bindings }, name);
}

function checked(dispatch: WrittenDispatch, name: string): WrittenDispatch {
  if (dispatch.workgroups.some((n) => !Number.isInteger(n) || n < 1 || n > MAX_WORKGROUPS)) {
    throw new DeviceError(
      "DISPATCH_SIZE",
      `${name} would run ${
        dispatch.workgroups.join(" × ")
      } workgroups, but at most ${MAX_WORKGROUPS} along each dimension are possible.`,
      { workgroups: [...dispatch.workgroups] },
    );
  }
  const { source, sizes, bindings, workgroups } = dispatch;
  return { source, sizes, bindings, workgroups };
}
