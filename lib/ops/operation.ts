/**
 * What a primitive operation has to say about itself.
 *
 * @module
 */
import type { Value } from "./value.ts";
import type { KernelRule } from "./kernel-rule.ts";
import type { OnnxRule } from "./onnx-rule.ts";

/** The rules of one primitive. The function that makes its nodes, beside it in the same file, is its shape rule. */
export interface Operation {
  /** The name that nodes carry. */
  readonly name: string;
  /**
   * Reverse-mode rule: from a node and the gradient of its output, one thunk per input that makes that input's gradient;
   * `null` for an input that has none. `null` as a whole where nothing flows back.
   */
  readonly gradient:
    | ((node: Value, g: Value) => readonly ((() => Value) | null)[])
    | null;
  /** Floating-point operations of one node. */
  readonly flops: (node: Value) => number;
  /** How the CPU device expresses it in ONNX. */
  readonly onnx: OnnxRule;
  /** How the WebGPU device runs it. */
  readonly kernel: KernelRule;
}
