/**
 * The config of LoRA: all fields of PEFT's `LoraConfig`.
 *
 * @module
 */
import { z } from "zod";
import { ConfigError, UnsupportedError } from "../../errors.ts";
import type { LayerRange } from "../../model/model-graph.ts";
import type { Site } from "../../model/site.ts";
import {
  checkTargets,
  commonFields,
  type ConfigSchema,
  described,
  field,
  type FieldType,
  parseConfig,
  type TargetConfig,
  targetFields,
} from "../config.ts";
import { type CordaConfig, cordaConfigField } from "./corda-config.ts";
import {
  type EvaConfig,
  evaConfigField,
  type LoftqConfig,
  loftqConfigField,
  type LoraGaConfig,
  loraGaConfigField,
} from "./init-config.ts";
import { ATTENTION_TARGETS } from "../default-targets.ts";
import { pythonRegExp } from "../python-regex.ts";
import { expertTargets } from "./expert-targets.ts";
import {
  type ArrowConfig,
  arrowField,
  type BdLoraConfig,
  bdLoraField,
  type KasaConfig,
  kasaField,
  type MontecloraConfig,
  montecloraField,
  type VeloraConfig,
  veloraField,
} from "./variant-configs.ts";

/** How the matrices of LoRA start; see {@link LoraConfig.initLoraWeights}. */
export type LoraInit =
  | boolean
  | "gaussian"
  | "orthogonal"
  | "olora"
  | "pissa"
  | `pissa_niter_${number}`
  | "corda"
  | "eva"
  | "lora_ga"
  | "mica"
  | "loftq";

/**
 * A LoRA config with every field, as {@link loraConfig} makes it. Some stand for what is not
 * available here: they exist so that files agree with PEFT's, and setting one is an error.
 */
