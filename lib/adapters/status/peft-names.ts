/**
 * Names of PEFT's Python classes, which its status reports show.
 *
 * @module
 */
import type { ModelGraph } from "../../model/model-graph.ts";
import type { Site, SiteKind } from "../../model/site.ts";

/** PEFT's model classes whose name is not the `peft_type` with a capital letter and `Model`. */
const MODELS: Readonly<Record<string, string>> = {
  ADALORA: "AdaLoraModel",
  BOFT: "BOFTModel",
  C3A: "C3AModel",
  FOURIERFT: "FourierFTModel",
  HRA: "HRAModel",
  IA3: "IA3Model",
  LN_TUNING: "LNTuningModel",
  LOHA: "LoHaModel",
  LOKR: "LoKrModel",
  OFT: "OFTModel",
  OSF: "OSFModel",
  RANDLORA: "RandLoraModel",
  TINYLORA: "TinyLoraModel",
  UNILORA: "UniLoraModel",
  VBLORA: "VBLoRAModel",
  WAVEFT: "WaveFTModel",
  XLORA: "XLoraModel",
};

/**
 * PEFT's names of layers that are not the `peft_type` in lower case, a dot and the kind of layer; `*`
 * stands for the kind.
 */
const LAYERS: Readonly<Record<string, string>> = {
  ADALORA: "adalora.SVD*",
  ADAPTION_PROMPT: "AdaptedAttention",
  BEFT: "*",
  C3A: "c3a.C3A*",
  DEFT: "deft.Deft*",
  DELORA: "delora.Delora*",
  FOURIERFT: "fourierft.FourierFT*",
  GLORA: "glora.Glora*",
  HRA: "hra.HRA*",
  IA3: "*",
  LN_TUNING: "ln_tuning.LNTuningLayer",
  MISS: "miss.Miss*",
  SHADOW: "shadow.ShadowLayer",
  SUPERTUNING: "*",
  TRAINABLE_TOKENS: "TrainableTokensLayer",
  UNILORA: "*",
  WAVEFT: "waveft.WaveFT*",
};

/** Name of the Python class of the base, as `config.json` has it; `other` where it does not. */
export function baseModelType({ config }: ModelGraph): string {
  const name = Array.isArray(config.architectures) ? config.architectures[0] : undefined;
  return typeof name === "string" ? name : "other";
}

/** Name of PEFT's class of models with adapters of these methods, such as `LoraModel`. */
export function adapterModelType(peftTypes: Iterable<string>): string {
  const types = [...new Set(peftTypes)];
  if (types.length !== 1) return types.length ? "MixedModel" : "None";
  return MODELS[types[0]] ?? `${types[0].split("_").map(capitalized).join("")}Model`;
}

/** Name of PEFT's layer of a method around a site, such as `lora.Linear`. */
export function moduleType(peftType: string, { kind, conv }: Pick<Site, "kind" | "conv">): string {
  const template = LAYERS[peftType] ?? `${peftType.toLowerCase()}.*`;
  // A Conv1D is a linear layer whose weight is transposed: PEFT has one class for both.
  const names: Partial<Record<SiteKind, string>> = { conv1d: "Linear", parameter: "ParamWrapper" };
  const name = names[kind] ?? capitalized(kind);
  return template.replace("*", conv ? `Conv${conv.kernel.length}d` : name);
}

function capitalized(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1).toLowerCase();
}
