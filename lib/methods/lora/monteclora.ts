/**
 * MonteCLoRA: a distribution of A in the place of A (Sengupta et al., 2024, arXiv:2411.04358).
 *
 * Training draws n samples around A, Gaussian ones whose variances have a Wishart prior, and takes
 * their mean by weights that have a Dirichlet prior; how far both are from their priors is added to
 * the loss. Outside of training A is what it is, a plain LoRA's.
 *
 * @module
 */
import { add, div, exp, log, max, mul, sqrt, sub } from "../../ops/elementwise.ts";
import { constant } from "../../ops/constant.ts";
import { digamma, logGamma } from "../../ops/functions.ts";
import { matmul } from "../../ops/matmul.ts";
import { mean, sum } from "../../ops/reduce.ts";
import { reshape } from "../../ops/reshape.ts";
import { softmax } from "../../ops/softmax.ts";
import { transpose } from "../../ops/transpose.ts";
import type { Value } from "../../ops/value.ts";
import type { LeafRule } from "../method.ts";
import type { TorchRandom } from "../torch-random.ts";
import type { LoraTrace } from "./lora-trace.ts";
import type { LoraVariant } from "./variant.ts";
import type { MontecloraConfig } from "./variant-configs.ts";

/** `montecloraConfig`. */
export const monteclora: LoraVariant = {
  field: "montecloraConfig",
  kinds: ["linear", "conv1d"],
  leaves: ({ config }, plain) => ({
    ...plain,
    ...samplerLeaves(config.montecloraConfig!, plain.lora_A.shape),
  }),
  values: (trace) => ({
    lora_A: trace.pass.training ? sampled(trace) : trace.leaves.lora_A,
  }),
};

function samplerLeaves(
  { numSamples, bufferSize }: MontecloraConfig,
  [r, inputs]: readonly number[],
): Readonly<Record<string, LeafRule>> {
  const key = (name: string) => `lora_monteclora_sampler.${name}`;
  return {
    lora_std_prior: {
      key: key("std_prior"),
      shape: [r],
      init: ({ random }) => random.uniform(r),
    },
    lora_expert_weights_prior: {
      key: key("expert_weights_prior"),
      shape: [numSamples],
      init({ random }) {
        const drawn = random.uniform(numSamples);
        skipBuffer(random, { r, inputs, numSamples, bufferSize });
        return drawn;
      },
    },
    lora_gaussian_var_prior: {
      key: key("gaussian_var_prior"),
      shape: [r, r],
      kind: "state",
      init: () => Float32Array.from({ length: r * r }, (_, i) => i % (r + 1) ? 0 : 1),
    },
    lora_expert_weights: {
      key: key("expert_weights"),
      shape: [numSamples],
      kind: "state",
      init: () => new Float32Array(numSamples).fill(1 / numSamples),
    },
  };
}

/** Skips the numbers that PEFT draws ahead: normal ones, and Wishart matrices by Bartlett's way. */
function skipBuffer(
  random: TorchRandom,
  of: {
    readonly r: number;
    readonly inputs: number;
    readonly numSamples: number;
    readonly bufferSize: number;
  },
): void {
  const { r, inputs, numSamples, bufferSize } = of;
  const degrees = Array.from({ length: r }, (_, i) => (r - i) / 2);
  skipNormal(random, bufferSize * numSamples * inputs * r);
  skipNormal(random, bufferSize * numSamples);
  for (let i = 0; i < bufferSize; i++) {
    random.gamma(degrees);
    skipNormal(random, r * (r - 1) / 2);
  }
}

function skipNormal(random: TorchRandom, size: number): void {
  if (size < 16) random.normal(size);
  else random.skip(size + (size % 16 ? 16 : 0));
}

/** The A [r, in] of a step. */
function sampled({ pass, config, site, leaves }: LoraTrace): Value {
  const { numSamples: n, sampleScaler, useEntropy, klLossWeight, dirichletPrior } = config
    .montecloraConfig!;
  const { lora_A: a, lora_std_prior: logStd, lora_expert_weights_prior: logAlpha } = leaves;
  const [r, inputs] = a.shape;
  const draw = (name: string, shape: readonly number[]) =>
    pass.noise(`${site.path}.${name}`, shape, "normal");

  // Only the diagonal of the Wishart matrix counts, which is r sums of r squares.
  const normal = draw("wishart", [r, r]), variance = exp(mul(logStd, 2));
  const drawn = max(mul(variance, sum(mul(normal, normal), { axes: [1] })), 1e-3);
  const alpha = max(exp(logAlpha), 1e-6), inverse = div(1, alpha), logs = log(alpha);
  // The normal distribution of the logarithms of weights that a Dirichlet distribution is near to.
  const spread = max(
    add(mul(inverse, 1 - 2 / n), mul(sum(inverse, { axes: [0], keepDims: true }), 1 / n ** 2)),
    1e-6,
  );
  const weights = softmax(add(
    mul(sqrt(add(spread, 1e-6)), draw("dirichlet", [n])),
    sub(logs, mean(logs, { axes: [0], keepDims: true })),
  ));
  const noise = reshape(
    matmul(reshape(weights, [1, n]), reshape(draw("mvn", [n, inputs, r]), [n, -1])),
    [inputs, r],
  );

  const far = add(
    add(dirichletDistance(exp(logAlpha), dirichletPrior), mul(gaussianDistance(variance), r)),
    mul(gaussianDistance(drawn), n),
  );
  const entropy = useEntropy ? sum(mul(weights, weights)) : undefined;
  const penalty = mul(far, klLossWeight);
  pass.penalize(entropy ? add(penalty, entropy) : penalty, "MonteCLoRA");
  pass.update(leaves.lora_gaussian_var_prior, diagonal(drawn));
  pass.update(leaves.lora_expert_weights, weights);
  return add(a, transpose(mul(noise, mul(sqrt(drawn), sampleScaler))));
}

/** ½ · Σ (v − ln v − 1) */
function gaussianDistance(variances: Value): Value {
  return mul(sum(sub(sub(variances, log(variances)), 1)), 0.5);
}

/** How far a Dirichlet distribution is from one with equal concentrations. */
function dirichletDistance(alpha: Value, prior: number): Value {
  const [n] = alpha.shape, total = sum(alpha, { axes: [0], keepDims: true });
  const given = (x: number) => logGamma(constant(alpha.graph, x, { shape: [1] }));
  const parts = add(
    sub(logGamma(alpha), given(prior)),
    mul(sub(alpha, prior), sub(digamma(alpha), digamma(total))),
  );
  return add(sum(sub(logGamma(total), given(prior * n))), sum(parts));
}

function diagonal(x: Value): Value {
  const [r] = x.shape;
  const identity = Array.from({ length: r * r }, (_, i) => i % (r + 1) ? 0 : 1);
  return mul(constant(x.graph, identity, { shape: [r, r] }), x);
}
