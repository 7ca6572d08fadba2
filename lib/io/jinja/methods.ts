/**
 * The methods of Python's strings, dicts and lists.
 *
 * @module
 */
import {
  charactersOf,
  defined,
  type Dict,
  equal,
  Float,
  isDict,
  itemsOf,
  keyOf,
  type Keywords,
  numberOf,
  represent,
  show,
  SPACE,
  stringOf,
  TemplateError,
  Tuple,
  typeName,
  type Value,
  View,
  wholeOf,
} from "./values.ts";

/** A built-in of a value, called with the value first. */
export type Method<T> = (self: T, args: readonly Value[], keywords: Keywords) => Value;

/**
 * Arguments in the order of their parameters.
 *
 * @throws {TemplateError} for too many, unknown or missing ones. A name that ends in `?` may be
 * missing.
 */
export function bind(
  name: string,
  parameters: readonly string[],
  args: readonly Value[],
  keywords: Keywords,
): (Value | undefined)[] {
  if (args.length > parameters.length) {
    throw new TemplateError(
      `${name} takes at most ${parameters.length} arguments (${args.length} given)`,
    );
  }
  const rest = new Map(keywords);
  const bound = parameters.map((parameter, i) => {
    const key = parameter.replace("?", "");
    const found = i < args.length ? args[i] : rest.get(key);
    rest.delete(key);
    if (found === undefined && !parameter.endsWith("?")) {
      throw new TemplateError(`${name} needs an argument "${key}"`);
    }
    return found;
  });
  const [unknown] = rest.keys();
  if (unknown !== undefined) {
    throw new TemplateError(`${name} got an unexpected keyword argument '${unknown}'`);
  }
  return bound;
}

/** The longest text that a template may make. */
export const MOST_CHARACTERS = 1 << 24;

/** Repeats a text; the result is held against what a template may make. */
export function repeat(text: string, times: number): string {
  if (text.length * times > MOST_CHARACTERS) throw new TemplateError("The text is too long");
  return text.repeat(Math.max(0, times));
}

/** Removes characters at one or both ends: those given, or white space. */
export function strip(text: string, ends: "both" | "left" | "right", characters?: Value): string {
  const all = charactersOf(text);
  const given = characters === undefined || characters === null
    ? null
    : new Set(charactersOf(stringOf(characters, "the characters to strip")));
  const drops = (c: string) => given ? given.has(c) : WHITE.test(c);
  let from = 0, to = all.length;
  if (ends !== "right") { while (from < to && drops(all[from])) from++; }
  if (ends !== "left") { while (to > from && drops(all[to - 1])) to--; }
  return all.slice(from, to).join("");
}

const WHITE = new RegExp(`^${SPACE}$`);
const GAP = new RegExp(`${SPACE}+`);
// deno-lint-ignore no-control-regex -- Python ends lines there too
const LINES = /\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]/g;

function splitAtSpace(text: string, limit: number): string[] {
  const words: string[] = [];
  for (let rest = strip(text, "left"); rest !== "";) {
    const gap = words.length === limit ? -1 : rest.search(GAP);
    words.push(gap < 0 ? rest : rest.slice(0, gap));
    rest = gap < 0 ? "" : strip(rest.slice(gap), "left");
  }
  return words;
}

const reversed = (text: string) => charactersOf(text).toReversed().join("");

function split(text: string, args: readonly Value[], keywords: Keywords, right = false): Value {
  const [separator, most] = bind("split", ["sep?", "maxsplit?"], args, keywords);
  const limit = most === undefined ? -1 : wholeOf(most, "maxsplit");
  if (separator === undefined || separator === null) {
    if (!right) return splitAtSpace(text, limit);
    return splitAtSpace(reversed(text), limit).map(reversed).reverse();
  }
  const mark = stringOf(separator, "a separator");
  if (mark === "") throw new TemplateError("empty separator");
  const parts = text.split(mark);
  if (limit < 0 || parts.length <= limit + 1) return parts;
  const at = right ? parts.length - limit : limit;
  return right
    ? [parts.slice(0, at).join(mark), ...parts.slice(at)]
    : [...parts.slice(0, at), parts.slice(at).join(mark)];
}

/** Where a part of a text begins, in characters; −1 where it does not occur. */
function find(text: string, args: readonly Value[], right = false): number {
  const [part, start, stop] = bind("find", ["sub", "start?", "end?"], args, new Map());
  const characters = charactersOf(text), n = characters.length;
  const place = (at: Value | undefined, otherwise: number) => {
    if (at === undefined || at === null) return otherwise;
    const whole = wholeOf(at, "a position");
    return Math.min(Math.max(whole < 0 ? whole + n : whole, 0), n);
  };
  const from = place(start, 0), within = characters.slice(from, place(stop, n)).join("");
  const sought = stringOf(part!, "what is looked for");
  const at = right ? within.lastIndexOf(sought) : within.indexOf(sought);
  return at < 0 ? -1 : from + charactersOf(within.slice(0, at)).length;
}

