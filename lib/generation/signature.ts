/**
 * `describeSignature`: what `forward` and `generate` take and give, as data for tools.
 *
 * @module
 */
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import {
  ADAPTER_INPUTS,
  type AdapterInput,
  forwardSignature,
  modelSignature,
  showsBase,
} from "../adapters/signature.ts";
import { UnsupportedError, ValueError } from "../errors.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import {
  type FieldSignatures,
  fieldsOf,
  type FunctionSignature,
  type ParameterSignature,
  withText,
} from "../model/signature.ts";
import { show } from "../options.ts";
import type { GenerateOptions, Generation } from "./generate.ts";

/**
 * What `generate` takes for a model, as far as its type says: see `updateGenerateSignature`.
 */
export type GenerateOptionsOf<M extends AnyModel> = M extends
  ModelGraph | { readonly signatures: { readonly generate: "base" } }
  ? Omit<GenerateOptions, AdapterInput>
  : GenerateOptions;

const PROMPT: ParameterSignature = {
  name: "prompt",
  type: "Prompt | readonly Prompt[]",
  optional: false,
  doc: "Text, token ids, the messages of a chat, or a list of these.",
};

const OPTIONS: FieldSignatures<GenerateOptions> = {
  maxNewTokens: {
    type: "number",
    optional: true,
    doc:
      "How many tokens to add at most; 128 by default. The model's last position ends a text too.",
  },
  doSample: {
    type: "boolean",
    optional: true,
    doc:
      "Draws tokens at random instead of taking the most probable; true by default where `temperature` (other than 0), `topK` or `topP` is given.",
  },
  temperature: {
    type: "number",
    optional: true,
    doc: "Divides the scores, as in SamplingOptions; 0 takes the most probable token.",
  },
  topK: {
    type: "number",
    optional: true,
    doc: "Keeps the k highest scores (and those equal to the lowest of them); 0 keeps all.",
  },
  topP: {
    type: "number",
    optional: true,
    doc:
      "Keeps the fewest tokens, from the most probable on, whose probabilities sum up to this much; 1 keeps all (Holtzman et al., 2019, arXiv:1904.09751).",
  },
  repetitionPenalty: {
    type: "number",
    optional: true,
    doc:
      "Divides the scores of tokens that have occurred (multiplies them where they are negative); 1 does nothing (Keskar et al., 2019, arXiv:1909.05858).",
  },
  seed: {
    type: "number",
    optional: true,
    doc:
      "Where random numbers start from, 0 by default: the same seed gives the same text. Each row draws its own.",
  },
  stop: {
    type: "string | readonly string[]",
    optional: true,
    doc: "Strings that end a text; the text stops before them.",
  },
  includeStop: {
    type: "boolean",
    optional: true,
    doc: "Keeps the stop string in the text.",
  },
  eosTokenId: {
    type: "number | readonly number[]",
    optional: true,
    doc:
      "Ids that end a text, in place of those of the model's `generation_config.json` or `config.json`; `[]` for none.",
  },
  tokenizer: {
    type: "Tokenizer",
    optional: true,
    doc: "Reads prompts and writes text; the one that lies beside the model's weights by default.",
  },
  addSpecialTokens: {
    type: "boolean",
    optional: true,
    doc: "Whether prompts of text get the tokenizer's special tokens; true by default.",
  },
  skipSpecialTokens: {
    type: "boolean",
    optional: true,
    doc: "Whether special tokens are left out of the text; true by default.",
  },
  chatTemplate: {
    type: "ChatTemplateOptions",
    optional: true,
    doc: "What a chat template gets beside the messages, such as `tools`.",
  },
  signal: {
    type: "AbortSignal",
    optional: true,
    doc: "Stops with the signal's reason as the error.",
  },
  adapterNames: {
    type: "readonly string[]",
    optional: true,
    doc:
      'The adapter of each prompt, active or not, `"__base__"` for none; without it all get the active adapters.',
  },
};

const GENERATION: FieldSignatures<Generation> = {
  text: {
    type: "string",
    optional: false,
    doc:
      "The new text, without the prompt; empty where there is no tokenizer and the prompt was given as ids.",
  },
  tokenIds: {
    type: "readonly number[]",
    optional: false,
    doc: "The new token ids, an end token included.",
  },
  promptIds: {
    type: "readonly number[]",
    optional: false,
    doc: "The prompt's token ids.",
  },
  finishReason: {
    type: "FinishReason",
    optional: false,
    doc: "Why it ended.",
  },
};

/**
 * What a function takes for a model and what it gives: names, TypeScript types and docs, for tools
 * such as forms, command lines and language models.
 *
 * Of a model with adapters it is what all such models may take, until `updateSignature` makes it
 * what the base underneath takes. Of a base it is the base's own.
 *
 * @param model A model with or without adapters.
 * @param which `"forward"`, the default, or `"generate"`.
 * @throws {ValueError} `SIGNATURE_METHOD` for another function, `NOT_A_MODEL` for what is no model.
 * @throws {UnsupportedError} `GENERATE_UNSUPPORTED` for `"generate"` of a model that writes no text.
 *
 * @example
 * ```ts
 * import { createModel, describeSignature, getPeftModel } from "@graft/peft";
 * import { loraConfig, updateSignature } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "llama", vocab_size: 96, hidden_size: 32, intermediate_size: 48,
 *   num_hidden_layers: 2, num_attention_heads: 4,
 * }, { device: "cpu" });
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig());
 * const names = (m: typeof model) => describeSignature(m).parameters.map(({ name }) => name);
 * console.log(names(model).includes("adapterNames")); // true
 * console.log(names(updateSignature(model)).includes("adapterNames")); // false
 * ```
 */
export function describeSignature(
  model: AnyModel,
  which: "forward" | "generate" = "forward",
): FunctionSignature {
  if (which === "forward") return forwardSignature(model);
  if (which === "generate") return generateSignature(model);
  throw new ValueError(
    "SIGNATURE_METHOD",
    `Only forward and generate have a signature to describe; found ${show(which)}.`,
    { method: which },
  );
}

function generateSignature(model: AnyModel): FunctionSignature {
  const { architecture } = baseOf(model);
  if (modelSignature(model).generates === false) {
    throw new UnsupportedError(
      "GENERATE_UNSUPPORTED",
      `generate needs a model that writes text, and those of the family ${architecture.name} do not.`,
      { architecture: architecture.name },
    );
  }
  const own = showsBase(model, "generate");
  return withText({
    name: "generate",
    doc: own
      ? `Generates text with a model of the family ${architecture.name}, from one prompt or several.`
      : "Generates text with a model with its active adapters, from one prompt or several.",
    parameters: [
      PROMPT,
      ...fieldsOf(OPTIONS).filter(({ name }) => !own || !ADAPTER_INPUTS.includes(name)),
    ],
    returns: {
      type: "Promise<Generation | readonly Generation[]>",
      fields: fieldsOf(GENERATION),
    },
  }, { record: "options", positional: 1, returned: "Generation" });
}
