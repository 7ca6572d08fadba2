/**
 * How the leaves of a LoRA start: the same values, from the same random numbers in the same order,
 * as in PEFT.
 *
 * @module
 */
import { ConfigError, ValueError } from "../../errors.ts";
import type { Site } from "../../model/site.ts";
import { checkCordaRank, CORDA, cordaFactors } from "./corda.ts";
import type { LoftqConfig } from "./init-config.ts";
import { BASE_CHANGE, checkLoftqSite, loftqStart } from "./loftq.ts";
import { checkLoraGaConfig, checkLoraGaRank, GRADIENT, LORA_GA, loraGaFactors } from "./lora-ga.ts";
import { checkMicaRank, micaFactor } from "./mica.ts";
import {
  approximateSvd,
  type FlatMatrix,
  flatMatrix,
  leadingQr,
  leadingSvd,
  matrixOf,
  matrixProduct,
  matrixTensor,
  orthonormalColumns,
  rowProducts,
  scaledRows,
  transposed,
} from "../linalg.ts";
import { type LoraConfig, loraShape, takesFromBase } from "./lora-config.ts";
import { sizeOf } from "../../tensor/dtype.ts";
import { tensor } from "../../tensor/tensor.ts";
import { factorShapes, magnitudes } from "./lora-factors.ts";
import { checkCalibration } from "../calibration.ts";
import type { CalibrationCheck } from "../config.ts";
import type { InitSource, Leaf, LeafRule, Leaves, SitePlace } from "../method.ts";
import type { TorchRandom } from "../torch-random.ts";

/**
 * Shapes of the trained leaves of one site.
 *
 * @throws {ConfigError} where the site cannot have what the config asks for.
 */
export function loraLeafShapes(
  config: LoraConfig,
  site: Site,
): Readonly<Record<string, readonly number[]>> {
  const { r } = loraShape(config, site);
  const { inFeatures, outFeatures, conv } = site;
  const [A, B] = factorNames(site);
  // A decomposition of the weight has no more columns than the weight, and PEFT then keeps fewer
  // than r.
  const start = startOf(config, site);
  const clips = decomposes(config, site) || start?.clips;
  const { a, b } = factorShapes(site, clips ? Math.min(r, inFeatures, outFeatures) : r);
  start?.check(site, r);
  return {
    [A]: a,
    [B]: b,
    ...(config.loraBias ? { lora_bias: [outFeatures] } : {}),
    ...(config.useDora && {
      lora_magnitude_vector: conv ? [1, outFeatures, ...b.slice(2)] : [outFeatures],
    }),
  };
}

/** What an initialization has to say beside how factors are taken out of a weight or drawn. */
interface Start {
  /** Refuses a site or a rank. */
  check(site: Site, r: number): void;
  /** Whether there are no more ranks than the weight has dimensions. */
  readonly clips?: true;
  /** Makes what a site starts from. */
  make?(context: LoraStart): Promise<Readonly<Record<string, Leaf>>>;
  /** What else is to be known of its leaves, and further ones, fixed. */
  leaves?(site: Site): Readonly<Record<string, Partial<LeafRule>>>;
}

const STARTS: Readonly<Record<string, Start>> = {
  corda: { check: (site, r) => site.kind === "embedding" || checkCordaRank(site, r) },
  lora_ga: { check: (site, r) => site.kind === "embedding" || checkLoraGaRank(site, r) },
  mica: {
    check: checkMicaRank,
    make: behindMinor,
    leaves(site) {
      const [, b] = factorNames(site);
      // Not trained, and in files all the same.
      return { [b]: { key: b, ...KEYS[b], kind: "fixed" } };
    },
  },
  loftq: {
    check: checkLoftqSite,
    clips: true,
    make: behindLost,
    leaves: ({ outFeatures, inFeatures }) => ({
      [BASE_CHANGE]: { shape: [outFeatures, inFeatures], kind: "fixed", takenOut: true },
    }),
  },
};

function startOf({ initLoraWeights }: LoraConfig, { conv }: Site): Start | undefined {
  return conv ? undefined : STARTS[initLoraWeights as string];
}

