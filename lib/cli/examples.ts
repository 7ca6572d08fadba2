/**
 * Reads examples, says what is noticed about them, and shows them.
 *
 * @module
 */
import { type Command, Option } from "commander";
import { maxPositionsOf } from "../generation/prompt.ts";
import { createDecodeStream } from "../io/decode-stream.ts";
import { tokenizerOf } from "../io/model-tokenizer.ts";
import type { Tokenizer } from "../io/tokenizer.ts";
import type { ModelGraph } from "../model/model-graph.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { wholeFrom } from "../options.ts";
import { readJsonl } from "../training/examples.ts";
import { LONG_ROWS, type LongRows, type TokenizedExample } from "../training/row-rule.ts";
import { tokenizeData, type TokenizedData } from "../training/tokenize.ts";
import type { CliContext } from "./context.ts";
import { counted } from "./format.ts";
import { numeric } from "./options.ts";

/** What decides how examples are read. */
export interface ExampleFlags {
  readonly maxLength: number;
  readonly longRows: LongRows;
  readonly showExample?: number;
}

/** Adds the options of {@link ExampleFlags}. */
export function addExampleOptions(command: Command): Command {
  return command
    .option("--max-length <n>", "tokens in a row at most", numeric(wholeFrom(2)), 512)
    .addOption(
      new Option("--long-rows <fate>", "what becomes of examples that are longer")
        .choices(LONG_ROWS).default("cut"),
    )
    .option(
      "--show-example <n>",
      "print the first n examples, with what is learned",
      numeric(wholeFrom(1)),
    );
}

/** Reads a file of examples for a model; notes and, where asked for, examples are written. */
export async function readExamples(
  model: ModelGraph,
  file: string,
  { flags, context }: { readonly flags: ExampleFlags; readonly context: CliContext },
): Promise<TokenizedData> {
  const tokenizer = await tokenizerOf(model);
  const maxLength = Math.min(flags.maxLength, maxPositionsOf(model));
  const data = tokenizeData(await readJsonl(file), {
    tokenizer,
    maxLength,
    longRows: flags.longRows,
  });
  for (const { message } of data.notes) context.err(`${file}: ${message}\n`);
  for (const [i, example] of data.examples.slice(0, flags.showExample ?? 0).entries()) {
    const learned = example.labels.filter((label) => label !== IGNORED_LABEL).length;
    const head = `example ${i + 1}: ${counted(example.ids.length, "token")}, ${learned} learned`;
    context.out(`${head}\n${showExample(example, tokenizer, context)}\n\n`);
  }
  return data;
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
