/**
 * What is noticed about rows of data.
 *
 * @module
 */

/** Something about rows that their author may not expect. */
export interface DataNote {
  /**
   * `UNKNOWN_FIELD`, `TWO_FORMS`, `EMPTY`, `NOTHING_TO_LEARN`, `TOO_LONG`, `SPLIT_CHAT`,
   * `TOKEN_ACROSS` or `OTHER_PROMPT`.
   */
  readonly code: string;
  /** In a sentence. */
  readonly message: string;
  /** How many rows it is about. */
  readonly count: number;
  /** The numbers of those rows, from 0. */
  readonly rows: readonly number[];
}

/**
 * Notes something about a row.
 *
 * @param row Its number, from 0.
 * @param text Says it of rows that are named so.
 * @param about Tells notes of one code apart.
 */
export type TakeNote = (
  row: number,
  code: string,
  text: (rows: string) => string,
  about?: string,
) => void;

/** Takes notes and puts those about the same thing together. */
export function createNotes(): { readonly note: TakeNote; all(): DataNote[] } {
  const notes = new Map<string, { code: string; rows: number[]; text: (n: string) => string }>();
  return {
    note(row, code, text, about = code) {
      const known = notes.get(about) ?? { code, rows: [], text };
      if (known.rows.at(-1) !== row) known.rows.push(row);
      notes.set(about, known);
    },
    all: () =>
      Array.from(notes.values(), ({ code, rows, text }) => ({
        code,
        message: text(named(rows)),
        count: rows.length,
        rows,
      })),
  };
}

/** Rows by their numbers, from 1: "Row 3", "3 rows (1, 5, 6)". */
function named(rows: readonly number[]): string {
  if (rows.length === 1) return `Row ${rows[0] + 1}`;
  const first = rows.slice(0, 5).map((row) => row + 1);
  return `${rows.length} rows (${first.join(", ")}${rows.length > 5 ? ", …" : ""})`;
}