/** The leaves of one site. They take exactly the random numbers that PEFT takes for it. */
export function loraLeaves(
  { config, site }: SitePlace<LoraConfig>,
): Readonly<Record<string, LeafRule>> {
  // Both factors come out of one decomposition, so that the first to be made makes all.
  let made: Promise<Readonly<Record<string, Leaf>>> | undefined;
  const init = (leaf: string) => async (from: InitSource) =>
    (await (made ??= initLora({ ...from, config, site })))[leaf];
  const rules: Record<string, LeafRule> = {};
  for (const [leaf, shape] of Object.entries(loraLeafShapes(config, site))) {
    rules[leaf] = { shape, init: init(leaf), ...KEYS[leaf] };
  }
  // The initial factors that PiSSA, OLoRA, CorDA and LoRA-GA took out of the base.
  for (const leaf of decomposes(config, site) ? ["lora_A", "lora_B"] : []) {
    const initial = `${leaf}_init`;
    rules[initial] = {
      shape: rules[leaf].shape,
      init: init(initial),
      kind: "fixed",
      takenOut: true,
    };
  }
  for (const [leaf, rule] of Object.entries(startOf(config, site)?.leaves?.(site) ?? {})) {
    const { shape, init: make = init(leaf), ...own }: Partial<LeafRule> = {
      ...rules[leaf],
      ...rule,
    };
    rules[leaf] = { shape: shape!, init: make, ...own };
  }
  return rules;
}

/** Leaves whose key is not their name, and what they are tied to at a tied head. */
const KEYS: Readonly<Record<string, Partial<LeafRule>>> = {
  lora_A: { key: "lora_A.weight", tiedTo: "lora_embedding_B" },
  lora_B: { key: "lora_B.weight", tiedTo: "lora_embedding_A" },
  lora_bias: { key: "lora_B.bias" },
};

/** A site, and what its leaves begin from. */
export type LoraStart = InitSource & Pick<SitePlace<LoraConfig>, "config" | "site">;

/** Makes what a site starts from, fixed and trained leaves together. */
export async function initLora(
  context: LoraStart,
): Promise<Readonly<Record<string, Leaf>>> {
  const { config, site } = context;
  // In PEFT the output projection starts first, and then once more.
  if (site.stem) drawLinear({ ...context, site: { ...site, outFeatures: site.inFeatures } });
  const make = decomposes(config, site) ? decompose : startOf(config, site)?.make;
  const factors = make
    ? await make(context)
    : site.kind === "embedding"
    ? drawEmbedding(context)
    : drawLinear(context);
  if (!config.useDora) return factors;
  // Elsewhere the adapter changes nothing at first, so that the norms are those of the weight
  // alone.
  const { r, scale } = loraShape(config, site);
  const [a, b] = Object.values(factors) as Float32Array[];
  const change = config.initLoraWeights === false
    ? {
      a: flatMatrix(a, { rows: r, columns: a.length / r }),
      b: flatMatrix(b, { rows: b.length / r, columns: r }),
      scale,
    }
    : undefined;
  const norms = magnitudes(await context.weight(), { site, change });
  return { ...factors, lora_magnitude_vector: Float32Array.from(norms) };
}

/** Whether a site starts from a decomposition of its weight, which the base then lacks. */
export function decomposes(config: LoraConfig, site: Site): boolean {
  return site.kind !== "embedding" && !site.conv && takesFromBase(config);
}

/**
 * Refuses what the leaves cannot begin with.
 *
 * @throws {ValueError} where CorDA or LoRA-GA has no calibration or one that does not fit, and for one
 * that nothing would use.
 */
export function checkLoraCalibration(
  config: LoraConfig,
  { sites, calibration, loaded }: CalibrationCheck,
): void {
  const needing = sites.filter((site) => decomposes(config, site))
    .map((site) => ({ site, r: loraShape(config, site).r }));
  const need = [CORDA, LORA_GA].find(({ init }) => init === config.initLoraWeights);
  if (need && needing.length) {
    if (calibration?.init === LORA_GA.init) checkLoraGaConfig(config);
    checkCalibration(need, needing, { calibration, loaded });
  } else if (calibration !== undefined) {
    throw new ValueError(
      "CALIBRATION_UNUSED",
      `A calibration was given, and an adapter with initLoraWeights ${
        JSON.stringify(config.initLoraWeights)
      } on such modules does not begin with one. Leave it out, or set initLoraWeights to "corda" or "lora_ga".`,
    );
  }
}

