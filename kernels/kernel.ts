/**
 * What a kernel is.
 *
 * @module
 */
import type { Sizes } from "./sizes.ts";

/** What of an adapter matters to the choice of a kernel. */
export interface KernelFeatures {
  /** The adapter has `shader-f16`. */
  readonly f16: boolean;
  /** The adapter has `subgroups`. */
  readonly subgroups: boolean;
  /** Bytes of workgroup memory. */
  readonly workgroupStorage: number;
  /** Invocations per workgroup. */
  readonly workgroupInvocations: number;
  /** The adapter is a processor (`isFallbackAdapter`): barriers and workgroup memory cost more than they save there. */
  readonly software: boolean;
}

/** One dispatch of a kernel. Dispatches whose source is the same text share a pipeline, whatever their sizes are. */
export interface KernelDispatch {
  /**
   * WGSL with entry point `main`; bindings are numbered in the order of `bindings`, group 0. Those that it writes are declared
   * `var<storage, read_write>`, all others `var<storage, read>`. It names its sizes, which are declared when it is compiled.
   */
  readonly source: string;
  /** The numbers that the source names. */
  readonly sizes: Sizes;
  /** What is bound: the node's inputs by number, its output, or temporaries. */
  readonly bindings: readonly (number | "output" | { readonly temporary: number })[];
  /** Workgroups in x, y, z; each at most 65535 (see {@link foldWorkgroups}). */
  readonly workgroups: readonly [number, number, number];
  /**
   * The source passes each element of the output through `epilogue` just before its only store, and does not declare it (see
   * `KernelRule` in kernels/kernel-rule.ts).
   */
  readonly epilogue?: true;
}

/** One way to run a node. */
export interface Kernel {
  /** Name of the variant, such as `tiled-64x64`. */
  readonly variant: string;
  /** The dispatches, in order. */
  readonly dispatches: readonly KernelDispatch[];
  /** Bytes of each temporary buffer that the dispatches share; their contents are undefined at first. */
  readonly temporaries?: readonly number[];
}

/** Most workgroups that a dispatch has along one dimension. */
export const MAX_WORKGROUPS = 65535;

/**
 * Workgroup counts for `count` workgroups in a row, folded into y and z where they are too many for x. The kernel finds its number as
 * `id.x + MAX · (id.y + MAX · id.z)` with MAX = {@link MAX_WORKGROUPS}, and leaves where that is past the end.
 */
export function foldWorkgroups(count: number): readonly [number, number, number] {
  if (count <= MAX_WORKGROUPS) return [count, 1, 1];
  const rows = Math.ceil(count / MAX_WORKGROUPS);
  if (rows <= MAX_WORKGROUPS) return [MAX_WORKGROUPS, rows, 1];
  return [MAX_WORKGROUPS, MAX_WORKGROUPS, Math.ceil(rows / MAX_WORKGROUPS)];
}

/** Flat number of the workgroup whose `workgroup_id` is the variable `id` (see {@link foldWorkgroups}). */
export function workgroupNumber(id: string): string {
  return `(${id}.x + ${MAX_WORKGROUPS}u * (${id}.y + ${MAX_WORKGROUPS}u * ${id}.z))`;
}

/** A dispatch of which each invocation takes one of `count` items. */
export function itemDispatch(
  items: Omit<KernelDispatch, "source" | "workgroups"> & {
    /** WGSL: bindings and functions. */
    readonly declare: string;
    /** WGSL statements for the item whose number is the variable `index`. */
    readonly body: string;
    readonly count: number;
    /** Invocations per workgroup; 64 by default. */
    readonly threads?: number;
  },
): KernelDispatch {
  const { declare, body, count, threads = 64, ...dispatch } = items;
  return {
    ...dispatch,
    source: `${declare}
@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let index = ${workgroupNumber("id")} * ${threads}u + lane;
  if (index >= ${dispatch.sizes.u32(count)}) { return; }
  ${body}
}
`,
    workgroups: foldWorkgroups(Math.ceil(count / threads)),
  };
}
