/**
 * Python's values as Jinja templates see them: how they print, compare, and are taken apart.
 *
 * @module
 */

/** What Python's `str` takes for white space, as a part of a pattern. */
export const SPACE = String
  .raw`[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]`;

/** What a template could not do, and where. */
export class TemplateError extends Error {
  /**
   * @param reason What went wrong.
   * @param expression The part of the template, where it is known.
   * @param item Which of the messages a loop was at, from 0.
   */
  constructor(readonly reason: string, readonly expression?: string, readonly item?: number) {
    super(expression === undefined ? reason : `${reason}, in "${expression}"`);
  }
}

/** A number that Python prints with a point. */
export class Float {
  constructor(readonly value: number) {}
}

/** A tuple, whose items may have names too. */
export class Tuple {
  constructor(readonly items: readonly Value[], readonly names: readonly string[] = []) {}
}

/** What is not there; using it as a value is an error that says what was missing. */
export class Undefined {
  constructor(readonly message: string) {}
}

/** Arguments by name. */
export type Keywords = ReadonlyMap<string, Value>;

/** A function, a method or a macro. */
export class Callable {
  constructor(
    readonly name: string,
    readonly call: (args: readonly Value[], keywords: Keywords) => Value,
  ) {}
}

/** What `namespace()` makes. */
export class Namespace {
  constructor(readonly attributes: Map<string, Value>) {}
}

/** A `range`, or what a dict's `keys()`, `values()` and `items()` give. */
export class View {
  constructor(readonly label: string, readonly items: readonly Value[]) {}
}

/** What `map` and `select` give: it can be gone through once, and has no length. */
export class Generator {
  constructor(private items: readonly Value[]) {}
  /** The items; none the second time. */
  take(): readonly Value[] {
    const { items } = this;
    this.items = [];
    return items;
  }
}

/** Something with attributes, such as `loop`. */
export class Attributes {
  constructor(
    readonly name: string,
    readonly attributes: ReadonlyMap<string, Value>,
    readonly callable?: Callable,
  ) {}
}

/** A dict. */
export type Dict = ReadonlyMap<Value, Value>;

/** A value; JavaScript's numbers stand for Python's `int`. */
export type Value =
  | null
  | boolean
  | number
  | string
  | readonly Value[]
  | Float
  | Tuple
  | Undefined
  | Callable
  | Namespace
  | View
  | Generator
  | Attributes
  | Dict;

/** Python's value of what JSON can hold. */
export function fromJson(value: unknown): Value {
  if (value === null || typeof value === "boolean" || typeof value === "string") return value;
  if (value === undefined) return new Undefined("a value is undefined");
  if (typeof value === "number") return Number.isInteger(value) ? value : new Float(value);
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value === "function") {
    return new Callable(
      value.name,
      (args) => fromJson(value(...args)),
    );
  }
  return new Map(
    Object.entries(value as object).filter(([, part]) => part !== undefined)
      .map(([name, part]) => [name, fromJson(part)]),
  );
}

/** Whether a value is a dict. */
export const isDict = (value: Value): value is Dict => value instanceof Map;
/** Whether a value is a list. */
export const isList = (value: Value): value is readonly Value[] => Array.isArray(value);

/** What Python calls the type of a value. */
export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  switch (typeof value) {
    case "boolean":
      return "bool";
    case "number":
      return "int";
    case "string":
      return "str";
  }
  if (isList(value)) return "list";
  if (isDict(value)) return "dict";
  if (value instanceof View) return value.label;
  return value.constructor.name.toLowerCase();
}

/** Refuses an undefined value where another is needed. */
export function defined<T extends Value>(value: T): Exclude<T, Undefined> {
  if (value instanceof Undefined) throw new TemplateError(value.message);
  return value as Exclude<T, Undefined>;
}

/** The number of an int, a float or a boolean. */
export function numberOf(value: Value): number | undefined {
  if (typeof value === "number") return value;
  if (typeof value === "boolean") return Number(value);
  return value instanceof Float ? value.value : undefined;
}

/** A whole number that was asked for. */
export function wholeOf(value: Value, what: string): number {
  const number = value instanceof Float ? undefined : numberOf(value);
  if (number === undefined) {
    throw new TemplateError(`${what} must be a whole number, not ${typeName(value)}`);
  }
  return number;
}

/** A string that was asked for. */
export function stringOf(value: Value, what: string): string {
  if (typeof value !== "string") {
    throw new TemplateError(`${what} must be a string, not ${typeName(value)}`);
  }
  return value;
}

/** Whether a value counts as true. */
export function truthy(value: Value): boolean {
  if (value instanceof Undefined) return false;
  if (isDict(value)) return value.size > 0;
  if (isList(value)) return value.length > 0;
  if (value instanceof Tuple || value instanceof View) return value.items.length > 0;
  if (value instanceof Float) return value.value !== 0;
  return typeof value === "object" ? value !== null : Boolean(value);
}

