/**
 * Which columns of a data set hold what.
 *
 * @module
 */
import { nearestHint, ValueError } from "../errors.ts";
import { checkOptions, TEXT } from "../options.ts";
import type { DataRow } from "./read-table.ts";
import type { Columns } from "./row-rule.ts";

type Role = keyof Columns;

/** What a task's columns are usually called. */
export interface ColumnNames {
  /** What must be there. */
  readonly needs: readonly Role[];
  /** Names that go together; the first of which all are there count. */
  readonly forms: readonly Columns[];
  /** What a column of labels is called, where forms do not say. */
  readonly labels?: readonly string[];
}

const PAIRS: readonly Columns[] = [
  ["text", "text_pair"],
  ["sentence1", "sentence2"],
  ["premise", "hypothesis"],
  ["question1", "question2"],
  ["question", "sentence"],
].map(([text, pair]) => ({ text, pair }));

/** Columns of SEQ_CLS. */
export const CLASS_COLUMNS: ColumnNames = {
  needs: ["text", "label"],
  forms: [...PAIRS, ...["text", "sentence", "content", "review"].map((text) => ({ text }))],
  labels: ["label", "labels", "class", "target", "category", "score"],
};

/** Columns of SEQ_CLS where rows are images. */
export const IMAGE_COLUMNS: ColumnNames = {
  ...CLASS_COLUMNS,
  forms: ["image", "image_path", "file_name", "path"].map((text) => ({ text })),
};

/** Columns of TOKEN_CLS. */
export const TAG_COLUMNS: ColumnNames = {
  needs: ["text", "label"],
  forms: [{ text: "tokens" }, { text: "words" }],
  labels: ["ner_tags", "tags", "labels", "pos_tags"],
};

/** Columns of QUESTION_ANS. */
export const ANSWER_COLUMNS: ColumnNames = {
  needs: ["text", "pair", "label"],
  forms: [{ text: "question", pair: "context" }],
  labels: ["answers"],
};

/** Columns of SEQ_2_SEQ_LM. */
export const REWRITE_COLUMNS: ColumnNames = {
  needs: ["text", "label"],
  forms: [
    ["source", "target"],
    ["document", "summary"],
    ["article", "highlights"],
    ["dialogue", "summary"],
    ["text", "summary"],
    ["prompt", "completion"],
    ["input", "output"],
    ["question", "answer"],
  ].map(([text, label]) => ({ text, label })),
};

/** Columns of FEATURE_EXTRACTION. */
export const PAIR_COLUMNS: ColumnNames = {
  needs: ["text", "pair"],
  forms: [
    { text: "anchor", pair: "positive", negative: "negative" },
    { text: "query", pair: "positive", negative: "negative" },
    { text: "query", pair: "passage" },
    { text: "question", pair: "answer" },
    ...PAIRS,
  ],
};

const ROLES: readonly Role[] = ["text", "pair", "label", "negative"];

/**
 * Finds the columns of a task.
 *
 * @param rows The rows.
 * @param names What the columns are usually called.
 * @param given Those that a caller names.
 * @returns The names by what the columns hold.
 * @throws {ValueError} `DATA_COLUMNS` for one that is not there, and where there is no usual one.
 */
export function columnsOf(
  rows: readonly DataRow[],
  { needs, forms, labels = [] }: ColumnNames,
  given: Columns = {},
): Columns {
  const rules = { text: TEXT, pair: TEXT, label: TEXT, negative: TEXT };
  checkOptions(given, rules, { code: "DATA_OPTION", of: "columns" });
  const there = new Set(rows.flatMap((row) => Object.keys(row)));
  const list = `The data has ${[...there].join(", ") || "none"}.`;
  for (const name of Object.values(given)) {
    if (name === undefined || there.has(name)) continue;
    throw new ValueError(
      "DATA_COLUMNS",
      `There is no column "${name}"${nearestHint(name, there)}. ${list}`,
      { name, columns: [...there] },
    );
  }
  for (const form of forms) {
    // A second text that is only usual does not belong to a text that a caller named.
    const usual = { label: labels.find((name) => there.has(name)), ...form };
    const roles = ROLES.filter((role) => given.text === undefined || needs.includes(role));
    const found: Columns = Object.fromEntries(
      ROLES.map((role) => [role, given[role] ?? (roles.includes(role) ? usual[role] : undefined)])
        .filter(([role, name]) => name && (role !== "negative" || there.has(name))),
    );
    const isThere = Object.values(found).every((name) => there.has(name));
    if (isThere && needs.every((role) => found[role])) return found;
  }
  const known = forms.map((form) => ROLES.flatMap((role) => form[role] ?? []).join(" and "));
  throw new ValueError(
    "DATA_COLUMNS",
    `It cannot be told which columns hold the ${needs.join(" and the ")}. ${list} Usual are ${
      known.join("; ")
    }${labels.length ? `; for labels ${labels.join(" or ")}` : ""}. Name others as columns.`,
    { columns: [...there] },
  );
}
