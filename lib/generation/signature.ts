/**
 * `describeSignature`: what `forward` and `generate` take and give, as data for tools.
 *
 * @module
 */
import { methodInputs } from "../adapters/batch.ts";
import { type AnyModel, baseOf } from "../adapters/peft-model.ts";
import {
  ADAPTER_INPUTS,
  type AdapterInput,
  forwardSignature,
  showsBase,
} from "../adapters/signature.ts";
import { UnsupportedError, ValueError } from "../errors.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { type FunctionSignature, type ParameterSignature, withText } from "../model/signature.ts";
import { show } from "../options.ts";
import { taskFor } from "../tasks/mod.ts";
import { GENERATE_RULES, type GenerateOptions } from "./generate-options.ts";

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

const OPTIONS: readonly ParameterSignature[] = Object.entries(GENERATE_RULES).map((
  [name, rule],
) => ({ name, type: rule!.type!, optional: true, doc: rule!.doc! }));

const GENERATION: readonly ParameterSignature[] = [
  [
    "text",
    "string",
    "The new text, without the prompt; empty where there is no tokenizer and the prompt was given as ids.",
  ],
  ["tokenIds", "readonly number[]", "The new token ids, an end token included."],
  ["promptIds", "readonly number[]", "The prompt's token ids."],
  ["finishReason", "FinishReason", "Why it ended."],
  [
    "score?",
    "number",
    "Of beams, the sum of the log-probabilities of its tokens over its length to `lengthPenalty`.",
  ],
  [
    "alternatives?",
    "readonly Generation[]",
    "Of beams, the next best texts, where `numReturnSequences` asks for them.",
  ],
].map(([name, type, doc]) => ({
  name: name.replace("?", ""),
  type,
  optional: name.endsWith("?"),
  doc,
}));

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
 * import { describeSignature, getPeftModel, tinyModel } from "@graft/peft";
 * import { loraConfig, updateSignature } from "@graft/peft";
 * const base = await tinyModel();
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
  if (!taskFor(baseOf(model)).generates) {
    throw new UnsupportedError(
      "GENERATE_UNSUPPORTED",
      `generate needs a model that writes text, and those of the family ${architecture.name} do not.`,
      { architecture: architecture.name },
    );
  }
  const own = showsBase(model, "generate");
  const taken = own ? [] : ["adapterNames", ...methodInputs(model).map(({ name }) => name)];
  return withText({
    name: "generate",
    doc: own
      ? `Generates text with a model of the family ${architecture.name}, from one prompt or several.`
      : "Generates text with a model with its active adapters, from one prompt or several.",
    parameters: [
      PROMPT,
      ...OPTIONS.filter(({ name }) => !ADAPTER_INPUTS.includes(name) || taken.includes(name)),
    ],
    returns: {
      type: "Promise<Generation | readonly Generation[]>",
      fields: GENERATION,
    },
  }, { record: "options", positional: 1, returned: "Generation" });
}
