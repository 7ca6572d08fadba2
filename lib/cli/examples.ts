/**
 * Reads examples, says what is noticed about them, and shows them.
 *
 * @module
 */
import { dirname } from "node:path";
import { type Command, Option } from "commander";
import { maxPositionsOf } from "../generation/prompt.ts";
import { createDecodeStream } from "../io/decode-stream.ts";
import { tokenizerOf } from "../io/model-tokenizer.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import { labelNames } from "../model/label-count.ts";
import { type ModelGraph, readsImages } from "../model/model-graph.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { wholeFrom } from "../options.ts";
import type { DataTable } from "../training/read-table.ts";
import {
  type Columns,
  LONG_ROWS,
  type LongRows,
  type TokenizedExample,
  type TokenizeOptions,
} from "../training/row-rule.ts";
import { tokenizeData, type TokenizedData } from "../training/tokenize.ts";
import type { CliContext } from "./context.ts";
import { counted } from "./format.ts";
import { numeric } from "./options.ts";

/** What decides how examples are read. */
export interface ExampleFlags
  extends Pick<TokenizeOptions, "stride" | "labelAllTokens" | "sourcePrefix" | "maxTargetLength"> {
  readonly maxLength: number;
  readonly longRows: LongRows;
  readonly showExample?: number;
  readonly textColumn?: string;
  readonly pairColumn?: string;
  readonly labelColumn?: string;
}

/** Adds the options of {@link ExampleFlags}. */
export function addExampleOptions(command: Command): Command {
  return command
    .option("--max-length <n>", "tokens in a row at most", numeric(wholeFrom(2)), 512)
    .addOption(
      new Option("--long-rows <fate>", "what becomes of examples that are longer")
        .choices(LONG_ROWS).default("cut"),
    )
    .option("--text-column <name>", "column of texts, words, questions or sources")
    .option("--pair-column <name>", "column of second texts or contexts")
    .option("--label-column <name>", "column of labels, tags, answers or targets")
    .option("--stride <n>", "tokens that windows on a context share", numeric(wholeFrom(0)))
    .option("--label-all-tokens", "all pieces of a word learn its tag, not the first alone")
    .option("--source-prefix <text>", "what stands before each text to be rewritten")
    .option(
      "--max-target-length <n>",
      "tokens of what is to be written at most",
      numeric(wholeFrom(2)),
    )
    .option(
      "--show-example <n>",
      "print the first n examples, with what is learned",
      numeric(wholeFrom(1)),
    );
}

/** The columns that options name. */
export function columnsIn({ textColumn, pairColumn, labelColumn }: ExampleFlags): Columns {
  return { text: textColumn, pair: pairColumn, label: labelColumn };
}

/** Makes examples of rows for a model; notes and, where asked for, examples are written. */
export async function readExamples(
  model: ModelGraph,
  { rows }: DataTable,
  { flags, context }: {
    readonly flags: ExampleFlags & { readonly name: string };
    readonly context: CliContext;
  },
): Promise<TokenizedData> {
  const { name, longRows, stride, labelAllTokens, sourcePrefix, maxTargetLength } = flags;
  const tokenizer = readsImages(model) ? undefined : await tokenizerOf(model);
  const data = tokenizeData(rows, {
    folder: dirname(name),
    ...{ tokenizer, model, name, longRows, stride, labelAllTokens, sourcePrefix, maxTargetLength },
    columns: columnsIn(flags),
    maxLength: Math.min(flags.maxLength, maxPositionsOf(model)),
  });
  for (const { message } of data.notes) context.err(`${name}: ${message}\n`);
  for (const [i, example] of data.examples.slice(0, flags.showExample ?? 0).entries()) {
    if (example.image) {
      const path = typeof example.image === "string" ? example.image : "an image";
      context.out(`example ${i + 1}: ${path}${labelOf(example, model)}\n\n`);
      continue;
    }
    const head = `example ${i + 1}: ${counted(example.ids.length, "token")}`;
    context.out(`${head}${showLabels(example, { model, tokenizer: tokenizer!, context })}\n\n`);
  }
  return data;
}

/** The class, the labels or the number that a row learns. */
function labelOf({ labels }: TokenizedExample, { config }: ModelGraph): string {
  const names = labelNames(config);
  const several = labels.flatMap((is, label) => is === 1 ? [names[label]] : []).join(", ");
  const one = names.length === 1 ? String(labels[0]) : names[labels[0]];
  return ` → ${labels.length > 1 ? several : one}`;
}

/** What an example learns, behind the number of its tokens. */
function showLabels(
  example: TokenizedExample,
  { model, tokenizer, context }: {
    readonly model: ModelGraph;
    readonly tokenizer: Tokenizer;
    readonly context: CliContext;
  },
): string {
  const { ids, labels, labelsOf = "tokens" } = example;
  const show = (ids: readonly number[], learned: readonly number[]) =>
    showExample({ ids, labels: learned }, tokenizer, context);
  const count = labels.filter((label) => label !== IGNORED_LABEL).length;
  const given = ids.map(() => IGNORED_LABEL), names = labelNames(model.config);
  switch (labelsOf) {
    case "tokens":
      if (model.taskType !== "TOKEN_CLS") return `, ${count} learned\n${show(ids, labels)}`;
      return `, ${count} learned\n` + ids.map((id, i) => {
        const text = tokenizer.decode([id]);
        return labels[i] === IGNORED_LABEL ? text : `${text}/${names[labels[i]]}`;
      }).join(" ");
    case "row":
      return `\n${show(ids, given)}${labelOf(example, model)}`;
    case "decoder":
      return `, ${count} learned\n${show(ids, given)} → ${show(labels, labels)}`;
    case "none":
      return [example, ...example.others ?? []].map(({ ids }) =>
        `\n${show(ids, ids.map(() => IGNORED_LABEL))}`
      ).join("");
    case "span":
      return `\n${show(ids, ids.map((id, i) => i >= labels[0] && i <= labels[1] ? id : -100))}`;
  }
}

/** The text of an example; what is learned stands in ⟦ ⟧, or in colour. */
export function showExample(
  { ids, labels }: TokenizedExample,
  tokenizer: Tokenizer,
  { color = false }: { readonly color?: boolean } = {},
): string {
  const [begin, end] = color ? ["\x1b[1;32m", "\x1b[0m"] : ["⟦", "⟧"];
  const stream = createDecodeStream(tokenizer);
  let text = "", inside = false;
  const switchTo = (learned: boolean) => {
    if (learned !== inside) text += learned ? begin : end;
    inside = learned;
  };
  ids.forEach((id, i) => {
    const piece = stream.push(id) + (i === ids.length - 1 ? stream.flush() : "");
    // A character that several tokens spell belongs to the last of them.
    if (piece !== "") switchTo(labels[i] !== IGNORED_LABEL);
    text += piece;
  });
  switchTo(false);
  return text;
}
