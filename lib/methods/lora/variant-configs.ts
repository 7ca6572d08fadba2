/**
 * The configs inside a LoRA config that variants have, with all fields of PEFT's.
 *
 * @module
 */
import { z } from "zod";
import { described, field, type FieldType, nestedField } from "../field.ts";

/** Block-diagonal LoRA: `BdLoraConfig`. */
export interface BdLoraConfig {
  /** Parts of the paths of modules whose A consists of blocks, such as `o_proj`. */
  readonly targetModulesBdA: readonly string[] | null;
  /** Parts of the paths of modules whose B consists of blocks, such as `q_proj`. */
  readonly targetModulesBdB: readonly string[] | null;
  /** Number of blocks: the number of devices that the layers are to be split among. 1 by default. */
  readonly nblocks: number;
  /** Whether each module must be one or the other (default); others are plain LoRA without it. */
  readonly matchStrict: boolean;
}

/** KaSA: `KasaConfig`. */
export interface KasaConfig {
  /** Weight of the squares of the singular values in the loss. 1e-4 by default. */
  readonly beta: number;
  /** Weight in the loss of how far A and B are from being orthonormal. 1e-3 by default. */
  readonly gamma: number;
}

/** VeLoRA: `VeloraConfig`. */
export interface VeloraConfig {
  /** Number of groups that the input features are split into; each is kept as one number. 64 by default. */
  readonly numGroups: number;
  /** Factor on the input as it is made again. 1 by default. */
  readonly scale: number;
  /**
   * The direction that groups are projected onto: the mean of the groups of each batch
   * (`"batch_average"`, default), that of the first batch (`"batch_average_once"`), or one that is
   * drawn (`"random"`).
   */
  readonly initType: "batch_average" | "batch_average_once" | "random";
}

/** MonteCLoRA: `MontecloraConfig`. */
export interface MontecloraConfig {
  /** Number of samples that a step draws and averages. 8 by default. */
  readonly numSamples: number;
  /** Whether the sum of the squares of the samples' weights is added to the loss. */
  readonly useEntropy: boolean;
  /** Concentration of the prior of those weights. 0.1 by default. */
  readonly dirichletPrior: number;
  /** Factor on the samples. 1e-4 by default. */
  readonly sampleScaler: number;
  /** Weight of the distance to the prior in the loss. 1e-5 by default. */
  readonly klLossWeight: number;
  /** Number of draws that PEFT makes ahead; here only how many numbers an adapter begins behind. */
  readonly bufferSize: number;
}

/** Arrow routing: `ArrowConfig`. */
export interface ArrowConfig {
  /** Number of experts that a token goes through. 3 by default. */
  readonly topK: number;
  /** Temperature of the softmax over their scores. 1 by default. */
  readonly routerTemperature: number;
  /** Whether the mean of general adapters is subtracted from each expert (GenKnowSub). */
  readonly useGks: boolean;
  /** Names of the experts; `createArrowModel` fills them in. */
  readonly taskAdapterNames: readonly string[] | null;
  /** Names of the general adapters; likewise. */
  readonly gksAdapterNames: readonly string[] | null;
  /** Seed of the vectors that the search for the experts' directions begins with. */
  readonly rngSeed: number | null;
}

const float = (type: z.ZodType<number>): FieldType<number> => described(type, { float: true });
const above0 = (otherwise: number) =>
  float(z.number().positive().default(otherwise).describe("a number above 0"));
const from0 = (otherwise: number) =>
  float(z.number().min(0).default(otherwise).describe("a number from 0 on"));

/** `useBdlora`. */
export const bdLoraField: FieldType<BdLoraConfig | null> = nestedField<BdLoraConfig>({
  targetModulesBdA: field.names(),
  targetModulesBdB: field.names(),
  nblocks: field.integer(1, 1),
  matchStrict: field.boolean(true),
});

/** `kasaConfig`. */
export const kasaField: FieldType<KasaConfig | null> = nestedField<KasaConfig>({
  beta: from0(1e-4),
  gamma: from0(1e-3),
});

/** `veloraConfig`. */
export const veloraField: FieldType<VeloraConfig | null> = nestedField<VeloraConfig>({
  numGroups: field.integer(64, 1),
  scale: above0(1),
  initType: field.choice("batch_average", ["batch_average", "batch_average_once", "random"]),
});

/** `montecloraConfig`. */
export const montecloraField: FieldType<MontecloraConfig | null> = nestedField<MontecloraConfig>({
  numSamples: field.integer(8, 1),
  useEntropy: field.boolean(false),
  dirichletPrior: above0(0.1),
  sampleScaler: field.float(1e-4),
  klLossWeight: field.float(1e-5),
  bufferSize: field.integer(150, 1),
});

/** `arrowConfig`. */
export const arrowField: FieldType<ArrowConfig | null> = nestedField<ArrowConfig>({
  topK: field.integer(3, 1),
  routerTemperature: above0(1),
  useGks: field.boolean(false),
  taskAdapterNames: field.names(),
  gksAdapterNames: field.names(),
  rngSeed: z.int().nullable().default(null).describe("a whole number or null"),
});
