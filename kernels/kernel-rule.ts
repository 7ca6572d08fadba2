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
import type { Kernel, KernelFeatures } from "./kernel.ts";
import type { Sizes } from "./sizes.ts";
import type { IndexMap } from "./index-map.ts";
import type { Attributes, Spec, Value } from "./value.ts";

/** A node's attributes and specs, as rules that write WGSL text see it. */
export interface NodeSpec extends Spec {
  /** Attributes of the operation. */
  readonly attributes: Attributes;
  /** Specs of what it reads, with the attributes where these are known. */
  readonly inputs: readonly (Spec & { readonly attributes?: Attributes })[];
}

/** Where an element is computed. */
export interface ElementPlace {
  /** Flat index in the output, as a WGSL expression (`u32`). */
  readonly index: string;
  /** Names the numbers that the expression needs. */
  readonly sizes: Sizes;
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
     * WGSL expression of the output element, from expressions of the input elements. `f16` and `bf16` elements are `f32` in expressions, `u8` are
     * `u32`, `bool` are `bool`.
     */
    readonly expression: (node: NodeSpec, inputs: readonly string[], at: ElementPlace) => string;
    /** WGSL functions that the expression calls; equal texts are declared once. */
    readonly functions?: (node: NodeSpec) => readonly string[];
  }
  | {
    readonly kind: "layout";
    /** From the flat output index to the flat input index. */
    readonly map: (node: NodeSpec) => IndexMap;
    /** WGSL condition on the place in the output, true in a box of all of the input: elsewhere the output is zero, and the map means nothing. */
    readonly inside?: (node: NodeSpec, at: ElementPlace) => string;
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
