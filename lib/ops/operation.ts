/**
 * What a primitive operation has to say about itself.
 *
 * @module
 */
import type { Value } from "./value.ts";
import type { KernelRule } from "../../kernels/kernel-rule.ts";
import type { OnnxRule } from "./onnx-rule.ts";
import type { SplitRule } from "./split-rule.ts";

/** The rules of one primitive. The function that makes its nodes, beside it in the same file, is its shape rule. */
export interface Operation {
  /** The name that nodes carry. */
  readonly name: string;
  /**
   * Reverse-mode rule: from a node and the gradient of its output, one thunk per input that makes that input's gradient,
   * which is summed over the axes along which the input was broadcast; `null` for an input that has none. `null` as a whole where nothing flows back.
   */
  readonly gradient:
    | ((node: Value, g: Value) => readonly ((() => Value) | null)[])
    | null;
  /** Floating-point operations of one node. */
  readonly flops: (node: Value) => number;
  /** Rough work of one element, where an addition is 1, as it is by default. */
  readonly work?: (node: Value) => number;
  /** How its nodes are split that are larger than one binding; by default by rows of the output, never with `null`. */
  readonly split?: SplitRule | null;
  /** How the CPU device expresses it in ONNX. */
  readonly onnx: OnnxRule;
  /** How the WebGPU device runs it. */
  readonly kernel: KernelRule;
}
