/**
 * KaSA: knowledge-aware singular values (Wang et al., 2024, arXiv:2412.06071).
 *
 * What belongs to the r smallest singular values of a weight W is taken for noise, N, and left out;
 * the update has learned singular values d of its own: y = (W − N)·x + scale·B·diag(d)·A·x. As the
 * base is never changed here, N is subtracted in the pass, as what PiSSA takes over is.
 *
 * @module
 */
import { ConfigError } from "../../errors.ts";
import { add, max, mul, sqrt, sub } from "../../ops/elementwise.ts";
import { constant } from "../../ops/constant.ts";
import { matmul } from "../../ops/matmul.ts";
import { sum } from "../../ops/reduce.ts";
import { reshape } from "../../ops/reshape.ts";
import type { Value } from "../../ops/value.ts";
import { flatMatrix, matrixTensor, scaledRows, trailingSvd, transposed } from "../linalg.ts";
import type { InitSource, LeafRule, SitePlace } from "../method.ts";
import { type LoraConfig, loraShape } from "./lora-config.ts";
import type { Factors } from "./lora-factors.ts";
import type { LoraVariant } from "./variant.ts";

/** `kasaConfig`. */
export const kasa: LoraVariant = {
  field: "kasaConfig",
  kinds: ["linear"],
  leaves: (at, plain) => ({ ...plain, ...kasaLeaves(at, plain) }),
  values: ({ leaves: { lora_A, lora_diag } }) => ({
    lora_A: mul(lora_A, reshape(lora_diag, [-1, 1])),
  }),
  training: ({ config: { kasaConfig }, sites, nameOf }) => ({
    penalty({ leaves }) {
      const { beta, gamma } = kasaConfig!;
      return sites.map((site) => {
        const [a, b, d] = ["lora_A", "lora_B", "lora_diag"]
          .map((leaf) => leaves.get(nameOf(leaf, site))!);
        const far = add(
          distance(matmul(b, b, { transposeA: true })),
          distance(matmul(a, a, { transposeB: true })),
        );
        return add(mul(sum(mul(d, d)), beta), mul(far, gamma));
      }).reduce((all, one) => add(all, one));
    },
  }),
};

function kasaLeaves(
  { config, site }: SitePlace<LoraConfig>,
  { lora_A, lora_B }: Readonly<Record<string, LeafRule>>,
): Readonly<Record<string, LeafRule>> {
  const { r, scale } = loraShape(config, site);
  const { inFeatures: columns, outFeatures: rows } = site;
  if (r >= Math.min(rows, columns) || !(scale > 0)) {
    throw new ConfigError(
      "CONFIG_KASA",
      `KaSA takes r singular values out of the weight of ${site.path} [${rows}, ${columns}] and puts ` +
        `others, times a scale above 0, in their place; found the rank ${r} and the scale ${scale}. ` +
        "Lower r or rankPattern, or raise loraAlpha.",
      { path: site.path, r, scale },
    );
  }
  let made: Promise<Factors> | undefined;
  // Both come out of one decomposition.
  const noise = (factor: keyof Factors) => async (from: InitSource) =>
    matrixTensor((await (made ??= smallest(from)))[factor]);
  async function smallest(from: InitSource): Promise<Factors> {
    const { u, s, v } = trailingSvd(flatMatrix(await from.weight(), { rows, columns }), r);
    const roots = s.map((value) => Math.sqrt(value / scale));
    return { a: scaledRows(v, roots), b: transposed(scaledRows(u, roots)) };
  }
  return {
    lora_diag: { shape: [r], init: ({ random }) => random.normal(r) },
    lora_A_init: { shape: lora_A.shape, kind: "fixed", takenOut: true, init: noise("a") },
    lora_B_init: { shape: lora_B.shape, kind: "fixed", takenOut: true, init: noise("b") },
  };
}

/** ‖x − I‖, with a gradient of zero where it is zero. */
function distance(x: Value): Value {
  const [r] = x.shape;
  const identity = Array.from({ length: r * r }, (_, i) => i % (r + 1) ? 0 : 1);
  const apart = sub(x, constant(x.graph, identity, { shape: [r, r] }));
  return sqrt(max(sum(mul(apart, apart)), 1e-30));
}
