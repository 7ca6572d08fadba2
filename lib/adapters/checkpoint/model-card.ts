/**
 * The README.md of a saved adapter, which the hub reads as its model card.
 *
 * @module
 */
import { join } from "node:path";
import { Document, isMap, parseDocument } from "yaml";
import { FileError, ValueError } from "../../errors.ts";
import { pathOf } from "../../io/atomic.ts";
import { type GroupedFile, writeFilesAtomic } from "../../io/atomic-files.ts";
import { isObject, readTextFile } from "../../io/json.ts";
import { exists } from "../../io/locate.ts";
import { PEFT_VERSION, type PeftConfig } from "../../methods/config.ts";
import type { ModelGraph } from "../../model/model-graph.ts";
import { taskFor } from "../../tasks/mod.ts";
import { isBlockType } from "../../tensor/dtype.ts";
import { checkPeft, type PeftModel, pristineBase } from "../peft-model.ts";
import { cardBaseName } from "./base-name.ts";
import { ADAPTER_FILES } from "./read-adapter.ts";

/**
 * Writes the model card of a model's adapter into a folder, or brings the one that is there up to
 * date: what the hub finds an adapter by (library, base model, tags, pipeline), how the base was
 * quantized, and the release of PEFT. All else in an existing card stays as it is, its own tags
 * included.
 *
 * `savePretrained` does this too.
 *
 * @param model A model with adapters; the card is about the first active one.
 * @param folder Where the card is or will be; made where it does not exist.
 * @throws {ValueError} where the model has no adapters.
 * @throws {FileError} `CARD_INVALID` where the metadata of the card that is there cannot be read;
 * `WRITE_FAILED` where writing fails.
 *
 * @example
 * ```ts
 * import { createOrUpdateModelCard, getPeftModel, loraConfig, tinyModel } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const folder = await Deno.makeTempDir();
 * await Deno.writeTextFile(`${folder}/README.md`, "---\nlicense: mit\n---\n# Mine\n");
 * await createOrUpdateModelCard(getPeftModel(base, loraConfig()), folder);
 * console.log(await Deno.readTextFile(`${folder}/README.md`)); // license: mit, library_name: peft …
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function createOrUpdateModelCard(
  model: PeftModel,
  folder: string | URL,
): Promise<void> {
  checkPeft(model);
  const names = [...model.active, ...model.adapters.keys()];
  const adapter = model.adapters.get(names[0]);
  if (!adapter) {
    throw new ValueError(
      "NO_ADAPTERS",
      "A model card is about an adapter, and the model has none. Add one with addAdapter or loadAdapter.",
    );
  }
  await writeFilesAtomic([await cardFile(pathOf(folder), pristineBase(model), adapter.config)]);
}

/** The card of a folder as a file to write. */
export async function cardFile(
  folder: string,
  base: ModelGraph,
  config: PeftConfig,
): Promise<GroupedFile> {
  const path = join(folder, ADAPTER_FILES.card);
  const existing = await exists(path) ? await readTextFile(path) : undefined;
  const { front, body } = split(existing ?? "");
  const data = parseFront(front, path);
  const baseModel = cardBaseName(config.baseModelNameOrPath || base.source || null, base.config);
  if (baseModel.id) data.set("base_model", baseModel.id);
  data.set("library_name", "peft");
  if (!data.get("pipeline_tag") && config.taskType === "CAUSAL_LM") {
    data.set("pipeline_tag", "text-generation");
  }
  const { id2label } = base.config;
  const isNamed = isObject(id2label) &&
    !Object.values(id2label).every((l) => /^LABEL_/.test(`${l}`));
  if (isNamed && taskFor(base).heads) data.set("id2label", id2label);
  const kept = tagsOf(data.toJS().tags).map(String).filter((tag) => !tag.startsWith(BASE_TAG));
  const own = [
    "transformers",
    ...(config.peftType === "LORA" ? ["lora"] : []),
    ...(baseModel.id ? [BASE_TAG + baseModel.id] : []),
  ];
  data.set("tags", [...new Set([...kept, ...own])].sort());
  const metadata = data.toString({ lineWidth: 0, indentSeq: false });
  const text = existing === undefined ? newBody(config, baseModel.shown) : body;
  const card = `---\n${metadata}---\n${withVersion(withQuantization(text, quantizationOf(base)))}`;
  return { path, write: (staged) => Deno.writeTextFile(staged, card) };
}