function found(at: number): number {
  if (at < 0) throw new TemplateError("substring not found");
  return at;
}

function affix(name: string, of: (text: string, part: string) => boolean): Method<string> {
  return (text, args, keywords) => {
    const [given, start, stop] = bind(name, ["prefix", "start?", "end?"], args, keywords);
    const bound = (at: Value | undefined) =>
      at === undefined || at === null ? undefined : wholeOf(at, "a position");
    const within = start === undefined
      ? text
      : charactersOf(text).slice(bound(start), bound(stop)).join("");
    const parts = given instanceof Tuple ? given.items : [given!];
    return parts.some((part) => of(within, stringOf(part, `the argument of ${name}`)));
  };
}

/** Puts `fill` around a text until it is `width` characters long. */
function pad(text: string, width: Value, fill: Value | undefined, ends: "left" | "right" | "both") {
  const missing = Math.max(0, wholeOf(width, "a width") - charactersOf(text).length);
  const character = fill === undefined ? " " : stringOf(fill, "what fills");
  // Python puts the odd character of `center` on the left where the width is odd.
  const left = ends === "left"
    ? missing
    : ends === "right"
    ? 0
    : (missing >> 1) + (missing & wholeOf(width, "a width") & 1);
  return repeat(character, left) + text + repeat(character, missing - left);
}

function partition(text: string, separator: Value, at: number): Tuple {
  if (at < 0) return new Tuple([text, "", ""]);
  const mark = stringOf(separator, "a separator");
  return new Tuple([text.slice(0, at), mark, text.slice(at + mark.length)]);
}

/** Whether there are characters, and all of them match. */
const all = (pattern: RegExp): Method<string> => (text) =>
  text !== "" && charactersOf(text).every((c) => pattern.test(c));

/** A letter's first form, with the rest small, after everything that is no letter. */
export function title(text: string): string {
  return text.replace(
    /(\p{L})([\p{L}\p{M}]*)/gu,
    (_, first, rest) => first.toUpperCase() + rest.toLowerCase(),
  );
}

/** The first character large, the others small. */
export function capitalize(text: string): string {
  const [first = "", ...rest] = charactersOf(text);
  return first.toUpperCase() + rest.join("").toLowerCase();
}

/** Replaces a part of a text, `count` times at most. */
export function replace(text: string, args: readonly Value[], keywords: Keywords): string {
  const [old, by, count] = bind("replace", ["old", "new", "count?"], args, keywords);
  const from = stringOf(old!, "what is replaced"), to = stringOf(by!, "the replacement");
  const given = count === undefined || count === null ? -1 : wholeOf(count, "a count");
  const parts = from === "" ? ["", ...charactersOf(text), ""] : text.split(from);
  const most = given < 0 ? Infinity : given;
  if (parts.length * to.length > MOST_CHARACTERS) throw new TemplateError("The text is too long");
  return parts.map((part, i) => i === 0 ? part : (i <= most ? to : from) + part).join("");
}

/** Joins the items of something that can be gone through. */
export function join(separator: string, items: readonly Value[]): string {
  return items.map((item) => stringOf(item, "what is joined")).join(separator);
}

