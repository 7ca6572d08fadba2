/**
 * Names of PEFT's methods and tasks, as types and as values.
 *
 * @module
 */

/**
 * The methods of PEFT 0.21, in its order, and `BONE`, as older releases called `MISS`. Which of them
 * are here, the registry says (`defaultMethods`); one from outside may have any other name.
 *
 * @example
 * ```ts
 * import { defaultMethods, PeftType } from "@graft/peft";
 * console.log(PeftType.LORA, defaultMethods.has(PeftType.LORA)); // LORA true
 * console.log(Object.values(PeftType).length); // 46
 * ```
 */
export const PeftType = {
  PROMPT_TUNING: "PROMPT_TUNING",
  MULTITASK_PROMPT_TUNING: "MULTITASK_PROMPT_TUNING",
  P_TUNING: "P_TUNING",
  PREFIX_TUNING: "PREFIX_TUNING",
  LORA: "LORA",
  ADALORA: "ADALORA",
  ADAMSS: "ADAMSS",
  BOFT: "BOFT",
  ADAPTION_PROMPT: "ADAPTION_PROMPT",
  IA3: "IA3",
  BEFT: "BEFT",
  LILY: "LILY",
  LOHA: "LOHA",
  LOKR: "LOKR",
  OFT: "OFT",
  POLY: "POLY",
  LN_TUNING: "LN_TUNING",
  VERA: "VERA",
  FROD: "FROD",
  PVERA: "PVERA",
  FOURIERFT: "FOURIERFT",
  GLORA: "GLORA",
  XLORA: "XLORA",
  HRA: "HRA",
  VBLORA: "VBLORA",
  UNILORA: "UNILORA",
  CPT: "CPT",
  BONE: "BONE",
  MISS: "MISS",
  RANDLORA: "RANDLORA",
  ROAD: "ROAD",
  TRAINABLE_TOKENS: "TRAINABLE_TOKENS",
  HIRA: "HIRA",
  SHIRA: "SHIRA",
  C3A: "C3A",
  WAVEFT: "WAVEFT",
  OSF: "OSF",
  DELORA: "DELORA",
  GRALORA: "GRALORA",
  CARTRIDGE: "CARTRIDGE",
  TINYLORA: "TINYLORA",
  PSOFT: "PSOFT",
  PEANUT: "PEANUT",
  SHADOW: "SHADOW",
  SUPERTUNING: "SUPERTUNING",
  DEFT: "DEFT",
} as const;
Object.freeze(PeftType);

/** PEFT's name of a method, which its files carry as `peft_type`. */
export type PeftType = keyof typeof PeftType;

export { TASK_TYPES, TaskType } from "../model/task-type.ts";