export interface LoraConfig extends TargetConfig {
  /** `"LORA"`. */
  readonly peftType: "LORA";
  /** Rank of the update: inner dimension of A and B. 8 by default. */
  readonly r: number;
  /** The update is scaled by `loraAlpha / r`. 8 by default. */
  readonly loraAlpha: number;
  /**
   * Probability with which an input feature is dropped before A in training, from 0 up to, but not
   * including, 1. 0 by default.
   */
  readonly loraDropout: number;
  /**
   * Scales by `loraAlpha / √r` instead, which keeps large ranks stable (rsLoRA, Kalajdzievski,
   * 2023, arXiv:2312.03732).
   */
  readonly useRslora: boolean;
  /**
   * Learns a magnitude for each output feature beside the low-rank direction (DoRA, Liu et al.,
   * 2024, arXiv:2402.09353). Slower; merge the adapter for inference.
   */
  readonly useDora: boolean;
  /**
   * Adds a trained bias to B. Only with `initLoraWeights` true or false, without DoRA, and not on
   * embeddings.
   */
  readonly loraBias: boolean;
  /**
   * Which biases of the base are trained too: `"none"` (default), `"all"`, or `"lora_only"`, those
   * of the adapted modules.
   */
  readonly bias: "none" | "all" | "lora_only";
  /**
   * Whether the adapted weights are stored [in, out]. Corrected by what the modules are, so it need
   * not be set.
   */
  readonly fanInFanOut: boolean;
  /**
   * How A and B start:
   * - `true` (default): A uniform as a linear layer starts, B zero, so that the adapter changes
   *   nothing at first;
   * - `"gaussian"`: A normal with standard deviation 1/r, B zero;
   * - `"orthogonal"`: both with orthogonal rows and columns and a product of zero; `r` must be
   *   even;
   * - `"pissa"`: the largest singular values and vectors of the weight, which the base then lacks
   *   (Meng et al., 2024, arXiv:2404.02948); `"pissa_niter_N"` finds them approximately, with N
   *   iterations;
   * - `"olora"`: the first columns and rows of the weight's QR decomposition, likewise (Büyükakyüz,
   *   2024, arXiv:2406.01775);
   * - `"corda"`: a part of the weight that is chosen by what goes into the module, likewise (Yang
   *   et al., 2024, arXiv:2406.05223); `preprocessCorda` measures that, and what it gives goes to
   *   `getPeftModel` as `calibration`; see {@link CordaConfig};
   * - `"lora_ga"`: directions of the weight's gradient, likewise (Wang et al., 2024,
   *   arXiv:2407.05000); `preprocessLoraga` measures it; see {@link LoraGaConfig};
   * - `"mica"`: A zero, and B, which is not trained, the left singular vectors of the weight's
   *   smallest singular values (2026, arXiv:2604.01694);
   * - `"loftq"`: what quantization loses of the weight, in whose place the layer goes on with what
   *   quantization leaves (Li et al., 2023, arXiv:2310.08659); see {@link LoftqConfig};
   * - `"eva"`: B zero, and A as `true` until `initializeLoraEvaWeights` puts there the directions in
   *   which the inputs vary most (Paischer et al., 2024, arXiv:2410.07170); see {@link EvaConfig};
   * - `false`: both random, so that the adapter changes something at once; for tests.
   *
   * Embeddings start with A zero and B normal, unless it is `false`.
   */
  readonly initLoraWeights: LoraInit;
  /**
   * Ranks that differ from `r`: by module name, or by a regular expression for the end of its path.
   * The first match counts.
   */
  readonly rankPattern: Readonly<Record<string, number>>;
  /** Values that differ from `loraAlpha`, in the same way. */
  readonly alphaPattern: Readonly<Record<string, number>>;
  /** See {@link TargetConfig.trainableTokenIndices}. */
  readonly trainableTokenIndices:
    | readonly number[]
    | Readonly<Record<string, readonly number[]>>
    | null;
  /** See {@link TargetConfig.ensureWeightTying}. */
  readonly ensureWeightTying: boolean;
  /** How CorDA begins; kept, not used, unless `initLoraWeights` is `"corda"`. */
  readonly cordaConfig: CordaConfig | null;
  /** Module of Megatron that Python imports; kept, not used. */
  readonly megatronCore: string | null;
  /** Number of inputs in a group, with `useQalora`. 16 by default. */
  readonly qaloraGroupSize: number;
  /**
   * Tokens that turn the adapter on: it changes nothing before the last place where they stand in a
   * row, so that what is cached of the tokens before can be the base's (activated LoRA, Greenewald
   * et al., 2025, arXiv:2504.12397). It cannot be merged.
   */
  readonly aloraInvocationTokens: readonly number[] | null;
  /** Routes each token through some of the adapters that the model has; see `createArrowModel`. */
  readonly arrowConfig: ArrowConfig | null;
  /** How EVA begins; kept, not used, unless `initLoraWeights` is `"eva"`. */
  readonly evaConfig: EvaConfig | null;
  /**
   * Takes the `r` smallest singular values out of each weight, and learns those of the update beside
   * its vectors (KaSA, Wang et al., 2024, arXiv:2412.06071).
   */
  readonly kasaConfig: KasaConfig | null;
  /**
   * Layers of the base that the adapter is for, range by range, each from the first to the one after
   * the last: `[[0, 4], [2, 5]]` makes seven layers of five, of which two come twice, with one and the
   * same weights and an adapter of their own each. The base that was given stays as it is.
   */
  readonly layerReplication: readonly LayerRange[] | null;
  /** How LoftQ begins; as in PEFT, nothing is kept of it unless `initLoraWeights` is `"loftq"`. */
  readonly loftqConfig: Partial<LoftqConfig> | null;
  /** How LoRA-GA begins; kept, not used, unless `initLoraWeights` is `"lora_ga"`. */
  readonly loraGaConfig: LoraGaConfig | null;
  /** Megatron's parallel layers. */
  readonly megatronConfig: Readonly<Record<string, unknown>> | null;
  /** Learns a distribution of A, from which training draws (MonteCLoRA, 2024, arXiv:2411.04358). */
  readonly montecloraConfig: MontecloraConfig | null;
  /**
   * See {@link TargetConfig.targetParameters}. Of a parameter of three axes each matrix gets the
   * rank. Not with `loraDropout`, `loraBias`, `useDora` or `fanInFanOut`, and only with
   * `initLoraWeights` true, false or `"gaussian"`.
   */
  readonly targetParameters: readonly string[] | null;
  /** Makes one of the factors of blocks, so that layers split among devices need not talk. */
  readonly useBdlora: BdLoraConfig | null;
  /**
   * Lets A see the means of groups of inputs (QA-LoRA, Xu et al., 2023, arXiv:2309.14717) at linear
   * layers whose weights are quantized; as in PEFT, others have a plain LoRA.
   */
  readonly useQalora: boolean;
  /**
   * Keeps what goes into A for its gradient as one number for each group of features (VeLoRA,
   * Miles et al., 2024, arXiv:2405.17991).
   */
  readonly veloraConfig: VeloraConfig | null;
}

