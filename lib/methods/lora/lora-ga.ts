/**
 * LoRA-GA: a LoRA that begins along the gradient of the weight (Wang et al., 2024, arXiv:2407.05000).
 *
 * @module
 */
import { ConfigError } from "../../errors.ts";
import { isOutIn, type Site } from "../../model/site.ts";
import type { CalibrationNeed } from "../calibration.ts";
import { approximateSvd, type FlatMatrix, flatMatrix, scaledRows, transposed } from "../linalg.ts";
import type { TorchRandom } from "../torch-random.ts";
import { cordaShapes } from "./corda.ts";
import type { LoraGaConfig } from "./init-config.ts";
import type { LoraConfig } from "./lora-config.ts";
import { type Factors, scaled } from "./lora-factors.ts";

/** Name of the part of a calibration: the mean gradient of the weight, as the layer stores it. */
export const GRADIENT = "gradient";

/** What LoRA-GA needs of a calibration. */
export const LORA_GA: CalibrationNeed = {
  init: "lora_ga",
  by: "preprocessLoraga",
  of: "the gradients of the weights",
  shapes: (site) => ({ [GRADIENT]: storedShape(site) }),
  initial: cordaShapes,
};

function storedShape(site: Site): readonly [number, number] {
  const { inFeatures, outFeatures } = site;
  return isOutIn(site) ? [outFeatures, inFeatures] : [inFeatures, outFeatures];
}

/** Refuses to begin with a gradient where the config does not say how. */
export function checkLoraGaConfig({ loraGaConfig }: LoraConfig): void {
  if (loraGaConfig) return;
  throw new ConfigError(
    "CONFIG_LORA_GA",
    'initLoraWeights "lora_ga" needs loraGaConfig, which says what becomes of the gradient; {} stands for its defaults.',
  );
}

/** How often a random start is refined, and how many columns it has for each that is needed. */
const ITERATIONS = 4, SPARE = 2;

/** Refuses a rank for which the gradient has not enough directions. */
export function checkLoraGaRank({ path, inFeatures, outFeatures }: Site, r: number): void {
  const most = Math.floor(Math.min(inFeatures, outFeatures) / 2);
  if (r <= most) return;
  throw new ConfigError(
    "CONFIG_LORA_GA_RANK",
    `The rank ${r} for ${path} is above ${most}, half the smaller dimension of its weight [${outFeatures}, ${inFeatures}]: ` +
      'A and B share out 2r singular vectors with initLoraWeights "lora_ga". Lower r or rankPattern.',
    { path, r, most },
  );
}

/**
 * The factors that an adapter begins with at a site.
 *
 * @param stored The gradient of the weight, as the layer stores it.
 * @param at The site, its rank and scale, the settings, its weight [out, in] and random numbers.
 */
export async function loraGaFactors(stored: FlatMatrix, at: {
  readonly site: Site;
  readonly r: number;
  readonly scale: number;
  readonly config: LoraGaConfig;
  readonly random: TorchRandom;
  weight(): Promise<Float32Array>;
}): Promise<Factors> {
  const { site, r, scale, config, random } = at;
  const gradient = isOutIn(site) ? stored : transposed(stored);
  const { rows, columns } = gradient, smaller = Math.min(rows, columns);
  const svd = (matrix: FlatMatrix, count: number) => {
    const start = flatMatrix(random.normal(smaller * count), { rows: smaller, columns: count });
    return approximateSvd(matrix, { start, iterations: ITERATIONS });
  };
  const { u, s, v } = svd(gradient, Math.min(2 * SPARE * r, smaller));
  const [ofA, ofB] = shares(config.direction, r, random);
  let a = picked(v, ofA);
  let b = scaledRows(picked(u, ofB), ofB.map((i) => s[i]));
  if (config.scale === "stable") {
    // PEFT takes the first dimension of the weight as it is stored.
    b = scaled(b, stored.rows ** 0.25 / Math.sqrt(config.stableGamma));
  } else if (config.scale === "weight_svd") {
    const largest = svd(flatMatrix(await at.weight(), { rows, columns }), r).s[0];
    if (s[ofB[0]] > 0) b = scaled(b, largest / s[ofB[0]]);
  } else if (config.scale === "gd_scale") {
    [a, b] = [scaled(a, 1 / scale), scaled(b, 1 / scale)];
  }
  return { a, b: transposed(b) };
}

/** Numbers of the singular vectors that A and B take. */
function shares(
  direction: LoraGaConfig["direction"],
  r: number,
  random: TorchRandom,
): readonly [readonly number[], readonly number[]] {
  const each = (at: (i: number) => number) => Array.from({ length: r }, (_, i) => at(i));
  const first = each((i) => i), second = each((i) => r + i);
  switch (direction) {
    case "ArBr":
      return [each((i) => 2 * i + 1), each((i) => 2 * i)];
    case "A2rBr":
      return [second, first];
    case "ArB2r":
      return [first, second];
    case "random": {
      const some = [...random.permutation(2 * r).subarray(0, r)];
      return [some, some];
    }
  }
}

/** Some rows of a matrix. */
function picked({ columns, data }: FlatMatrix, rows: readonly number[]): FlatMatrix {
  const out = new Float64Array(rows.length * columns);
  rows.forEach((from, to) =>
    out.set(data.subarray(from * columns, (from + 1) * columns), to * columns)
  );
  return { rows: rows.length, columns, data: out };
}
