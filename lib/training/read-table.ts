/**
 * Reading rows of data from files: JSON lines, JSON, CSV, TSV, Parquet.
 *
 * @module
 */
import type { SchemaTree } from "hyparquet";
import { FileError, TrainingError } from "../errors.ts";
import { openByteSource, wrap } from "../io/byte-source.ts";
import { decodeText, isObject, type JsonObject, parseJson } from "../io/json.ts";

/** One row of a data set: what it holds by the names of the columns. */
export type DataRow = JsonObject;

/** Rows of data. */
export interface DataTable {
  /** The rows in their order. */
  readonly rows: readonly DataRow[];
  /** The classes of columns in their order, where the file says them; rows then hold their names. */
  readonly classNames: Readonly<Record<string, readonly string[]>>;
}

// Libraries are loaded with the first file that needs them.
type Reader = (bytes: Uint8Array, name: string) => Promise<DataTable>;

const READERS: Readonly<Record<string, Reader>> = {
  json: text(jsonRows),
  csv: text((text, name) => separatedRows(text, name, /^[^,\n]*;/.test(text) ? ";" : ",")),
  tsv: text((text, name) => separatedRows(text, name, "\t")),
  parquet: parquetTable,
};

function text(
  read: (text: string, name: string) => readonly DataRow[] | Promise<readonly DataRow[]>,
): Reader {
  return async (bytes, name) => ({
    rows: await read(decodeText(bytes, name), name),
    classNames: {},
  });
}

/**
 * Reads a file of rows. Its format follows from the end of its name: `.json` (a list of objects, an
 * object with such a list as `data`, or SQuAD's articles), `.csv` and `.tsv` with a first line of
 * names, `.parquet`; all others hold a JSON object in each line. Cells of CSV are texts, and null
 * where they are empty.
 *
 * @param path The file.
 * @throws {FileError} `DATA_LINE` for a line that cannot be read; `DATA_FILE` for a file that is not
 * what its name says; `FILE_NOT_FOUND`.
 * @throws {TrainingError} `DATASET_EMPTY` where there is no row.
 *
 * @example
 * ```ts
 * import { readTable } from "@graft/peft";
 * const path = await Deno.makeTempFile({ suffix: ".csv" });
 * await Deno.writeTextFile(path, "text,label\nWin a prize!,spam\n");
 * console.log((await readTable(path)).rows); // [{ text: "Win a prize!", label: "spam" }]
 * await Deno.remove(path);
 * ```
 */
export async function readTable(path: string): Promise<DataTable> {
  const source = await openByteSource(path);
  const bytes = await source.read(0, source.size);
  const ending = /\.([^./\\]+)$/.exec(path)?.[1].toLowerCase() ?? "";
  const table = await (READERS[ending] ?? text((all, name) => jsonLines(all, name)))(bytes, path);
  if (table.rows.length) return table;
  throw noRow(path);
}

/** The error for a file without rows. */
export function noRow(name: string): TrainingError {
  const message = `${name} holds no example: it has no line with data.`;
  return new TrainingError("DATASET_EMPTY", message, { name });
}

/** Rows of JSON lines; empty lines are skipped. `problemOf` says what is wrong with one. */
export function jsonLines(
  text: string,
  name: string,
  problemOf: (value: unknown) => string | undefined = (value) =>
    isObject(value) ? undefined : "holds no JSON object",
): JsonObject[] {
  return text.replace(/^\ufeff/, "").split(/\r?\n/).flatMap((line, i) => {
    if (line.trim() === "") return [];
    const fail = (problem: string) => lineError(i + 1, name, problem);
    let value: unknown;
    try {
      ({ value } = parseJson(line, "it"));
    } catch (cause) {
      throw fail(`cannot be read: ${(cause as Error).message}`);
    }
    const problem = problemOf(value);
    if (problem !== undefined) throw fail(problem);
    return [value as JsonObject];
  });
}

/** The error for a line that cannot be used. */
export function lineError(line: number, name: string, problem: string): FileError {
  return new FileError("DATA_LINE", `Line ${line} of ${name} ${problem}.`, { name, line });
}

function jsonRows(text: string, name: string): readonly JsonObject[] {
  const { value } = parseJson(text.replace(/^\ufeff/, ""), name);
  const list = isObject(value) ? value.data : value;
  if (!Array.isArray(list) || !list.every(isObject)) {
    throw refuse(name, "a list of objects, alone or as data");
  }
  return list.flatMap((row) => Array.isArray(row.paragraphs) ? articleRows(row, name) : [row]);
}

