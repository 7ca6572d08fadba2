/**
 * Rows of tasks with labels as tokens: texts with classes, words with tags, questions with answers,
 * texts with others to be written.
 *
 * @module
 */
import { resolve } from "node:path";
import { type EncodedRow, encodeInputs, type TextRow } from "../io/encode-inputs.ts";
import { isObject } from "../io/json.ts";
import { labelCount, labelNames } from "../model/label-count.ts";
import { readsImages } from "../model/model-graph.ts";
import { IGNORED_LABEL } from "../ops/cross-entropy.ts";
import { show } from "../options.ts";
import { problemOf } from "../tasks/seq-cls.ts";
import {
  ANSWER_COLUMNS,
  CLASS_COLUMNS,
  type ColumnNames,
  columnsOf,
  IMAGE_COLUMNS,
  PAIR_COLUMNS,
  REWRITE_COLUMNS,
  TAG_COLUMNS,
} from "./columns.ts";
import { areIndicators, classOf, listIn, numberIn } from "./labels.ts";
import type { DataRow } from "./read-table.ts";
import {
  type Columns,
  rowError,
  type RowOptions,
  type RowRule,
  type TokenizedExample,
} from "./row-rule.ts";

/** A rule whose rows are read column by column; `read` may look at all of them first. */
function columnRule(
  names: ColumnNames,
  read: (
    columns: Columns,
    rows: readonly DataRow[],
    options: RowOptions,
  ) => (row: DataRow, index: number) => readonly TokenizedExample[] | string,
): RowRule {
  return (rows, options) => {
    const columns = columnsOf(rows, names, options.columns), known = Object.values(columns);
    const exampleOf = read(columns, rows, options);
    return (row, index) => {
      for (const name of Object.keys(row)) {
        if (known.includes(name) || row[name] == null) continue;
        const text = (n: string) => `The field "${name}" of ${n} is not read.`;
        options.note(index, "UNKNOWN_FIELD", text, name);
      }
      const found = exampleOf(row, index);
      if (typeof found === "string") throw rowError(index, options, found);
      return found;
    };
  };
}

/** A row's texts as tokens; none where it is too long and left out. */
function encoded(
  texts: TextRow,
  { index, options }: { readonly index: number; readonly options: RowOptions },
): EncodedRow | undefined {
  const { tokenizer, maxLength, longRows } = options;
  const [whole] = encodeInputs([texts], { tokenizer });
  if (whole.inputIds.length <= maxLength) return whole;
  options.tooLong(index, "without what is beyond");
  return longRows === "cut" ? encodeInputs([texts], { tokenizer, maxLength })[0] : undefined;
}

/** The tokens of a row as a model takes them. */
function tokens(
  { inputIds, tokenTypeIds }: EncodedRow,
  { model }: RowOptions,
): Pick<TokenizedExample, "ids" | "tokenTypeIds"> {
  const inputs = model!.architecture.inputs?.(model!.config) ?? [];
  const takesTypes = inputs.some(({ name }) => name === "tokenTypeIds");
  return { ids: inputIds, ...takesTypes && { tokenTypeIds } };
}

/** The text of a column, or what is wrong with it. */
function textIn(row: DataRow, name: string): { readonly text: string } | string {
  const text = row[name];
  return typeof text === "string" ? { text } : `needs a text as "${name}"; found ${show(text)}`;
}

/** SEQ_CLS: one class, several labels or numbers for a text, for two, or for an image. */
export const classRows: RowRule = (rows, options) =>
  (readsImages(options.model!) ? imageRows : textRows)(rows, options);

/** The labels of rows, or what is wrong with them. */
function labelReader(
  columns: Columns,
  rows: readonly DataRow[],
  options: RowOptions,
): (row: DataRow) => readonly number[] | string {
  const { config } = options.model!, names = labelNames(config), count = labelCount(config);
  const lists = rows.map((row) => listIn(row[columns.label!]));
  const problem = problemOf(config, lists.some((list) => list) ? [[]] : []);
  const indicates = lists.every((list) => list) && areIndicators(lists as unknown[][]);
  return (row) => {
    const value = row[columns.label!], list = listIn(value);
    if (problem === "single_label_classification") {
      const found = classOf(value, names);
      return typeof found === "string" ? found : [found];
    }
    if (problem === "regression") {
      const numbers = (list ?? [value]).map(numberIn);
      return numbers.length === count && numbers.every((x) => x !== undefined)
        ? numbers
        : `needs ${count === 1 ? "a number" : `${count} numbers`} as "${columns.label}"; found ${
          show(value)
        }`;
    }
    if (indicates && lists[0]!.length === count) return list as number[];
    const own = (list ?? [value]).map((label) => classOf(label, names));
    return own.find((label) => typeof label === "string") ??
      names.map((_, label) => own.includes(label) ? 1 : 0);
  };
}