/** What going through a value gives. */
export function itemsOf(value: Value): readonly Value[] {
  if (value instanceof Undefined) return [];
  if (typeof value === "string") return charactersOf(value);
  if (isList(value)) return value;
  if (isDict(value)) return [...value.keys()];
  if (value instanceof Tuple || value instanceof View) return value.items;
  if (value instanceof Generator) return value.take();
  throw new TemplateError(`'${typeName(value)}' object is not iterable`);
}

/** Whether {@link itemsOf} takes a value. */
export function isIterable(value: Value): boolean {
  return value instanceof Undefined || typeof value === "string" || isList(value) ||
    isDict(value) || value instanceof Tuple || value instanceof View || value instanceof Generator;
}

/** How many items a value has, for values that have a length. */
export function lengthOf(value: Value): number {
  if (isDict(value)) return value.size;
  if (value instanceof Generator || !isIterable(value)) {
    throw new TemplateError(`object of type '${typeName(value)}' has no len()`);
  }
  return itemsOf(value).length;
}

/** A string's characters; Python counts a surrogate pair as one. */
export function charactersOf(text: string): readonly string[] {
  return isPlain(text) ? text.split("") : [...text];
}

/** Whether each character of a string is one UTF-16 unit. */
export function isPlain(text: string): boolean {
  return !/[\ud800-\udbff]/.test(text);
}

/** The value that `str()` gives. */
export function show(value: Value): string {
  if (typeof value === "string") return value;
  return value instanceof Undefined ? "" : represent(value);
}

/** The value that `repr()` gives. */
export function represent(value: Value): string {
  if (value === null) return "None";
  switch (typeof value) {
    case "boolean":
      return value ? "True" : "False";
    case "number":
      return String(value);
    case "string":
      return quote(value);
  }
  const list = (items: readonly Value[]) => items.map(represent).join(", ");
  if (value instanceof Float) return showFloat(value.value);
  if (isList(value)) return `[${list(value)}]`;
  if (value instanceof Tuple) return `(${list(value.items)}${value.items.length === 1 ? "," : ""})`;
  if (isDict(value)) {
    return `{${[...value].map(([k, v]) => `${represent(k)}: ${represent(v)}`).join(", ")}}`;
  }
  if (value instanceof View) {
    return value.label.startsWith("range") ? value.label : `${value.label}([${list(value.items)}])`;
  }
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Namespace) return `<Namespace ${represent(new Map(value.attributes))}>`;
  return `<${typeName(value)}>`;
}

/** How Python writes a float: with an exponent below 1e-4 and from 1e16 on. */
export function showFloat(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  const [digits, exponent] = value.toExponential().split("e");
  const e = Number(exponent);
  if (value !== 0 && (e < -4 || e >= 16)) {
    return `${digits}e${e < 0 ? "-" : "+"}${String(Math.abs(e)).padStart(2, "0")}`;
  }
  const plain = Math.abs(value) < 1e-6 && value !== 0 ? value.toFixed(20) : String(value);
  return Object.is(value, -0) ? "-0.0" : plain.includes(".") ? plain : `${plain}.0`;
}

function quote(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const named: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  const body = text.replace(/[\\'"]|(?! )[\p{C}\p{Z}]/gu, (c) => {
    if (c === "\\" || c === mark) return `\\${c}`;
    if (c === "'" || c === '"') return c;
    const code = c.codePointAt(0)!;
    const hex = (letter: string, length: number) =>
      `\\${letter}${code.toString(16).padStart(length, "0")}`;
    return named[c] ?? (code < 0x100 ? hex("x", 2) : code < 0x10000 ? hex("u", 4) : hex("U", 8));
  });
  return `${mark}${body}${mark}`;
}

/** Python's `==`. */
export function equal(a: Value, b: Value): boolean {
  const x = numberOf(a), y = numberOf(b);
  if (x !== undefined || y !== undefined) return x === y;
  if (a instanceof Undefined) return b instanceof Undefined;
  const all = (p: readonly Value[], q: readonly Value[]) =>
    p.length === q.length && p.every((item, i) => equal(item, q[i]));
  if (isList(a)) return isList(b) && all(a, b);
  if (a instanceof Tuple) return b instanceof Tuple && all(a.items, b.items);
  if (isDict(a)) {
    return isDict(b) && a.size === b.size &&
      [...a].every(([k, v]) => b.has(k) && equal(v, b.get(k)!));
  }
  if (a instanceof View) return b instanceof View && all(a.items, b.items);
  return a === b;
}

