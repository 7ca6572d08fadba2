/**
 * `attention`: scaled dot-product attention with grouped query heads, and the pieces of its gradient. No device keeps the T × S matrix of
 * probabilities in memory unless it wants to: the gradient needs only the log of each row's sum (FlashAttention, Dao et al., 2022, arXiv:2205.14135).
 *
 * @module
 */
import {
  decomposeAttention,
  decomposeGradK,
  decomposeGradQ,
  decomposeGradV,
  decomposeLogSum,
} from "./attention-decomposition.ts";
import { attentionKernels } from "../../kernels/attention.ts";
import type { AttentionPart } from "../../kernels/attention-problem.ts";
import { sizeOf } from "../tensor/dtype.ts";
import { mul } from "./elementwise.ts";
import type { KernelRule } from "../../kernels/kernel-rule.ts";
import type { OnnxRule } from "./onnx-rule.ts";
import type { Operation } from "./operation.ts";
import { sum } from "./reduce.ts";
import { checkShapes } from "./shapes.ts";
import { rows } from "./split-rule.ts";
import type { Attributes, Value } from "./value.ts";

/** What attends to what. */
export interface AttentionOptions {
  /**
   * `i32` [B, T] and [B, S]: query t sees key s only where both numbers are equal and not zero. Ones and zeros give a padding mask;
   * other numbers keep packed samples apart.
   */
  readonly querySegments: Value;
  /** See {@link AttentionOptions.querySegments}. */
  readonly keySegments: Value;
  /** `i32` [1]: index of the key that belongs to query 0, for `causal` and `window`; with a cache, how many keys came before. */
  readonly offset: Value;
  /** Query t sees keys up to offset + t only. */
  readonly causal: boolean;
  /** Query t sees the last `window` keys up to offset + t only. */
  readonly window?: number | null;
  /** Factor of the dot products; 1/√D by default. */
  readonly scale?: number;
}

/**
 * softmax(q·kᵀ·scale)·v for `q` [B, T, H, D], `k` and `v` [B, S, G, D], where H is a multiple of G and each group of H/G query heads shares one
 * key head. Gives [B, T, H, D], zeros in rows that see no key, as torch does.
 */
export function attention(
  q: Value,
  keys: { readonly k: Value; readonly v: Value } & AttentionOptions,
): Value {
  const { k, v, querySegments, keySegments, offset } = keys;
  const [b, t, h, d] = q.shape, [, s, g] = k.shape;
  checkShapes(
    q.shape.length === 4 && k.shape.join() === `${b},${s},${g},${d}` &&
      v.shape.join() === k.shape.join() && h % g === 0 &&
      querySegments.shape.join() === `${b},${t}` && keySegments.shape.join() === `${b},${s}` &&
      offset.shape.join() === "1" &&
      [querySegments, keySegments, offset].every((x) => x.dtype === "i32"),
    "attention",
    "q [B, T, H, D], k and v [B, S, G, D] with G a divisor of H, i32 segments [B, T] and [B, S] and an i32 offset [1]",
    [q, k, v, querySegments, keySegments, offset],
  );
  const attributes = {
    causal: keys.causal,
    window: keys.window ?? null,
    scale: keys.scale ?? 1 / Math.sqrt(d),
  };
  return q.graph.node("attention", [q, k, v, querySegments, keySegments, offset], attributes, q);
}

type Part = "attentionLogSum" | "attentionGradQ" | "attentionGradK" | "attentionGradV";

function part(
  op: Part,
  inputs: readonly Value[],
  attributes: Attributes,
  shape: readonly number[],
): Value {
  return inputs[0].graph.node(op, inputs, attributes, { shape, dtype: "f32" });
}

function flops(products: number): (node: Value) => number {
  return (node) => {
    const [q, k] = node.inputs;
    return products * 2 * sizeOf(q.shape) * k.shape[1];
  };
}

function kernelsOf(part: AttentionPart): KernelRule {
  return {
    kind: "kernel",
    variants: (node, features) => {
      const [q, k] = node.inputs;
      const [batch, queries, heads, depth] = q.shape;
      const { causal, window, scale } = node.attributes as {
        causal: boolean;
        window: number | null;
        scale: number;
      };
      return attentionKernels({
        batch,
        queries,
        keys: k.shape[1],
        heads,
        groups: k.shape[2],
        depth,
        causal,
        window,
        scale,
      }, { part, features });
    },
  };
}

/**
 * The rules of `attention`. Its gradient is made of four more operations:
 * `attentionLogSum` (q, k, segments, offset) → log Σ exp of each row, [B, T, H];
 * `attentionGradQ|K|V` (q, k, v, querySegments, keySegments, offset, g, logSum, delta) where delta = Σ g·output, [B, T, H].
 */
export const attentionOperation: Operation = {
  name: "attention",
  gradient: (node, g) => {
    const [q, k, v, ...rest] = node.inputs;
    const lead = q.shape.slice(0, 3);
    const inputs = () => {
      const logSum = part("attentionLogSum", [q, k, ...rest], node.attributes, lead);
      const delta = sum(mul(g, node), { axes: [-1] });
      return [q, k, v, ...rest, g, logSum, delta];
    };
    return [
      () => part("attentionGradQ", inputs(), node.attributes, q.shape),
      () => part("attentionGradK", inputs(), node.attributes, k.shape),
      () => part("attentionGradV", inputs(), node.attributes, v.shape),
      null,
      null,
      null,
    ];
  },
  onnx: { decompose: decomposeAttention },
  kernel: kernelsOf("output"),
  split: rows({ shared: [5] }),
  flops: flops(2),
};

/** One of the operations that the gradient is made of. */
function partOperation(
  kind: Exclude<AttentionPart, "output">,
  { onnx, products }: { readonly onnx: OnnxRule; readonly products: number },
): Operation {
  return {
    name: `attention${kind[0].toUpperCase()}${kind.slice(1)}`,
    gradient: null,
    onnx,
    kernel: kernelsOf(kind),
    split: rows({ shared: [kind === "logSum" ? 4 : 5] }),
    flops: flops(products),
  };
}

/** The rules of `attentionLogSum`. */
export const attentionLogSumOperation: Operation = partOperation("logSum", {
  onnx: { decompose: decomposeLogSum },
  products: 1,
});
/** The rules of `attentionGradQ`. */
export const attentionGradQOperation: Operation = partOperation("gradQ", {
  onnx: { decompose: decomposeGradQ },
  products: 3,
});
/** The rules of `attentionGradK`. */
export const attentionGradKOperation: Operation = partOperation("gradK", {
  onnx: { decompose: decomposeGradK },
  products: 3,
});
/** The rules of `attentionGradV`. */
export const attentionGradVOperation: Operation = partOperation("gradV", {
  onnx: { decompose: decomposeGradV },
  products: 2,
});