/** What {@link loraConfig} takes: any of the fields, and of configs inside it any of theirs. */
export type LoraFields = {
  readonly [K in keyof LoraConfig]?: K extends `${string}Config` | "useBdlora"
    ? Partial<LoraConfig[K]>
    : LoraConfig[K];
};

/** Fields of variants that are not implemented, with what they stand for. */
const VARIANTS = {
  megatronConfig: "Megatron's parallel layers",
} as const satisfies Partial<Record<keyof LoraConfig, string>>;

/**
 * Variants, of which one can be on, and whether factors that begin as a part of the weight go with
 * it.
 */
const ALONE = {
  useDora: true,
  useBdlora: false,
  kasaConfig: false,
  veloraConfig: true,
  montecloraConfig: true,
  aloraInvocationTokens: false,
  arrowConfig: false,
  useQalora: false,
} as const satisfies Partial<Record<keyof LoraConfig, boolean>>;

/** Whether a field turns a variant on. */
export function isOn(config: LoraConfig, field: keyof LoraConfig): boolean {
  const value = config[field];
  return Array.isArray(value) ? value.length > 0 : Boolean(value);
}

/** The variants that a config turns on that go with no other. */
export function variantFields(config: LoraConfig): readonly (keyof typeof ALONE)[] {
  return (Object.keys(ALONE) as (keyof typeof ALONE)[]).filter((field) => isOn(config, field));
}

/** What is to be known of an initialization by its name. */
interface InitName {
  /** Its names: PEFT looks at the case of some. */
  readonly named: RegExp;
  /** What messages call it. */
  readonly called: string;
  /** Whether it takes a part of each weight over, which the base then lacks. */
  readonly takes?: true;
  /** Whether neither variants of LoRA nor attention modules as one go with it. */
  readonly alone?: true;
  /** Whether convolutions can begin so. */
  readonly conv?: true;
}

const INIT_NAMES: readonly InitName[] = [
  { named: /^gaussian$/i, called: '"gaussian"', conv: true },
  { named: /^orthogonal$/, called: '"orthogonal"' },
  { named: /^olora$/i, called: '"olora"', takes: true },
  { named: /^pissa$/, called: '"pissa"', takes: true },
  { named: /^pissa_niter_\d+$/, called: '"pissa_niter_[number of iters]"', takes: true },
  { named: /^corda$/, called: '"corda"', takes: true },
  { named: /^eva$/, called: '"eva"' },
  { named: /^lora_ga$/, called: '"lora_ga"', takes: true, conv: true },
  { named: /^mica$/, called: '"mica"', alone: true },
  { named: /^loftq$/, called: '"loftq"', alone: true },
];

const INITS = ["true", "false", ...INIT_NAMES.map(({ called }) => called)].join(", ");

/** What is to be known of an initialization that has a name. */
function initNamed(init: LoraInit): InitName | undefined {
  return typeof init === "string" ? INIT_NAMES.find(({ named }) => named.test(init)) : undefined;
}

function isAlone({ initLoraWeights }: LoraConfig): boolean {
  return initNamed(initLoraWeights)?.alone === true;
}

/** Whether an initialization takes a part of each weight over, which the base then lacks. */
export function takesFromBase({ initLoraWeights }: LoraConfig): boolean {
  return initNamed(initLoraWeights)?.takes === true;
}

/** The type of a field that sets a number by module, as `valueAt` finds it. */
export function pattern(
  values: z.ZodType<number>,
  what: string,
  valueAt: FieldType<unknown>["valueAt"] = patternValue,
): FieldType<Readonly<Record<string, number>>> {
  const type = z.record(z.string(), values).nullable().default({}).transform((map) => map ?? {})
    .describe(`an object of ${what} by module name or regular expression`);
  return { ...described(type), valueAt };
}

