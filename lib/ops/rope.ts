/**
 * `rope`: rotary position embedding (Su et al., 2021, arXiv:2104.09864), in the rotate-half form of llama checkpoints.
 *
 * @module
 */
import { ropeKernel } from "../../kernels/rope.ts";
import { MICROSOFT, type OnnxContext } from "./onnx-rule.ts";
import { sizeOf } from "../tensor/dtype.ts";
import type { Operation } from "./operation.ts";
import { checkShapes } from "./shapes.ts";
import type { Value } from "./value.ts";

/**
 * Rotates each pair (x[i], x[i + D/2]) of `x` [B, T, H, D] by the angle whose cosine and sine are given as [B, T, D/2]
 * (B may be 1). `inverse` turns the other way.
 */
export function rope(
  x: Value,
  angles: { readonly cos: Value; readonly sin: Value; readonly inverse?: boolean },
): Value {
  const { cos, sin, inverse = false } = angles;
  const [b, t, , d] = x.shape;
  checkShapes(
    x.shape.length === 4 &&
      [cos, sin].every((v) =>
        v.shape.length === 3 && (v.shape[0] === b || v.shape[0] === 1) && v.shape[1] === t &&
        v.shape[2] * 2 === d
      ),
    "rope",
    "x [B, T, H, D] with cos and sin [B or 1, T, D/2]",
    [x, cos, sin],
  );
  return x.graph.node("rope", [x, cos, sin], { inverse }, x);
}

function emitRope({ node, inputs, emit, constant, ints }: OnnxContext): string {
  const [b, t, h, d] = node.shape, samples = node.inputs[1].shape[0];
  const table = (x: string) => emit("Reshape", [x, ints([samples * t, d / 2])]);
  const sin = node.attributes.inverse ? emit("Neg", [inputs[2]]) : inputs[2];
  const positions = BigInt64Array.from({ length: b * t }, (_, i) => BigInt(i % (samples * t)));
  const y = emit(
    "RotaryEmbedding",
    [
      emit("Reshape", [inputs[0], ints([b, t, h * d])]),
      constant(positions, [b, t]),
      table(inputs[1]),
      table(sin),
    ],
    {},
    MICROSOFT,
  );
  return emit("Reshape", [y, ints(node.shape)]);
}

/** The rules of `rope`; the angles are never trained. */
export const ropeOperation: Operation = {
  name: "rope",
  gradient: (node, g) => {
    const [, cos, sin] = node.inputs;
    return [() => rope(g, { cos, sin, inverse: !node.attributes.inverse }), null, null];
  },
  onnx: { emit: emitRope },
  flops: (node) => 3 * sizeOf(node.shape),
  kernel: {
    kind: "kernel",
    epilogue: true,
    variants: (node) => {
      const [batch, positions, heads, depth] = node.shape;
      const tables = node.inputs[1].shape[0];
      const inverse = node.attributes.inverse as boolean;
      return [ropeKernel({ batch, positions, heads, depth, tables, inverse })];
    },
  },
};