/** Below 0 where `a < b`, above 0 where `a > b`. */
export function compare(a: Value, b: Value): number {
  defined(a);
  defined(b);
  const x = numberOf(a), y = numberOf(b);
  if (x !== undefined && y !== undefined) return x - y;
  if (typeof a === "string" && typeof b === "string") {
    if (isPlain(a) && isPlain(b)) return a < b ? -1 : a > b ? 1 : 0;
    return compare(
      [...a].map((c) => c.codePointAt(0)!),
      [...b].map((c) => c.codePointAt(0)!),
    );
  }
  const sameKind = isList(a) && isList(b) || a instanceof Tuple && b instanceof Tuple;
  if (!sameKind) {
    throw new TemplateError(
      `'<' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`,
    );
  }
  const p = itemsOf(a), q = itemsOf(b);
  for (let i = 0; i < Math.min(p.length, q.length); i++) {
    if (!equal(p[i], q[i])) return compare(p[i], q[i]);
  }
  return p.length - q.length;
}

/** Python's `in`. */
export function contains(container: Value, value: Value): boolean {
  if (typeof container === "string") {
    return container.includes(stringOf(defined(value), "what is looked for in a string"));
  }
  if (isDict(container)) return container.has(keyOf(value));
  return itemsOf(container).some((item) => equal(item, value));
}

/** A dict's key: equal numbers are one key. */
export function keyOf(value: Value): Value {
  if (value === null || typeof value === "boolean" || typeof value === "string") return value;
  const number = numberOf(value);
  if (number !== undefined) return number;
  throw new TemplateError(`a '${typeName(value)}' cannot be the key of a dict here`);
}

/** What `value[start:stop:step]` gives. */
export function sliceOf(value: Value, bounds: readonly (Value | undefined)[]): Value {
  const [start, stop, step] = bounds.map((bound) =>
    bound === undefined || bound === null ? undefined : wholeOf(bound, "a bound of a slice")
  );
  if (step === 0) throw new TemplateError("slice step cannot be zero");
  const pick = <T>(items: readonly T[]): T[] => {
    const by = step ?? 1, n = items.length;
    const lowest = by > 0 ? 0 : -1, highest = by > 0 ? n : n - 1;
    const place = (at: number | undefined, otherwise: number) =>
      at === undefined ? otherwise : Math.min(Math.max(at < 0 ? at + n : at, lowest), highest);
    const first = place(start, by > 0 ? 0 : n - 1), last = place(stop, by > 0 ? n : -1);
    if (by === 1) return items.slice(first, last);
    const picked: T[] = [];
    for (let i = first; by > 0 ? i < last : i > last; i += by) picked.push(items[i]);
    return picked;
  };
  if (typeof value === "string") return pick(charactersOf(value)).join("");
  if (isList(value)) return pick(value);
  if (value instanceof Tuple) return new Tuple(pick(value.items));
  if (value instanceof View && value.label.startsWith("range")) {
    return new View(value.label, pick(value.items));
  }
  throw new TemplateError(`'${typeName(defined(value))}' object cannot be sliced`);
}

/** Options of {@link toJson}, as `json.dumps` has them. */
export interface JsonOptions {
  readonly ensureAscii: boolean;
  readonly indent: string | null;
  readonly separators: readonly [string, string];
  readonly sortKeys: boolean;
}

/** What `json.dumps` gives. */
export function toJson(value: Value, options: JsonOptions, padding = "\n"): string {
  const string = (text: string) => {
    const json = JSON.stringify(text).replace(
      /\\u([dD][89a-fA-F][\da-fA-F]{2})/g,
      (all, hex) => options.ensureAscii ? all : String.fromCharCode(parseInt(hex, 16)),
    );
    if (!options.ensureAscii) return json;
    return json.replace(
      /[\x7f-\uffff]/g,
      (c) => c === "\x7f" ? c : `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
    );
  };
  const inner = options.indent === null ? "" : padding + options.indent;
  const wrapped = (parts: readonly string[], [open, close]: readonly string[]) =>
    parts.length === 0
      ? open + close
      : `${open}${inner}${parts.join(options.separators[0] + inner)}${
        options.indent === null ? "" : padding
      }${close}`;
  if (value === null) return "null";
  if (typeof value === "string") return string(value);
  if (typeof value === "boolean" || typeof value === "number") return String(value);
  if (value instanceof Float) {
    const text = showFloat(value.value);
    return ({ nan: "NaN", inf: "Infinity", "-inf": "-Infinity" } as Record<string, string>)[text] ??
      text;
  }
  if (isList(value) || value instanceof Tuple) {
    return wrapped(itemsOf(value).map((item) => toJson(item, options, inner)), "[]".split(""));
  }
  if (isDict(value)) {
    const entries = [...value];
    if (options.sortKeys) entries.sort(([a], [b]) => compare(a, b));
    const key = (k: Value) => typeof k === "string" ? string(k) : `"${toJson(k, options)}"`;
    return wrapped(
      entries.map(([k, v]) => `${key(k)}${options.separators[1]}${toJson(v, options, inner)}`),
      "{}".split(""),
    );
  }
  throw new TemplateError(`Object of type ${typeName(value)} is not JSON serializable`);
}