const imageRows: RowRule = columnRule(IMAGE_COLUMNS, (columns, rows, options) => {
  const labelsOf = labelReader(columns, rows, options), { folder = "." } = options;
  return (row) => {
    const given = row[columns.text!], labels = labelsOf(row);
    if (typeof labels === "string") return labels;
    // As in Parquet files of datasets, which hold the contents.
    const image = isObject(given) ? given.bytes ?? given.path : given;
    if (image instanceof Uint8Array) return [{ ids: [], image, labels, labelsOf: "row" }];
    if (typeof image !== "string") {
      return `needs the path of an image as "${columns.text}"; found ${show(given)}`;
    }
    return [{ ids: [], image: resolve(folder, image), labels, labelsOf: "row" }];
  };
});

const textRows: RowRule = columnRule(CLASS_COLUMNS, (columns, rows, options) => {
  const labelsOf = labelReader(columns, rows, options);
  return (row, index) => {
    const first = textIn(row, columns.text!);
    if (typeof first === "string") return first;
    const second = columns.pair === undefined ? undefined : textIn(row, columns.pair);
    if (typeof second === "string") return second;
    const labels = labelsOf(row);
    if (typeof labels === "string") return labels;
    const found = encoded({ text: first.text, pair: second?.text }, { index, options });
    return found ? [{ ...tokens(found, options), labels, labelsOf: "row" }] : [];
  };
});

/** TOKEN_CLS: a class for each word, which its first piece learns. */
export const taggedRows: RowRule = columnRule(TAG_COLUMNS, (columns, _, options) => {
  const names = labelNames(options.model!.config);
  // A further piece of an entity's first word is inside it.
  const inside = names.map((name, tag) => {
    const at = name.startsWith("B-") ? names.indexOf(`I-${name.slice(2)}`) : -1;
    return at < 0 ? tag : at;
  });
  return (row, index) => {
    const [words, given] = [columns.text!, columns.label!].map((name) => listIn(row[name], true));
    if (!words?.every((word) => typeof word === "string")) {
      return `needs a list of words as "${columns.text}"; found ${show(row[columns.text!])}`;
    }
    if (words.length !== given?.length) {
      return `has ${words.length} words as "${columns.text}" and ${
        given?.length ?? "no"
      } tags as "${columns.label}"`;
    }
    const tags = given.map((tag) => tag === IGNORED_LABEL ? tag : classOf(tag, names));
    const wrong = tags.find((tag) => typeof tag === "string");
    if (typeof wrong === "string") return wrong;
    const found = encoded({ text: words as string[] }, { index, options });
    if (!found) return [];
    const labels = found.wordIds.map((word, i) => {
      if (word === null) return IGNORED_LABEL;
      const tag = tags[word] as number;
      if (word !== found.wordIds[i - 1]) return tag;
      return options.labelAllTokens ? inside[tag] ?? tag : IGNORED_LABEL;
    });
    if (labels.every((label) => label === IGNORED_LABEL)) return [];
    return [{ ...tokens(found, options), labels }];
  };
});

/** FEATURE_EXTRACTION: texts that belong together, and one that does not. */
export const pairRows: RowRule = columnRule(PAIR_COLUMNS, (columns, _, options) => {
  const names = [columns.text!, columns.pair!, ...columns.negative ? [columns.negative] : []];
  return (row, index) => {
    const texts: TokenizedExample[] = [];
    for (const name of names) {
      const own = textIn(row, name);
      if (typeof own === "string") return own;
      const found = encoded(own.text, { index, options });
      if (!found) return [];
      texts.push({ ...tokens(found, options), labels: [], labelsOf: "none" });
    }
    return [{ ...texts[0], others: texts.slice(1) }];
  };
});