/**
 * Reads what the classes of an adapter are called, for `loadModel`: PEFT's config does not say it, so
 * the metadata of the card do, as `id2label`.
 *
 * @param folder The adapter's.
 * @returns The names in their order; none where the card names none.
 * @throws {FileError} `CARD_INVALID` where the metadata cannot be read.
 *
 * @example
 * ```ts
 * import { createModel, getPeftModel, loraConfig, readLabelNames, savePretrained } from "@graft/peft";
 * const base = await createModel({
 *   model_type: "bert", vocab_size: 96, hidden_size: 16, intermediate_size: 24,
 *   num_hidden_layers: 1, num_attention_heads: 2,
 * }, { device: "cpu", taskType: "SEQ_CLS", labelNames: ["ham", "spam"] });
 * using _device = base.device;
 * const folder = await Deno.makeTempDir();
 * await savePretrained(getPeftModel(base, loraConfig({ taskType: "SEQ_CLS" })), folder);
 * console.log(await readLabelNames(folder)); // ["ham", "spam"]
 * await Deno.remove(folder, { recursive: true });
 * ```
 */
export async function readLabelNames(folder: string | URL): Promise<string[] | undefined> {
  const path = join(pathOf(folder), ADAPTER_FILES.card);
  if (!await exists(path)) return undefined;
  const { id2label } = parseFront(split(await readTextFile(path)).front, path).toJS() ?? {};
  return isObject(id2label) ? Object.values(id2label).map(String) : undefined;
}

/** What comes before the name of the base in the tag by which the hub links an adapter to it. */
const BASE_TAG = "base_model:adapter:";

/** How many weights are stored in each block type, as GGUF calls it. */
function quantizationOf({ parameters }: ModelGraph): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const { dtype } of parameters.values()) {
    if (isBlockType(dtype)) counts.set(dtype, (counts.get(dtype) ?? 0) + 1);
  }
  return counts;
}

function newBody(config: PeftConfig, baseModel: string | null): string {
  return `\n# Adapter\n\nA ${config.peftType} adapter${
    baseModel ? ` for \`${baseModel}\`` : ""
  } in PEFT's format: \`adapter_config.json\` and \`adapter_model.safetensors\`.\n`;
}

function withQuantization(body: string, types: ReadonlyMap<string, number>): string {
  if (types.size === 0) return body;
  const intro = "The following `GGUF` quantization of the base was used during training:";
  const section = [
    intro,
    ...[...types].sort().map(([type, n]) =>
      `- ${type.toUpperCase()}: ${n} ${n === 1 ? "weight" : "weights"}`
    ),
  ];
  return withSection(body, { heading: "## Training procedure", section, unless: intro });
}

function withVersion(body: string): string {
  const line = `- PEFT ${PEFT_VERSION}`;
  return withSection(body, { heading: "### Framework versions", section: [line], unless: line });
}

/** A text with lines under a heading, or with both at its end, unless it has a line already. */
function withSection(
  body: string,
  of: { readonly heading: string; readonly section: readonly string[]; readonly unless: string },
): string {
  const { heading, section, unless } = of;
  const lines = body.trimEnd().split(/\r?\n/);
  if (lines.includes(unless)) return body;
  const at = lines.indexOf(heading);
  if (at < 0) return [...lines, "", heading, "", ...section].join("\n");
  const rest = lines.slice(at + 1);
  while (rest[0] === "") rest.shift();
  // Text that follows is a paragraph of its own; items of a list go on with it.
  const gap = rest.length && !rest[0].startsWith("- ") ? [""] : [];
  return [...lines.slice(0, at + 1), "", ...section, ...gap, ...rest].join("\n");
}

/** The text between the lines of dashes at the start of a card, and what follows. */
function split(text: string): { readonly front: string; readonly body: string } {
  const match = /^\uFEFF?---[ \t]*\r?\n([\s\S]*?\r?\n)??---[ \t]*(?:\r?\n|$)/.exec(text);
  return match
    ? { front: match[1] ?? "", body: text.slice(match[0].length) }
    : { front: "", body: text };
}

/** Metadata that keeps its order, its comments and its spelling. */
function parseFront(front: string, path: string): Document {
  const data = parseDocument(front.replaceAll("\r\n", "\n"));
  const reason = data.errors[0]?.message ??
    (data.contents && !isMap(data.contents) ? "they are no fields with values" : undefined) ??
    (tagsOf(data.toJS()?.tags).every(isPlain) ? undefined : "its tags are no list of texts");
  if (reason) {
    throw new FileError(
      "CARD_INVALID",
      `The metadata at the start of ${path}, between lines of ---, cannot be read as YAML: ${reason}. ` +
        "Correct or remove the file; nothing was written.",
      { path },
    );
  }
  return data.contents ? data : new Document({});
}

/** The tags of a card: a list, one alone, or none. */
function tagsOf(tags: unknown): readonly unknown[] {
  const list = Array.isArray(tags) ? tags : [tags];
  return list.filter((tag) => tag !== null && tag !== undefined);
}

function isPlain(tag: unknown): boolean {
  return typeof tag !== "object";
}