/** Python's `%` for texts: `%s`, `%r`, `%d`, `%i`, `%f`, `%x`, with width and precision. */
export function percent(text: string, values: Value): string {
  const given = values instanceof Tuple ? values.items : [values];
  let next = 0;
  const result = text.replace(
    /%(?:\(([^)]*)\))?([-+ 0#]*)(\d*)(?:\.(\d+))?([a-zA-Z%])/g,
    (_, key, flags, width, precision, type) => {
      if (type === "%") return "%";
      const value = key !== undefined && isDict(values) ? values.get(key) : given[next++];
      if (value === undefined) throw new TemplateError("not enough arguments for format string");
      const body = formatted(value, { type, precision, sign: flags.includes("+") ? "+" : "" });
      if (flags.includes("-")) return body.padEnd(Number(width));
      return flags.includes("0") && !"sr".includes(type)
        ? zeros(body, Number(width))
        : body.padStart(Number(width));
    },
  );
  if (next < given.length && !isDict(values)) {
    throw new TemplateError("not all arguments converted during string formatting");
  }
  return result;
}

/** Zeros between a number's sign and its digits. */
function zeros(body: string, width: number): string {
  return body.replace(
    /^([-+]?)(.*)/,
    (_, sign: string, digits: string) => sign + digits.padStart(width - sign.length, "0"),
  );
}

function formatted(
  value: Value,
  { type, precision, sign }: { type: string; precision?: string; sign: string },
): string {
  if (type === "s" || type === "r") {
    const text = type === "s" ? show(value) : represent(value);
    return precision === undefined ? text : text.slice(0, Number(precision));
  }
  const number = numberOf(value);
  if (number === undefined) {
    throw new TemplateError(`%${type} format: a number is required, not ${typeName(value)}`);
  }
  const plus = sign && number >= 0 ? "+" : "";
  switch (type) {
    case "d":
    case "i":
      return plus + String(Math.trunc(number));
    case "f":
      return plus + toFixed(number, Number(precision ?? 6));
    case "%":
      return `${plus}${toFixed(number * 100, Number(precision ?? 6))}%`;
    case "e":
      return plus + toExponential(number, Number(precision ?? 6));
    case "g": {
      const digits = Number(precision ?? 6) || 1;
      const scale = Number(number.toExponential(digits - 1).split("e")[1]);
      const small = scale < -4 || scale >= digits;
      return plus +
        (small ? toExponential(number, digits - 1) : number.toFixed(digits - 1 - scale))
          .replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "");
    }
    case "x":
      return plus + number.toString(16);
    case "X":
      return plus + number.toString(16).toUpperCase();
    default:
      throw new TemplateError(`unsupported format character '${type}'`);
  }
}

/** As Python rounds: halves to the even digit. */
function toFixed(number: number, digits: number): string {
  const longer = Math.min(100, digits + 60);
  const exact = number.toFixed(longer);
  const end = exact.length - (longer - digits);
  const down = exact.slice(0, end).replace(/\.$/, "");
  return /^50*$/.test(exact.slice(end)) && Number(down.at(-1)) % 2 === 0
    ? down
    : number.toFixed(digits);
}

/** With two digits of the exponent at least. */
function toExponential(number: number, digits: number): string {
  return number.toExponential(digits).replace(/e([+-])(\d)$/, "e$10$2");
}