/** SEQ_2_SEQ_LM: a text, and the one that is to be written for it. */
export const rewrittenRows: RowRule = (rows, options) => {
  // Translations stand in one column, by language.
  const languages = isObject(rows[0]?.translation) ? Object.keys(rows[0].translation) : undefined;
  const [text, label] = languages ?? [];
  const columns = languages && { text, label, ...options.columns };
  const flat = languages
    ? rows.map(({ translation }) => isObject(translation) ? translation : {})
    : rows;
  const rule = columnRule(REWRITE_COLUMNS, (columns, _, options) => (row, index) => {
    const { tokenizer, sourcePrefix = "", appendEos = true } = options;
    const [source, target] = [columns.text!, columns.label!].map((name) => textIn(row, name));
    if (typeof source === "string") return source;
    if (typeof target === "string") return target;
    const found = encoded(sourcePrefix + source.text, { index, options });
    const own = encoded(target.text, {
      index,
      options: { ...options, maxLength: options.maxTargetLength ?? options.maxLength },
    });
    if (!found || !own) return [];
    const { inputIds: ids } = own, { eosId } = tokenizer;
    const ends = !appendEos || eosId === undefined || ids.includes(eosId);
    const labels = ends ? ids : [...ids, eosId];
    return labels.length
      ? [{ ...tokens(found, options), labels, labelsOf: "decoder", target: target.text }]
      : [];
  })(flat, { ...options, columns: columns ?? options.columns });
  return (_, index) => rule(flat[index], index);
};

/**
 * QUESTION_ANS: where in a context the answer is. Long contexts become windows; in those without it
 * the answer is the token that stands for none: the tokenizer's `cls_token`, or the first.
 */
export const answerRows: RowRule = columnRule(ANSWER_COLUMNS, (columns, _, options) => {
  const { tokenizer, maxLength, stride = Math.floor(maxLength / 3) } = options;
  const nothing = tokenizer.tokenToId(String(tokenizer.files.config.cls_token)) ?? tokenizer.bosId;
  return (row, index) => {
    const [question, context] = [columns.text!, columns.pair!].map((name) => textIn(row, name));
    if (typeof question === "string") return question;
    if (typeof context === "string") return context;
    const answers = answersIn(row[columns.label!], context.text);
    if (typeof answers === "string") return answers;
    const texts = { text: question.text.trimStart(), pair: context.text };
    const limits = { maxLength, truncation: "only_second", stride } as const;
    const windows = encodeInputs([texts], {
      tokenizer,
      ...maxLength === Infinity ? {} : limits,
    });
    if (windows.length > 1) {
      if (options.longRows !== "cut") {
        options.tooLong(index, "");
        return [];
      }
      options.tooLong(index, `cut into windows that share ${stride}`);
    }
    return windows.map((window) => {
      const offsets = window.offsets.map((span, i) => window.sequenceIds[i] === 1 ? span : null);
      const none = Math.max(0, window.inputIds.indexOf(nothing ?? -1));
      return {
        ...tokens(window, options),
        labels: spanOf(answers[0], offsets) ?? [none, none],
        labelsOf: "span",
        window: {
          row: index,
          context: context.text,
          offsets,
          none,
          answers: answers.map(({ text }) => text),
        },
      };
    });
  };
});

interface Answer {
  readonly text: string;
  readonly start: number;
  readonly end: number;
}

/** The answers of a row, with their places in UTF-16; data count characters. */
function answersIn(given: unknown, context: string): readonly Answer[] | string {
  const form = 'needs answers as {"text": [..], "answer_start": [..]}, or a list of such';
  const value = typeof given === "string" ? parsed(given) : given;
  const list = Array.isArray(value) ? value : [value];
  if (!list.every(isObject)) return `${form}; found ${show(given)}`;
  const texts = list.flatMap(({ text }) => text), starts = list.flatMap((one) => one.answer_start);
  if (texts.length !== starts.length) {
    return `has ${texts.length} answers and ${starts.length} starts of answers`;
  }
  const answers: Answer[] = [];
  for (const [i, text] of texts.entries()) {
    const at = starts[i];
    if (typeof text !== "string" || !Number.isInteger(at)) return `${form}; found ${show(text)}`;
    const start = [...context].slice(0, at as number).join("").length, end = start + text.length;
    if (context.slice(start, end) !== text) {
      const found = JSON.stringify(context.slice(start, end));
      return `has the answer ${JSON.stringify(text)} at ${at}, where its context has ${found}`;
    }
    answers.push({ text, start, end });
  }
  return answers;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** First and last token of an answer, where a window holds all of it. */
function spanOf(
  answer: Answer | undefined,
  offsets: readonly (readonly [number, number] | null)[],
): readonly [number, number] | undefined {
  if (!answer) return undefined;
  const first = offsets.findLastIndex((span) => span && span[0] <= answer.start);
  const last = offsets.findIndex((span) => span && span[1] >= answer.end);
  const begins = offsets.find((span) => span)?.[0] ?? Infinity;
  return first >= 0 && last >= 0 && begins <= answer.start && first <= last
    ? [first, last]
    : undefined;
}
