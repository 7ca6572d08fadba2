/**
 * The fused elementwise kernel: any number of elementwise nodes over one index space, read from few buffers and written to one or several.
 *
 * @module
 */
import { foldWorkgroups, workgroupNumber } from "./kernel.ts";
import type { Value } from "./value.ts";
import { sizeOf } from "../lib/tensor/dtype.ts";
import {
  type FusedDispatch,
  joinSource,
  packQuad,
  type Reads,
  storeType,
  writeExpression,
} from "./expression.ts";
import { createSizes } from "./sizes.ts";

/** What to compute. */
export interface ElementwiseOptions extends Reads {
  /** The values to store; all have the same number of elements. */
  readonly roots: readonly Value[];
  /** Key of the leaf that the root of this number overwrites; it is read pointwise only. */
  readonly inPlace?: ReadonlyMap<number, string>;
  /** Invocations per workgroup. */
  readonly workgroupSize?: number;
  /** Quads of elements per invocation. */
  readonly quads?: number;
}

/** Every invocation computes four neighbouring elements at a time, so that buffers are read and written as vectors. */
export function elementwiseKernel(options: ElementwiseOptions): FusedDispatch {
  const { roots, leaf, rule, inPlace = new Map<number, string>() } = options;
  const total = Math.ceil(sizeOf(roots[0].shape) / 4);
  const size = options.workgroupSize ?? 64;
  // A loop saves on the start of invocations, where enough of them are left to fill a GPU.
  const quads = options.quads ?? Math.min(Math.max(Math.floor(total / (size * 256)), 1), 8);
  const sizes = createSizes();
  const written = new Set(inPlace.values());
  const expression = writeExpression({
    roots,
    sizes,
    leaf,
    rule,
    name: "result",
    firstBinding: 0,
    written,
  });
  const bindings: FusedDispatch["bindings"][number][] = [...expression.leaves];
  const declarations: string[] = [], stores: string[] = [];
  roots.forEach((root, i) => {
    const key = inPlace.get(i);
    let variable = `output${i}`;
    if (key !== undefined) {
      variable = `resultLeaf${expression.leaves.findIndex((l) => l.key === key)}`;
    } else {
      declarations.push(
        `@group(0) @binding(${bindings.length}) var<storage, read_write> ${variable}: array<${
          storeType(root.dtype)
        }>;`,
      );
      bindings.push({ output: i });
    }
    stores.push(`${variable}[q] = ${packQuad(root.dtype, roots.length === 1 ? "r" : `r.r${i}`)};`);
  });
  return {
    source: joinSource([
      expression.source,
      ...declarations,
      `@compute @workgroup_size(${size})`,
      "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {",
      `let first = ${workgroupNumber("group")} * ${sizes.u32(size * quads)} + local;`,
      `let end = min(first + ${sizes.u32(size * quads)}, ${sizes.u32(total)});`,
      `for (var q = first; q < end; q += ${size}u) {`,
      "let r = result4(q * 4u);",
      ...stores,
      "}",
      "}",
    ], expression.functions),
    sizes,
    bindings,
    workgroups: foldWorkgroups(Math.ceil(total / (size * quads))),
  };
}
