/**
 * The labels of rows, and what they are called.
 *
 * @module
 */
import { nearestHint } from "../errors.ts";
import { parseJson } from "../io/json.ts";
import type { ProblemType } from "../model/label-count.ts";
import { BOOLEAN, checkOptions, oneOf } from "../options.ts";
import { CLASS_COLUMNS, columnsOf, IMAGE_COLUMNS, TAG_COLUMNS } from "./columns.ts";
import type { DataTable } from "./read-table.ts";
import type { Columns } from "./row-rule.ts";

/** What the labels of a data set are, for `loadModel`. */
export interface LabelSet {
  /** What classes are called, in their order; one name where a number is to be predicted. */
  readonly labelNames: readonly string[];
  /** What kind of labels there are. */
  readonly problemType?: ProblemType;
}

/**
 * Finds out what labels there are in data: for texts (SEQ_CLS) one class each, several labels
 * (lists), or numbers, which are such as have fractions; for words (TOKEN_CLS) a class each. Classes
 * that are names are sorted; those that are numbers are called LABEL_0, LABEL_1 … unless the file
 * names them.
 *
 * @param table From {@link readTable}.
 * @param options For what task, and which columns hold what.
 * @throws {ValueError} `DATA_COLUMNS` where there is no column of labels.
 *
 * @example
 * ```ts
 * import { labelsIn } from "@graft/peft";
 * const rows = [{ text: "a", label: "spam" }, { text: "b", label: "ham" }];
 * const { labelNames } = labelsIn({ rows, classNames: {} }, { taskType: "SEQ_CLS" });
 * console.log(labelNames); // ["ham", "spam"], for loadModel("…", { taskType: "SEQ_CLS", labelNames })
 * ```
 */
export function labelsIn(
  { rows, classNames }: DataTable,
  options: {
    readonly taskType: "SEQ_CLS" | "TOKEN_CLS";
    readonly columns?: Columns;
    /** Whether rows are images, which have columns of other names. */
    readonly images?: boolean;
  },
): LabelSet {
  const rules = { taskType: oneOf(["SEQ_CLS", "TOKEN_CLS"]), columns: null, images: BOOLEAN };
  checkOptions(options, rules, { code: "DATA_OPTION", of: "labelsIn" });
  const isTags = options.taskType === "TOKEN_CLS";
  const names = isTags ? TAG_COLUMNS : options.images ? IMAGE_COLUMNS : CLASS_COLUMNS;
  const { label = "" } = columnsOf(rows, names, options.columns);
  const found: readonly unknown[] = rows.map((row) => row[label])
    .filter((value) => value != null).map((value) => listIn(value, isTags) ?? value);
  const isTable = !isTags && found.some(Array.isArray);
  const values = found.flat();
  const problemType = isTable ? { problemType: "multi_label_classification" as const } : {};
  if (classNames[label]) return { labelNames: classNames[label], ...problemType };
  const numbers = values.map(numberIn);
  if (numbers.every((x) => x !== undefined)) {
    if (!isTags && !isTable && !numbers.every(Number.isInteger)) {
      return { labelNames: ["LABEL_0"], problemType: "regression" };
    }
    const lists = found as readonly (readonly unknown[])[];
    const count = isTable && areIndicators(lists)
      ? lists[0].length
      : numbers.reduce((most, x) => Math.max(most, x! + 1), 0);
    return { labelNames: Array.from({ length: count }, (_, i) => `LABEL_${i}`), ...problemType };
  }
  return { labelNames: [...new Set(values.map(String))].sort(), ...problemType };
}

/** A list, also one that is written as JSON or, of words, between spaces. */
export function listIn(value: unknown, words = false): readonly unknown[] | undefined {
  if (Array.isArray(value)) return value;
  if (typeof value !== "string") return undefined;
  if (value.trimStart().startsWith("[")) {
    try {
      const { value: list } = parseJson(value, "it");
      if (Array.isArray(list)) return list;
    } catch {
      return undefined;
    }
  }
  return words ? value.split(/\s+/).filter((word) => word !== "") : undefined;
}

/** A number, also one that is written as text. */
export function numberIn(value: unknown): number | undefined {
  const number = typeof value === "string" && value.trim() !== "" ? Number(value) : value;
  return typeof number === "number" && Number.isFinite(number) ? number : undefined;
}

/** Whether lists hold 1 for each label that a row has and 0 for the others. */
export function areIndicators(lists: readonly (readonly unknown[])[]): boolean {
  return lists.every((list) =>
    list.length === lists[0].length && list.length > 1 &&
    list.every((x) => x === 0 || x === 1)
  );
}

/** The class that a label means by its name or its number, or what is wrong with it. */
export function classOf(value: unknown, names: readonly string[]): number | string {
  const number = numberIn(value), named = names.indexOf(String(value));
  if (typeof value !== "number" && named >= 0) return named;
  if (Number.isInteger(number) && number! >= 0 && number! < names.length) return number!;
  const listed = names.slice(0, 10).join(", ") + (names.length > 10 ? ", …" : "");
  const hint = number === undefined ? nearestHint(value, names) : "";
  return `has the label ${
    JSON.stringify(value)
  }${hint}, and the model has ${names.length} classes, ${
    number === undefined ? listed : `from 0 to ${names.length - 1}`
  }`;
}
