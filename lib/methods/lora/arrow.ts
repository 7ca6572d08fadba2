/**
 * Arrow: tokens find their own way through several LoRAs (Ostapenko et al., 2024, arXiv:2405.11157),
 * from which what is general may be subtracted (GenKnowSub, 2025, ACL short paper 54).
 *
 * Each other LoRA of the model is an expert, and the direction in which it changes most, the first
 * right singular vector of B·A, its prototype. A token goes through the experts to whose prototypes
 * it is most parallel, weighted by a softmax of |prototype · token|.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import { abs, add, div, less, mul, sub } from "../../ops/elementwise.ts";
import { concat } from "../../ops/concat.ts";
import { constant } from "../../ops/constant.ts";
import { placesOf } from "../../ops/functions.ts";
import { matmul } from "../../ops/matmul.ts";
import { reshape } from "../../ops/reshape.ts";
import { select } from "../../ops/select.ts";
import { softmax } from "../../ops/softmax.ts";
import type { Value } from "../../ops/value.ts";
import { computedTensor } from "../../tensor/computed.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import {
  type FlatMatrix,
  flatMatrix,
  matrixProduct,
  norm,
  rowProducts,
  transposed,
} from "../linalg.ts";
import type { OtherAdapter } from "../method.ts";
import { scaled } from "../site-rule.ts";
import { createTorchRandom } from "../torch-random.ts";
import { type LoraConfig, loraShape, takesFromBase, variantFields } from "./lora-config.ts";
import { type Factors, factorsOf } from "./lora-factors.ts";
import type { LoraTrace } from "./lora-trace.ts";
import type { LoraVariant } from "./variant.ts";

/** `arrowConfig`. */
export const arrow: LoraVariant = {
  field: "arrowConfig",
  kinds: ["linear", "conv1d"],
  rule: () => ({
    scales: true,
    forward(trace, { x, result }) {
      const change = reshape(routed(trace, reshape(x, [-1, trace.site.inFeatures])), result.shape);
      const kept = trace.pass.dropout(change, trace.config.loraDropout);
      return add(result, scaled(kept, trace.multiplier));
    },
  }),
};

/** What the experts add to rows [N, in]: [N, out]. */
function routed(trace: LoraTrace, x: Value): Value {
  const { pass, config, site } = trace, { topK, routerTemperature, rngSeed } = config.arrowConfig!;
  const { experts, general } = expertsOf(trace), at = `arrow.${rngSeed}.${site.path}`;
  const leaf = (name: string, tensor: Tensor) => pass.leaf(`${at}.${name}`, tensor);
  const factor = (name: "lora_A" | "lora_B", axis: number) => {
    const of = (all: readonly OtherAdapter[], what: string) =>
      all.map(({ leaves }, i) => leaf(`${what}${i}.${name}`, leaves[name]));
    const common = of(general, "general");
    const mean = common.length && div(common.reduce((a, b) => add(a, b)), common.length);
    return concat(of(experts, "expert").map((one) => mean ? sub(one, mean) : one), { axis });
  };
  const likeness = abs(
    matmul(x, leaf("prototypes", prototypesOf(trace, experts, general)), { transposeB: true }),
  );
  const never = constant(x.graph, -1e30, { shape: likeness.shape });
  const shares = softmax(
    select(less(placesOf(likeness), topK), div(likeness, routerTemperature), never),
  );
  // Each share, times the expert's own scale, once for each rank of the expert.
  const spread = experts.flatMap(({ config }, i) =>
    experts.flatMap(({ leaves }, j) =>
      new Array<number>(leaves.lora_A.shape[0])
        .fill(i === j ? loraShape(config as LoraConfig, site).scale : 0)
    )
  );
  const shape = [experts.length, spread.length / experts.length];
  const weights = matmul(shares, constant(x.graph, spread, { shape }));
  const inner = matmul(x, factor("lora_A", 0), { transposeB: true });
  return matmul(mul(inner, weights), factor("lora_B", 1), { transposeB: true });
}