/** A zero behind the directions that matter least; embeddings take their numbers, too. */
async function behindMinor(context: LoraStart): Promise<Record<string, Float32Array<ArrayBuffer>>> {
  const { config, site, random } = context, { r } = loraShape(config, site);
  const { a, b } = factorShapes(site, r);
  if (site.kind === "embedding") {
    random.normal(sizeOf(a));
    random.normal(sizeOf(b));
  } else skipLinear(random, { r, site, config });
  const minor = micaFactor(site, await context.weight(), r);
  const [A, B] = factorNames(site);
  return { [A]: new Float32Array(sizeOf(a)), [B]: minor };
}

/** What quantization loses of the weight, and what it leaves in the base's place. */
async function behindLost(context: LoraStart): Promise<Leaves> {
  const { config, site, random } = context, { r } = loraShape(config, site);
  const { outFeatures: rows, inFeatures: columns } = site;
  skipLinear(random, { r, site, config });
  const weight = flatMatrix(await context.weight(), { rows, columns });
  const { a, b, change } = loftqStart(weight, {
    ...config.loftqConfig as LoftqConfig,
    rank: Math.min(r, rows, columns),
  });
  return {
    lora_A: matrixTensor(a),
    lora_B: matrixTensor(b),
    [BASE_CHANGE]: tensor(change, { shape: [rows, columns] }),
  };
}

/** What A and B are called at a site. */
function factorNames({ kind }: Site): readonly [string, string] {
  return kind === "embedding" ? ["lora_embedding_A", "lora_embedding_B"] : ["lora_A", "lora_B"];
}

type Draw = Pick<LoraStart, "config" | "site" | "random">;

function drawEmbedding({ config, site, random }: Draw): Record<string, Float32Array<ArrayBuffer>> {
  const { r } = loraShape(config, site);
  const { inFeatures, outFeatures } = site;
  const a = random.normal(r * inFeatures), b = random.normal(outFeatures * r);
  return config.initLoraWeights === false
    ? { lora_embedding_A: a, lora_embedding_B: b }
    : { lora_embedding_A: a.fill(0), lora_embedding_B: random.normal(outFeatures * r) };
}

/** Skips the numbers with which Python's layers for A and B start. */
function skipLinear(random: TorchRandom, { r, site, config }: {
  readonly r: number;
  readonly site: Site;
  readonly config: LoraConfig;
}): void {
  const { a, b } = factorShapes(site, r);
  random.skip(sizeOf(a) + sizeOf(b) + (config.loraBias ? site.outFeatures : 0));
}

function drawLinear({ config, site, random }: Draw): Record<string, Float32Array<ArrayBuffer>> {
  const { r: rank } = loraShape(config, site), { a, b } = factorShapes(site, rank);
  const { outFeatures: o, count = 1 } = site, r = rank * count;
  const size = sizeOf(a), features = size / r;
  const { initLoraWeights: init } = config;
  if (init === "eva") {
    const lora_A = kaimingUniform(random, { size, features });
    random.skip(sizeOf(b));
    return { lora_A, lora_B: new Float32Array(sizeOf(b)) };
  }
  if (init === false) {
    const lora_A = kaimingUniform(random, { size, features });
    const lora_B = kaimingUniform(random, { size: sizeOf(b), features: b[1] });
    const bound = 1 / Math.sqrt(b[1]);
    return config.loraBias
      ? { lora_A, lora_B, lora_bias: random.uniform(o, { low: -bound, high: bound }) }
      : { lora_A, lora_B };
  }
  skipLinear(random, { r: rank, site, config });
  if (init === "orthogonal") return drawOrthogonal(random, { r, site });
  // LoRA-GA leaves convolutions as they are by default.
  const lora_A = init === true || init === "lora_ga"
    ? kaimingUniform(random, { size, features })
    : random.normal(size, { std: 1 / rank });
  const lora_B = new Float32Array(sizeOf(b));
  return config.loraBias ? { lora_A, lora_B, lora_bias: new Float32Array(o) } : { lora_A, lora_B };
}