/** The questions of one of SQuAD's articles. */
function articleRows({ title, paragraphs }: JsonObject, name: string): readonly JsonObject[] {
  return (paragraphs as unknown[]).flatMap((paragraph) => {
    if (!isObject(paragraph) || !Array.isArray(paragraph.qas)) {
      throw refuse(name, "paragraphs with a context and qas");
    }
    return paragraph.qas.map((qa) => ({ title, context: paragraph.context, ...qa }));
  });
}

async function separatedRows(
  text: string,
  name: string,
  delimiter: string,
): Promise<readonly DataRow[]> {
  const { parse } = await import("csv-parse/sync");
  try {
    return parse(text, {
      bom: true,
      delimiter,
      record_delimiter: ["\r\n", "\n", "\r"],
      skip_empty_lines: true,
      columns(header: string[]) {
        const odd = header.find((column, i) => column === "" || header.indexOf(column) !== i);
        if (odd === undefined) return header;
        throw lineError(1, name, `names a column ${odd ? `${odd} twice` : "by an empty text"}`);
      },
      cast: (cell, { header }) => cell === "" && !header ? null : cell,
    });
  } catch (cause) {
    if (!(cause instanceof Error) || cause instanceof FileError) throw cause;
    const { lines } = cause as { lines?: number };
    throw lineError(lines ?? 1, name, `cannot be read: ${cause.message.replace(/\.$/, "")}`);
  }
}

async function parquetTable(bytes: Uint8Array, name: string): Promise<DataTable> {
  const { parquetMetadata, parquetReadObjects, parquetSchema } = await import("hyparquet");
  const { compressors } = await import("hyparquet-compressors");
  const file = new Uint8Array(bytes).buffer;
  try {
    const metadata = parquetMetadata(file), columns = leavesOf(parquetSchema(metadata)).sort();
    // The reader waits for columns of the schema alone; others would fail with nobody to hear it.
    const strange = metadata.row_groups.find(({ columns: own }) =>
      own.map(({ meta_data }) => meta_data?.path_in_schema.join(".")).sort().join() !==
        columns.join()
    );
    if (strange) throw refuse(name, "row groups with the columns of its schema");
    const rows = await parquetReadObjects({ file, metadata, compressors });
    const noted = metadata.key_value_metadata?.find(({ key }) => key === "huggingface")?.value;
    const classNames = noted ? classNamesIn(noted) : {};
    return { rows: rows.map((row) => withNames(plain(row) as DataRow, classNames)), classNames };
  } catch (cause) {
    if (cause instanceof FileError) throw cause;
    throw wrap(cause, "DATA_FILE", `${name} cannot be read as Parquet`, { name });
  }
}

/** The paths of a schema's columns. */
function leavesOf({ children, path }: SchemaTree): string[] {
  return children.length ? children.flatMap(leavesOf) : [path.join(".")];
}

/** Numbers of 64 bits as numbers, all through a value. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") return Number(value);
  if (ArrayBuffer.isView(value)) return value;
  if (Array.isArray(value)) return value.map(plain);
  if (!isObject(value) || Object.getPrototypeOf(value) !== Object.prototype) return value;
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, plain(field)]));
}

function withNames(row: DataRow, classNames: DataTable["classNames"]): DataRow {
  const named = (value: unknown, names: readonly string[]): unknown =>
    Array.isArray(value) ? value.map((one) => named(one, names)) : names[value as number] ?? value;
  const columns = Object.entries(classNames).filter(([column]) => column in row)
    .map(([column, names]) => [column, named(row[column], names)]);
  return { ...row, ...Object.fromEntries(columns) };
}

/** The names of classes as Hugging Face's datasets note them in a file. */
function classNamesIn(noted: string): DataTable["classNames"] {
  const { value } = parseJson(noted, "The note of its features");
  const info = isObject(value) && isObject(value.info) ? value.info : {};
  const names = (feature: unknown): readonly string[] =>
    isObject(feature) ? feature.names as string[] ?? names(feature.feature) : [];
  return Object.fromEntries(
    Object.entries(isObject(info.features) ? info.features : {})
      .map(([column, feature]) => [column, names(feature)] as const)
      .filter(([, found]) => Array.isArray(found) && found.length),
  );
}

function refuse(name: string, must: string): FileError {
  return new FileError("DATA_FILE", `${name} needs ${must}.`, { name });
}