/** The fields of {@link LoraConfig}. */
export const loraSchema: ConfigSchema<LoraConfig> = {
  peftType: "LORA",
  targets: ATTENTION_TARGETS,
  mixes: true,
  isIdentityAtInit: true,
  retired: { enable_lora: [null], merge_weights: [true, false, null] },
  fields: {
    ...commonFields("LORA"),
    ...targetFields(),
    r: field.integer(8, 1),
    loraAlpha: field.number(8),
    loraDropout: field.probability(0),
    useRslora: field.boolean(false),
    useDora: field.boolean(false),
    loraBias: field.boolean(false),
    bias: field.choice("none", ["none", "all", "lora_only"]),
    fanInFanOut: field.boolean(false),
    initLoraWeights: z.union([z.boolean(), z.string()]).default(true).describe(
      `one of ${INITS}`,
    ) as unknown as FieldType<LoraInit>,
    rankPattern: pattern(z.int().min(1), "whole numbers above 0"),
    alphaPattern: pattern(z.number(), "numbers"),
    trainableTokenIndices: z.union([
      z.array(z.int().min(0)),
      z.record(z.string(), z.array(z.int().min(0))),
    ]).nullable().default(null)
      .describe("a list of token ids, an object of such lists by module name, or null"),
    ensureWeightTying: field.boolean(false),
    megatronCore: field.text("megatron.core"),
    qaloraGroupSize: field.integer(16, 1),
    aloraInvocationTokens: z.array(z.int()).nullable().default(null)
      .describe("a list of token ids or null"),
    arrowConfig: arrowField,
    cordaConfig: cordaConfigField,
    evaConfig: evaConfigField,
    kasaConfig: kasaField,
    layerReplication: z.array(z.tuple([z.int(), z.int()])).nullable().default(null)
      .describe("a list of pairs of layer numbers or null"),
    loftqConfig: loftqConfigField,
    loraGaConfig: loraGaConfigField,
    megatronConfig: field.object(),
    montecloraConfig: montecloraField,
    targetParameters: field.names(),
    useBdlora: bdLoraField,
    useQalora: field.boolean(false),
    veloraConfig: veloraField,
  },
  fit: expertTargets,
  layers: ({ layerReplication }) => layerReplication,
  complete: (config) => ({
    ...config,
    ...(config.initLoraWeights === "corda" && {
      cordaConfig: config.cordaConfig ?? defaultsOf(cordaConfigField),
    }),
    ...(config.loftqConfig && config.initLoraWeights !== "loftq" && { loftqConfig: {} }),
    ...(config.initLoraWeights === "eva" && {
      evaConfig: config.evaConfig ?? defaultsOf(evaConfigField),
    }),
  }),
  check(config) {
    checkTargets(config);
    checkVariants(config);
    checkInit(config.initLoraWeights);
    for (const key of Object.keys({ ...config.rankPattern, ...config.alphaPattern })) {
      pythonRegExp(key);
    }
    if (config.loraBias && typeof config.initLoraWeights !== "boolean") {
      throw new ConfigError(
        "CONFIG_LORA_BIAS",
        `loraBias is only supported with initLoraWeights true or false; found ${
          JSON.stringify(config.initLoraWeights)
        }.`,
      );
    }
    if (config.loraBias && config.useDora) {
      throw new ConfigError(
        "CONFIG_LORA_BIAS",
        "loraBias is not supported together with useDora: set one of the two to false.",
      );
    }
    checkTogether(config);
    checkLoftq(config);
    checkParameters(config);
    const ranks = Object.values(config.rankPattern);
    if (config.initLoraWeights === "orthogonal" && [...ranks, config.r].every((r) => r % 2)) {
      throw oddRank(config.r);
    }
  },
};

/** A config inside the config with its defaults. */
function defaultsOf<T>(type: FieldType<T>): T {
  const found = type.safeParse({});
  if (found.success) return found.data;
  throw new TypeError("Settings need defaults.");
}