/**
 * `nn.init.kaiming_uniform_(w, a=√5)` for a weight with this many input features (He et al., 2015,
 * arXiv:1502.01852).
 */
export function kaimingUniform(
  random: TorchRandom,
  { size, features }: { readonly size: number; readonly features: number },
): Float32Array<ArrayBuffer> {
  const bound = Math.sqrt(3) * (Math.sqrt(2 / (1 + Math.sqrt(5) ** 2)) / Math.sqrt(features));
  return random.uniform(size, { low: -bound, high: bound });
}

/**
 * Rows of one orthogonal matrix are dealt out to A and B in turn, so that B·A is zero although
 * neither is.
 */
function drawOrthogonal(
  random: TorchRandom,
  { r, site: { inFeatures, outFeatures } }: { readonly r: number; readonly site: Site },
): Record<string, Float32Array<ArrayBuffer>> {
  const half = r / 2;
  const draw = (rows: number, columns: number) =>
    flatMatrix(random.normal(rows * columns), { rows, columns });
  const q = orthonormalColumns(draw(r, r));
  const everySecond = (first: number): FlatMatrix =>
    flatMatrix(
      Float64Array.from(
        { length: half * r },
        (_, i) => q.data[(2 * Math.floor(i / r) + first) * r + i % r],
      ),
      { rows: half, columns: r },
    );
  const a = rowProducts(transposed(everySecond(0)), draw(inFeatures, half));
  const b = matrixProduct(transposed(draw(half, outFeatures)), everySecond(1));
  const tenth = ({ data }: FlatMatrix) => Float32Array.from(data, (x) => x / 10);
  return { lora_A: tenth(a), lora_B: tenth(b) };
}

/**
 * The factors that PiSSA, OLoRA, CorDA and LoRA-GA start from; `scale · B · A` is the part of the
 * weight that the adapter takes over.
 */
async function decompose(context: LoraStart): Promise<Leaves> {
  const { config, site, random } = context, init = config.initLoraWeights as string;
  const { inFeatures: columns, outFeatures: rows } = site;
  const { r, scale } = loraShape(config, site);
  const rank = Math.min(r, rows, columns);
  skipLinear(random, { r, site, config });
  const isQr = init.toLowerCase() === "olora";
  if (!isQr && !(scale > 0)) {
    throw new ConfigError(
      "CONFIG_LORA_SCALE",
      `initLoraWeights ${JSON.stringify(init)} needs a loraAlpha above 0; it gives the scale ` +
        `${scale} for ${site.path}.`,
    );
  }
  const parts = context.calibration?.sites.get(site.path);
  if (parts) {
    const { a, b } = await (parts[GRADIENT]
      ? loraGaFactors(await matrixOf(parts[GRADIENT]), {
        ...context,
        r,
        scale,
        config: config.loraGaConfig!,
      })
      : cordaFactors(parts, { site, scale }));
    return factorTensors(a, b);
  }
  const weight = flatMatrix(await context.weight(), { rows, columns });
  if (isQr) {
    const { q, r: upper } = leadingQr(weight, rank);
    return factorTensors(upper, q);
  }
  const [, iterations] = init.split("_niter_"), smaller = Math.min(rows, columns);
  const start = iterations
    ? flatMatrix(random.normal(smaller * r), { rows: smaller, columns: r })
    : undefined;
  // As many columns as the weight has span it whole, and nothing is left to approximate.
  const svd = start && rank < smaller
    ? approximateSvd(weight, { start, iterations: Number(iterations) })
    : leadingSvd(weight, rank);
  const roots = svd.s.map((s) => Math.sqrt(s / scale));
  return factorTensors(scaledRows(svd.v, roots), transposed(scaledRows(svd.u, roots)));
}

function factorTensors(a: FlatMatrix, b: FlatMatrix): Leaves {
  const [lora_A, lora_B] = [matrixTensor(a), matrixTensor(b)];
  return { lora_A, lora_B, lora_A_init: lora_A, lora_B_init: lora_B };
}
