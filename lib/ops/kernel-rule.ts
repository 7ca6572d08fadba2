/**
 * How an operation runs on WebGPU.
 *
 * **How values lie in buffers.** Row-major without padding between rows; a buffer's length is rounded up to 16 bytes, so `array<vec4<…>>` of the last,
 * incomplete vector may be read (and written, where nothing else follows).
 * `f32`, `i32`, `u32`: as they are. `bool`: one `u32` 0 or 1 per element. `f16` and `bf16`: two per `u32`, the first in the low half (so
 * `array<f16>` reads the same bytes where the adapter has `shader-f16`; f16 weights appear only there). `u8`: four per `u32`, the first in the lowest byte.
 * Inputs may be ranges of larger buffers: do not use `arrayLength`.
 *
 * @module
 */
import type { IndexMap } from "./index-map.ts";
import type { Attributes, Spec, Value } from "./value.ts";

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

/** One dispatch of a kernel. Sizes are constants in the source, so equal shapes share a pipeline. */
export interface KernelDispatch {
  /**
   * WGSL with entry point `main`; bindings are numbered in the order of `bindings`, group 0. Those that it writes are declared
   * `var<storage, read_write>`, all others `var<storage, read>`.
   */
  readonly source: string;
  /** What is bound: the node's inputs by number, its output, or temporaries. */
  readonly bindings: readonly (number | "output" | { readonly temporary: number })[];
  /** Workgroups in x, y, z; each at most 65535 (see {@link foldWorkgroups}). */
  readonly workgroups: readonly [number, number, number];
  /**
   * The source passes each element of the output through `epilogue` just before its only store, and does not declare it (see
   * {@link KernelRule}).
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

/** A node's attributes and specs, as rules that write WGSL text see it. */
export interface NodeSpec extends Spec {
  /** Attributes of the operation. */
  readonly attributes: Attributes;
  /** Specs of what it reads. */
  readonly inputs: readonly Spec[];
}

/**
 * - `external`: bound from outside.
 * - `view`: the same bytes under another shape; nothing runs.
 * - `elementwise`: each output element depends on one element of each (broadcast) input; gives a WGSL expression, and is fused.
 * - `layout`: each output element is one element of the input at another place; fused like an elementwise operation.
 * - `reduce`, `concat`: the device's own; they fuse with what is around them.
 * - `kernel`: its own kernels, best guess first.
 * - `decompose`: other operations that compute the same.
 *
 * **Epilogues.** A `kernel` rule with `epilogue: true` lets the device apply an elementwise function (a bias, a residual, an activation, a cast) to each element
 * of its f32 output before it is stored. Each dispatch that binds `"output"` then says `epilogue: true` and stores
 * `output[i] = epilogue(value, i)` or, for four neighbours from index i on (i a multiple of 4), `output[i / 4] = epilogue4(value, i)`, where `i` is the u32
 * flat index in the output, `value` is `f32` or `vec4<f32>` and each element is stored exactly once by all dispatches together.
 * `output` is declared as `array<f32>` or `array<vec4<f32>>`.
 * The device appends `fn epilogue(value: f32, index: u32) -> f32` and `fn epilogue4(value: vec4<f32>, index: u32) -> vec4<f32>` to the source (the identity where
 * nothing is fused), with the buffers that they read bound after the dispatch's own bindings. Names that begin with `epilogue` are
 * reserved. A kernel must leave 4 of the adapter's storage bindings (8 at least) free for it.
 *
 * **In place.** A `kernel` rule with `inPlace: n` writes only a part of its output; the rest is what input n holds. The device gives it an output buffer that holds
 * that already: the input's own buffer where nothing else reads the old value, a copy elsewhere. Such kernels do not bind input n.
 */
export type KernelRule =
  | { readonly kind: "external" }
  | { readonly kind: "view" }
  | {
    readonly kind: "elementwise";
    /**
     * WGSL expression of the output element, from expressions of the input elements and the flat output index `index` (`u32`). `f16` and
     * `bf16` elements are `f32` in expressions, `u8` are `u32`, `bool` are `bool`.
     */
    readonly expression: (node: NodeSpec, inputs: readonly string[], index: string) => string;
    /** WGSL functions that the expression calls; equal texts are declared once. */
    readonly functions?: (node: NodeSpec) => readonly string[];
  }
  | {
    readonly kind: "layout";
    /** From the flat output index to the flat input index. */
    readonly map: (node: NodeSpec) => IndexMap;
    /** WGSL condition on the flat output index (`u32`): elsewhere the output is zero, and the map means nothing. */
    readonly inside?: (node: NodeSpec, index: string) => string;
  }
  | { readonly kind: "reduce" }
  | { readonly kind: "concat" }
  | {
    readonly kind: "kernel";
    readonly variants: (node: Value, features: KernelFeatures) => readonly Kernel[];
    /** All variants call `epilogue`. */
    readonly epilogue?: true;
    /** Number of the input whose contents the output starts from. */
    readonly inPlace?: number;
  }
  | {
    readonly kind: "decompose";
    readonly decompose: (node: Value, inputs: readonly Value[]) => Value;
  };

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