/** What does not go with parameters as targets, whose factors no input passes through. */
function checkParameters(config: LoraConfig): void {
  const { initLoraWeights: init } = config;
  if (!config.targetParameters?.length) return;
  const unfit = (["loraDropout", "fanInFanOut", "loraBias"] as const)
    .find((field) => config[field]) ??
    variantFields(config)[0] ??
    (typeof init === "boolean" || init.toLowerCase() === "gaussian"
      ? undefined
      : "initLoraWeights");
  if (!unfit) return;
  throw new ConfigError(
    "CONFIG_TARGET_PARAMETERS",
    `targetParameters does not work with ${unfit} ${
      JSON.stringify(config[unfit])
    }: parameters are adapted by plain LoRA alone. ` +
      `Leave ${unfit} out, or adapt modules by targetModules.`,
    { field: unfit, value: config[unfit] },
  );
}

/** Whether what a config adds to a weight is scale·B·A, and the base is as it was. */
export function isPlainLora(config: LoraConfig): boolean {
  return variantFields(config).length === 0 && !isAlone(config) && !takesFromBase(config);
}

/**
 * Refuses variants whose factors do not stand for themselves, where factors are put together.
 *
 * @throws {UnsupportedError}
 */
export function checkFactors(config: LoraConfig): void {
  const variant = variantFields(config).find((field) => field !== "useDora") ??
    (config.initLoraWeights === "loftq" ? 'initLoraWeights "loftq"' : undefined);
  if (!variant) return;
  throw new UnsupportedError(
    "LORA_VARIANT",
    `An adapter with ${variant} cannot be combined, resized or swapped: its factors are no plain LoRA. ` +
      "Make one of it with convertToLora, or keep the adapters apart.",
    { field: variant },
  );
}

function checkLoftq({ initLoraWeights, loftqConfig }: LoraConfig): void {
  if (initLoraWeights !== "loftq" || Object.keys(loftqConfig ?? {}).length) return;
  throw new ConfigError(
    "CONFIG_LOFTQ",
    'loftqConfig must be given when initLoraWeights is "loftq", such as { loftqBits: 4, loftqIter: 1 }.',
  );
}

/** Refuses variants that do not go together, or with how the factors begin. */
function checkTogether(config: LoraConfig): void {
  const fields = variantFields(config), [first, second] = fields;
  const other = second ??
    (first && (isAlone(config) || (!ALONE[first] && takesFromBase(config)))
      ? "initLoraWeights"
      : undefined);
  if (!other) return;
  throw new ConfigError(
    "CONFIG_LORA_VARIANT",
    `${first} does not go with ${other} ${JSON.stringify(config[other])}. Leave one of them out.`,
    { fields: [first, other] },
  );
}

function checkVariants(config: LoraConfig): void {
  const set = Object.keys(VARIANTS).filter((name) => {
    const value = config[name as keyof typeof VARIANTS];
    return typeof value === "object" && value !== null ? Object.keys(value).length > 0 : value;
  }) as (keyof typeof VARIANTS)[];
  if (set.length) {
    throw new UnsupportedError(
      "LORA_VARIANT",
      `The config sets ${
        set.map((name) => `${name} (${VARIANTS[name]})`).join(", ")
      }, which is not available here. Available are plain LoRA, rsLoRA (useRslora), DoRA (useDora), loraBias, and the ` +
        `initializations ${INITS}.`,
      { fields: set },
    );
  }
}

function checkInit(init: LoraInit): void {
  if (typeof init === "boolean" || initNamed(init)) return;
  throw new ConfigError(
    "CONFIG_LORA_INIT",
    `initLoraWeights (init_lora_weights in adapter_config.json) must be one of ${INITS}; found ${
      JSON.stringify(init)
    }.`,
    { init },
  );
}

function oddRank(r: number, path?: string): ConfigError {
  return new ConfigError(
    "CONFIG_ODD_RANK",
    `Orthogonal initialization requires the LoRA rank to be even, got ${r} instead${
      path ? ` for ${path}` : ""
    }.`,
    { r, path },
  );
}