/** The experts of a site, and the adapters whose mean is general knowledge. */
function expertsOf(
  { config, site, others }: LoraTrace,
): { readonly experts: readonly OtherAdapter[]; readonly general: readonly OtherAdapter[] } {
  const { topK, useGks, gksAdapterNames } = config.arrowConfig!;
  const isGeneral = (name: string) => gksAdapterNames?.includes(name) || /^gks_\d+$/.test(name);
  const loras = [...others!()].filter(([, other]) =>
    other.config.peftType === "LORA" && !(other.config as LoraConfig).arrowConfig
  );
  for (const [name, other] of loras) checkPlain(name, other.config as LoraConfig);
  const [experts, general] = [false, true].map((wanted) =>
    loras.filter(([name]) => isGeneral(name) === wanted).map(([, other]) => other)
  );
  if (topK <= experts.length && !(useGks && general.length === 0)) {
    return { experts, general: useGks ? general : [] };
  }
  throw new UnsupportedError(
    "ARROW_EXPERTS",
    `arrowConfig routes each token to ${topK} experts (topK), and ${site.path} has ${experts.length}${
      useGks ? ` and ${general.length} general adapters (gks_0 …), whose mean is subtracted` : ""
    }. Load them with createArrowModel, or lower topK.`,
    { path: site.path, topK, experts: experts.length, general: general.length },
  );
}

function checkPlain(name: string, config: LoraConfig): void {
  const odd = variantFields(config)[0] ?? (config.loraBias ? "loraBias" : undefined) ??
    (takesFromBase(config) ? "initLoraWeights" : undefined);
  if (!odd) return;
  throw new UnsupportedError(
    "ARROW_EXPERTS",
    `Arrow routes among plain LoRAs, and the adapter ${JSON.stringify(name)} has ${odd} ${
      JSON.stringify(config[odd])
    }. Delete it, or convert it with convertToLora.`,
    { adapter: name, field: odd },
  );
}

/** The experts' prototypes [E, in], by 15 steps of the power method, as in PEFT. */
function prototypesOf(
  { config, site }: LoraTrace,
  experts: readonly OtherAdapter[],
  general: readonly OtherAdapter[],
): Tensor {
  const { inFeatures } = site;
  return computedTensor([experts.length, inFeatures], async () => {
    const all = (adapters: readonly OtherAdapter[]) =>
      Promise.all(adapters.map(({ leaves }) => factorsOf(leaves)));
    const common = await all(general), out = new Float32Array(experts.length * inFeatures);
    for (const [i, { a, b }] of (await all(experts)).entries()) {
      const without = (one: FlatMatrix, factor: keyof Factors) => ({
        ...one,
        data: one.data.map((x, j) =>
          x - common.reduce((sum, g) => sum + g[factor].data[j], 0) / (common.length || 1)
        ),
      });
      const columns = transposed(without(b, "b")),
        first = createTorchRandom(config.arrowConfig!.rngSeed ?? 0);
      out.set(
        strongest(
          { a: without(a, "a"), gram: rowProducts(columns, columns) },
          first.normal(inFeatures),
        ),
        i * inFeatures,
      );
    }
    return out;
  });
}

/** Where Aᵀ·(Bᵀ·B)·A turns a vector to. */
function strongest(
  { a, gram }: { readonly a: FlatMatrix; readonly gram: FlatMatrix },
  start: Float32Array,
): Float64Array {
  const unit = (x: Float64Array) => x.map((value) => value / (norm(x) + 1e-8));
  let v = unit(Float64Array.from(start));
  for (let i = 0; i < 15; i++) {
    const row = flatMatrix(v, { rows: 1, columns: v.length });
    v = unit(matrixProduct(rowProducts(rowProducts(row, a), gram), a).data);
  }
  return v;
}