/** `str.format` with positions and names; specifications give width and precision. */
function format(text: string, args: readonly Value[], keywords: Keywords): string {
  let next = 0;
  return text.replace(
    /\{\{|\}\}|\{([^{}!:.[]*)(?:!([rs]))?(?::([<>^]?)([+]?)(0?)(\d*)(,?)(?:\.(\d+))?([a-zA-Z%]?))?\}|[{}]/g,
    (all, name, conversion, align, sign, zero, width, comma, precision, type) => {
      if (all === "{{" || all === "}}") return all[0];
      if (name === undefined) throw new TemplateError(`format cannot read "${text}"`);
      const value = name === ""
        ? args[next++]
        : /^\d+$/.test(name)
        ? args[name]
        : keywords.get(name);
      if (value === undefined) throw new TemplateError(`format has no argument "${name}"`);
      const kind = type || (precision !== undefined && value instanceof Float ? "f" : "");
      let body = conversion === "r"
        ? represent(value)
        : kind
        ? formatted(value, { type: kind, precision, sign })
        : show(value);
      if (comma) body = body.replace(/^[-+]?\d+/, (all) => all.replace(/\B(?=(\d{3})+$)/g, ","));
      if (zero && align === "") return zeros(body, Number(width));
      const right = align === ">" || align === "" && numberOf(value) !== undefined;
      const ends = align === "^" ? "both" : right ? "left" : "right";
      return width ? pad(body, Number(width), undefined, ends) : body;
    },
  );
}

/** Methods of strings. */
export const STRING_METHODS: Readonly<Record<string, Method<string>>> = {
  strip: (text, args, named) => strip(text, "both", ...bind("strip", ["chars?"], args, named)),
  lstrip: (text, args, named) => strip(text, "left", ...bind("lstrip", ["chars?"], args, named)),
  rstrip: (text, args, named) => strip(text, "right", ...bind("rstrip", ["chars?"], args, named)),
  split: (text, args, named) => split(text, args, named),
  rsplit: (text, args, named) => split(text, args, named, true),
  splitlines: (text, args, named) => {
    const [keep] = bind("splitlines", ["keepends?"], args, named);
    const lines: string[] = [];
    let from = 0;
    for (const { 0: end, index } of text.matchAll(LINES)) {
      lines.push(text.slice(from, index) + (keep ? end : ""));
      from = index + end.length;
    }
    return from < text.length ? [...lines, text.slice(from)] : lines;
  },
  partition: (text, [separator]) =>
    partition(text, separator, text.indexOf(stringOf(separator, "a separator"))),
  rpartition: (text, [separator]) => {
    const at = text.lastIndexOf(stringOf(separator, "a separator"));
    return at < 0 ? new Tuple(["", "", text]) : partition(text, separator, at);
  },
  find: (text, args) => find(text, args),
  rfind: (text, args) => find(text, args, true),
  index: (text, args) => found(find(text, args)),
  rindex: (text, args) => found(find(text, args, true)),
  count: (text, [part]) => text.split(stringOf(part, "what is counted")).length - 1,
  startswith: affix("startswith", (text, part) => text.startsWith(part)),
  endswith: affix("endswith", (text, part) => text.endsWith(part)),
  removeprefix: (text, [part]) =>
    text.startsWith(stringOf(part, "a prefix")) ? text.slice((part as string).length) : text,
  removesuffix: (text, [part]) =>
    part !== "" && text.endsWith(stringOf(part, "a suffix"))
      ? text.slice(0, text.length - (part as string).length)
      : text,
  replace,
  join: (text, [items]) => join(text, itemsOf(defined(items))),
  format,
  upper: (text) => text.toUpperCase(),
  lower: (text) => text.toLowerCase(),
  casefold: (text) => text.toLowerCase().replaceAll("ß", "ss"),
  swapcase: (text) =>
    text.replace(/\p{L}/gu, (c) => c === c.toUpperCase() ? c.toLowerCase() : c.toUpperCase()),
  title,
  capitalize,
  center: (text, [width, fill]) => pad(text, width, fill, "both"),
  ljust: (text, [width, fill]) => pad(text, width, fill, "right"),
  rjust: (text, [width, fill]) => pad(text, width, fill, "left"),
  zfill: (text, [width]) => {
    const sign = /^[-+]/.test(text) ? text[0] : "";
    return sign +
      pad(text.slice(sign.length), wholeOf(width, "a width") - sign.length, "0", "left");
  },
  expandtabs: (text, [size = 8]) =>
    text.split("\n").map((line) =>
      line.split("\t").reduce((done, part) =>
        done + " ".repeat(Number(size) - done.length % Number(size)) + part
      )
    ).join("\n"),
  isalnum: all(/^[\p{L}\p{N}]$/u),
  isalpha: all(/^\p{L}$/u),
  isascii: (text) => ![...text].some((c) => c > "\x7f") === false,
  isdecimal: all(/^\p{Nd}$/u),
  isdigit: all(/^[\p{Nd}²³¹⁰-⁹₀-₉]$/u),
  isidentifier: (text) => /^[\p{L}_][\p{L}\p{N}_]*$/u.test(text),
  isnumeric: all(/^\p{N}$/u),
  isprintable: (text) => !/(?! )[\p{C}\p{Z}]/u.test(text),
  isspace: all(WHITE),
  islower: (text) => /\p{Ll}/u.test(text) && !/[\p{Lu}\p{Lt}]/u.test(text),
  isupper: (text) => /\p{Lu}/u.test(text) && !/[\p{Ll}\p{Lt}]/u.test(text),
  istitle: (text) => /\p{L}/u.test(text) && title(text) === text,
};

/** A dict's pairs, as its `items()`. */
export function pairs(dict: Dict): View {
  return new View("dict_items", [...dict].map(([key, value]) => new Tuple([key, value])));
}

/** Methods of dicts; those that change a dict are forbidden, as in transformers' sandbox. */
export const DICT_METHODS: Readonly<Record<string, Method<Dict>>> = {
  get: (dict, args) => {
    const [key, otherwise] = bind("get", ["key", "default?"], args, new Map());
    const found = dict.get(keyOf(key!));
    return found === undefined ? otherwise ?? null : found;
  },
  keys: (dict) => new View("dict_keys", [...dict.keys()]),
  values: (dict) => new View("dict_values", [...dict.values()]),
  items: pairs,
  copy: (dict) => dict,
};

/** Methods of lists and tuples. */
export const LIST_METHODS: Readonly<Record<string, Method<readonly Value[]>>> = {
  index: (list, [value]) => {
    const at = list.findIndex((item) => equal(item, value));
    if (at < 0) throw new TemplateError(`${represent(value)} is not in list`);
    return at;
  },
  count: (list, [value]) => list.filter((item) => equal(item, value)).length,
  copy: (list) => list,
};

/** Methods that the sandbox forbids. */
export const FORBIDDEN: Readonly<Record<string, readonly string[]>> = {
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
  list: ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
};