/**
 * A complete LoRA config (Hu et al., 2021, arXiv:2106.09685).
 *
 * @param config The fields to set; the others take PEFT's defaults.
 * @returns A frozen config with every field.
 * @throws {ConfigError} for unknown or ill-typed fields and for settings that contradict each
 * other.
 * @throws {UnsupportedError} for variants and initializations of PEFT that are not available here.
 *
 * @example
 * ```ts
 * import { loraConfig } from "@graft/peft";
 * const config = loraConfig({ r: 16, loraAlpha: 32, targetModules: ["q_proj", "v_proj"] });
 * console.log(config.loraDropout); // 0
 * ```
 */
export function loraConfig(config: LoraFields = {}): LoraConfig {
  return parseConfig(loraSchema, config);
}

/**
 * Rank, and factor of the update, at a site, with the patterns applied.
 *
 * @throws {ConfigError} where the site cannot have what the config asks for.
 */
export function loraShape(
  config: LoraConfig,
  site: Site,
): { readonly r: number; readonly scale: number } {
  const path = site.partOf ?? site.path;
  const r = patternValue(config.rankPattern, path) ?? config.r;
  const alpha = patternValue(config.alphaPattern, path) ?? config.loraAlpha;
  if (site.kind === "multihead" && !site.partOf) checkMultihead(config, path);
  if (site.kind === "embedding") {
    if (config.loraBias) {
      throw new ConfigError(
        "CONFIG_LORA_BIAS",
        `loraBias is not supported for the embedding ${site.path}: leave it out of the targets, or set loraBias to false.`,
        { path: site.path },
      );
    }
  } else if (site.conv) {
    checkConv(config, site, r);
  } else if (config.initLoraWeights === "orthogonal" && r % 2) {
    throw oddRank(r, site.path);
  }
  return { r, scale: alpha / (config.useRslora ? Math.sqrt(r) : r) };
}

/** Refuses what PEFT's layers of `nn.MultiheadAttention` cannot have, or would not use. */
function checkMultihead(config: LoraConfig, path: string): void {
  const unfit = variantFields(config)[0] ??
    (config.loraBias
      ? "loraBias"
      : takesFromBase(config) || isAlone(config)
      ? "initLoraWeights"
      : undefined);
  if (!unfit) return;
  throw new ConfigError(
    "CONFIG_MULTIHEAD",
    `${path} is an nn.MultiheadAttention, which has a plain LoRA, without ${unfit} ${
      JSON.stringify(config[unfit])
    }. Leave it out of targetModules, or ${unfit} out of the config.`,
    { path, field: unfit },
  );
}

/** Refuses what PEFT's layers of convolutions cannot have. */
function checkConv({ initLoraWeights: init }: LoraConfig, { path, conv }: Site, r: number): void {
  const { kernel, dilation, groups } = conv!;
  const reason = typeof init === "string" && !initNamed(init)?.conv
    ? `begins with initLoraWeights true, false or "gaussian", not ${JSON.stringify(init)}`
    : r % groups
    ? `needs a rank that its ${groups} groups divide, not ${r}: set rankPattern for it`
    : kernel.some((k, i) => k > 1 && dilation[i] > 1)
    ? `cannot have a dilation (${dilation}), which PEFT's lora_A has not`
    : undefined;
  if (!reason) return;
  throw new ConfigError(
    "CONFIG_CONVOLUTION",
    `A LoRA of the convolution ${path} ${reason}. Or leave it out of targetModules.`,
    { path },
  );
}

/**
 * The value of the first key that is the path or its end, or as a regular expression matches the
 * end.
 */
export function patternValue(
  patterns: Readonly<Record<string, number>>,
  path: string,
): number | undefined {
  return Object.entries(patterns)
    .find(([key]) => pythonRegExp(`(.*\\.)?(${key})`).test(path))?.[1];
}

/**
 * The same as FourierFT and C³A look values up: an alternative that is in no group ends a key's
 * expression, and a key without a dot before it names a whole path.
 */
export function patternValueAtEnd(
  patterns: Readonly<Record<string, number>>,
  path: string,
): number | undefined {
  const found = Object.keys(patterns).find((key) => pythonRegExp(`(?:.*\\.${key}$).*`).test(path));
  return patterns[found ?? path];
}
