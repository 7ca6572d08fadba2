/**
 * Jinja's filters, tests and global functions.
 *
 * @module
 */
import { bind, capitalize, pairs, percent, repeat, replace, strip } from "./methods.ts";
import {
  Callable,
  charactersOf,
  compare,
  contains,
  defined,
  equal,
  Float,
  Generator,
  isDict,
  isIterable,
  isList,
  itemsOf,
  type Keywords,
  lengthOf,
  Namespace,
  numberOf,
  show,
  stringOf,
  TemplateError,
  toJson,
  truthy,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
  wholeOf,
} from "./values.ts";

/** What filters need of the template that is rendered. */
export interface Tools {
  /** `value[key]`, or `value.key`. */
  item(value: Value, key: Value): Value;
  /** Calls a filter by its name. */
  filter(name: string, value: Value, args: readonly Value[], keywords: Keywords): Value;
  /** Asks a test by its name. */
  test(name: string, value: Value, args: readonly Value[]): boolean;
}

/** A filter: its value, its other arguments. */
export type Filter = (
  value: Value,
  args: readonly Value[],
  keywords: Keywords,
  tools: Tools,
) => Value;

/** The attribute that a path such as `function.name` or `0` leads to. */
function attributeOf(value: Value, path: Value, tools: Tools): Value {
  const keys = typeof path === "string"
    ? path.split(".").map((key) => /^\d+$/.test(key) ? Number(key) : key)
    : [path];
  return keys.reduce<Value>((at, key) => tools.item(at, key), value);
}

const folded = (value: Value) => typeof value === "string" ? value.toLowerCase() : value;

/** What items are compared by. */
function keyed(attribute: Value | undefined, caseSensitive: Value | undefined, tools: Tools) {
  return (item: Value): Value => {
    const found = attribute === undefined || attribute === null
      ? item
      : attributeOf(item, attribute, tools);
    return truthy(caseSensitive ?? false) ? found : folded(found);
  };
}

function sorted(items: readonly Value[], key: (item: Value) => Value, reverse: boolean): Value[] {
  const ordered = items.map((item) => ({ item, key: key(item) }));
  // Equal items keep their order, backwards too.
  ordered.sort((a, b) => reverse ? compare(b.key, a.key) : compare(a.key, b.key));
  return ordered.map(({ item }) => item);
}

function selecting(keep: boolean, byAttribute: boolean): Filter {
  return (value, args, _, tools) => {
    const [attribute, rest] = byAttribute ? [args[0], args.slice(1)] : [undefined, args];
    const [name, ...given] = rest;
    return new Generator(
      itemsOf(value).filter((item) => {
        const tested = byAttribute ? attributeOf(item, attribute!, tools) : item;
        const holds = name === undefined
          ? truthy(tested)
          : tools.test(stringOf(name, "the name of a test"), tested, given);
        return holds === keep;
      }),
    );
  };
}

function extreme(sign: number): Filter {
  return (value, args, keywords, tools) => {
    const [sensitive, attribute] = bind("min", ["case_sensitive?", "attribute?"], args, keywords);
    const key = keyed(attribute, sensitive, tools);
    const items = itemsOf(value);
    if (items.length === 0) return new Undefined("No aggregated item, sequence was empty.");
    return items.reduce((best, item) => sign * compare(key(item), key(best)) > 0 ? item : best);
  };
}

const text = (change: (text: string) => string): Filter => (value) => change(show(value));

function round(value: number, digits: number, method: string): number {
  const scale = 10 ** digits;
  if (method === "ceil") return Math.ceil(value * scale) / scale;
  if (method === "floor") return Math.floor(value * scale) / scale;
  if (method !== "common") throw new TemplateError("method must be common, ceil or floor");
  // Python rounds halves to the even neighbour, as the decimal digits of the number say.
  const [, fraction = ""] = value.toFixed(Math.min(100, digits + 25)).split(".");
  const rest = fraction.slice(digits);
  if (digits >= 0 && /^50*$/.test(rest)) {
    const below = Math.floor(Math.abs(value) * scale);
    return Math.sign(value) * (below + below % 2) / scale;
  }
  return digits >= 0 ? Number(value.toFixed(digits)) : Math.round(value * scale) / scale;
}

function json(value: Value, args: readonly Value[], keywords: Keywords): Value {
  const [ascii, indent, separators, sort] = bind(
    "tojson",
    ["ensure_ascii?", "indent?", "separators?", "sort_keys?"],
    args,
    keywords,
  );
  const padding = indent === undefined || indent === null
    ? null
    : typeof indent === "string"
    ? indent
    : repeat(" ", wholeOf(indent, "indent"));
  const given = separators === undefined || separators === null ? null : itemsOf(separators);
  return toJson(value, {
    ensureAscii: truthy(ascii ?? false),
    indent: padding,
    separators: given ? [show(given[0]), show(given[1])] : [padding === null ? ", " : ",", ": "],
    sortKeys: truthy(sort ?? false),
  });
}

function indent(value: Value, args: readonly Value[], keywords: Keywords): Value {
  const [width, first, blank] = bind("indent", ["width?", "first?", "blank?"], args, keywords);
  const padding = typeof width === "string" ? width : repeat(" ", wholeOf(width ?? 4, "width"));
  const lines = show(value).split(/\r\n|\r|\n/);
  return lines.map((line, i) =>
    (i === 0 ? truthy(first ?? false) : line !== "" || truthy(blank ?? false))
      ? padding + line
      : line
  ).join("\n");
}

function toInteger(value: Value, args: readonly Value[], keywords: Keywords): Value {
  const [otherwise = 0, base = 10] = bind("int", ["default?", "base?"], args, keywords);
  const number = numberOf(value);
  if (number !== undefined) return Number.isFinite(number) ? Math.trunc(number) : otherwise;
  if (typeof value !== "string") return otherwise;
  const digits = strip(value, "both").replaceAll("_", "").toLowerCase();
  const plain = digits.replace(/^([-+]?)0[box]/, "$1");
  const allowed = "0123456789abcdefghijklmnopqrstuvwxyz".slice(0, Number(base));
  if (new RegExp(`^[-+]?[${allowed}]+$`).test(base === 10 ? digits : plain)) {
    return parseInt(base === 10 ? digits : plain, Number(base));
  }
  return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/.test(digits)
    ? Math.trunc(Number(digits))
    : otherwise;
}

function toFloat(value: Value, args: readonly Value[], keywords: Keywords): Value {
  const [otherwise = new Float(0)] = bind("float", ["default?"], args, keywords);
  const number = typeof value === "string"
    ? /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(strip(value, "both")) ? Number(value) : undefined
    : numberOf(value);
  return number === undefined ? otherwise : new Float(number);
}

const orDefault: Filter = (value, args, keywords) => {
  const [otherwise = "", boolean] = bind(
    "default",
    ["default_value?", "boolean?"],
    args,
    keywords,
  );
  return value instanceof Undefined || truthy(boolean ?? false) && !truthy(value)
    ? otherwise
    : value;
};

const escape = text((t) =>
  t.replace(
    /[&<>'"]/g,
    (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", "'": "&#39;", '"': "&#34;" })[c]!,
  )
);

const count: Filter = (value) => lengthOf(value);

/** Filters by name. */
export const FILTERS: Readonly<Record<string, Filter>> = {
  abs: (value) => {
    const number = numberOf(defined(value));
    if (number === undefined) throw new TemplateError(`bad operand for abs: ${typeName(value)}`);
    return value instanceof Float ? new Float(Math.abs(number)) : Math.abs(number);
  },
  attr: (value, [name], _, tools) => tools.item(value, name),
  batch: (value, args, keywords) => {
    const [size, fill] = bind("batch", ["linecount", "fill_with?"], args, keywords);
    const items = itemsOf(value), n = Math.max(1, wholeOf(size!, "linecount"));
    const rows: Value[][] = [];
    for (let i = 0; i < items.length; i += n) rows.push(items.slice(i, i + n));
    while (fill !== undefined && rows.length && rows.at(-1)!.length < n) rows.at(-1)!.push(fill);
    return new Generator(rows);
  },
  capitalize: text(capitalize),
  center: (value, [width = 80]) => {
    const all = show(value), missing = wholeOf(width, "width") - charactersOf(all).length;
    const left = Math.max(0, (missing >> 1) + (missing & wholeOf(width, "width") & 1));
    return repeat(" ", left) + all + repeat(" ", missing - left);
  },
  count,
  length: count,
  d: orDefault,
  default: orDefault,
  dictsort: (value, args, keywords, tools) => {
    const names = ["case_sensitive?", "by?", "reverse?"];
    const [sensitive, by = "key", reverse] = bind("dictsort", names, args, keywords);
    if (!isDict(value)) throw new TemplateError(`dictsort needs a dict, not ${typeName(value)}`);
    const key = keyed(by === "value" ? 1 : 0, sensitive, tools);
    return sorted(pairs(value).items, key, truthy(reverse ?? false));
  },
  e: escape,
  escape,
  forceescape: escape,
  first: (value) => {
    const [first = new Undefined("No first item, sequence was empty.")] = itemsOf(value);
    return first;
  },
  float: toFloat,
  format: (value, args, keywords) =>
    percent(show(value), keywords.size ? new Map<Value, Value>(keywords) : new Tuple(args)),
  groupby: (value, args, keywords, tools) => {
    const names = ["attribute", "default?", "case_sensitive?"];
    const [attribute, otherwise, sensitive] = bind("groupby", names, args, keywords);
    const exact = (item: Value) => {
      const found = attributeOf(item, attribute!, tools);
      return found instanceof Undefined && otherwise !== undefined ? otherwise : found;
    };
    const key = (item: Value) => truthy(sensitive ?? false) ? exact(item) : folded(exact(item));
    const groups: { key: Value; grouper: Value; items: Value[] }[] = [];
    for (const item of sorted(itemsOf(value), key, false)) {
      const group = groups.at(-1);
      if (group && equal(group.key, key(item))) group.items.push(item);
      else groups.push({ key: key(item), grouper: exact(item), items: [item] });
    }
    return groups.map(({ grouper, items }) => new Tuple([grouper, items], ["grouper", "list"]));
  },
  indent,
  int: toInteger,
  items: (value) =>
    value instanceof Undefined ? new Generator([]) : new Generator(
      isDict(value) ? pairs(value).items : itemsOf(fail("Can only get item pairs from a mapping.")),
    ),
  join: (value, args, keywords, tools) => {
    const [by = "", attribute] = bind("join", ["d?", "attribute?"], args, keywords);
    const items = itemsOf(value);
    return items.map((item) =>
      show(attribute === undefined ? item : attributeOf(item, attribute, tools))
    ).join(show(by));
  },
  last: (value) => {
    const [last = new Undefined("No last item, sequence was empty.")] = itemsOf(value).slice(-1);
    return last;
  },
  list: (value) => [...itemsOf(value)],
  lower: text((t) => t.toLowerCase()),
  map: (value, args, keywords, tools) => {
    if (keywords.has("attribute")) {
      const otherwise = keywords.get("default");
      return new Generator(
        itemsOf(value).map((item) => {
          const found = attributeOf(item, keywords.get("attribute")!, tools);
          return found instanceof Undefined && otherwise !== undefined ? otherwise : found;
        }),
      );
    }
    const [name, ...rest] = args;
    const filter = stringOf(defined(name), "the name of a filter");
    return new Generator(
      itemsOf(value).map((item) => tools.filter(filter, item, rest, keywords)),
    );
  },
  max: extreme(1),
  min: extreme(-1),
  reject: selecting(false, false),
  rejectattr: selecting(false, true),
  select: selecting(true, false),
  selectattr: selecting(true, true),
  replace: (value, args, keywords) => replace(show(value), args, keywords),
  reverse: (value) =>
    typeof value === "string"
      ? charactersOf(value).toReversed().join("")
      : new Generator(itemsOf(value).toReversed()),
  round: (value, args, keywords) => {
    const [digits = 0, method = "common"] = bind(
      "round",
      ["precision?", "method?"],
      args,
      keywords,
    );
    const number = numberOf(defined(value));
    if (number === undefined) throw new TemplateError(`cannot round a ${typeName(value)}`);
    const rounded = round(number, wholeOf(digits, "precision"), show(method));
    return value instanceof Float || method !== "common" ? new Float(rounded) : rounded;
  },
  safe: (value) => show(value),
  slice: (value, args, keywords) => {
    const [slices, fill] = bind("slice", ["slices", "fill_with?"], args, keywords);
    const items = itemsOf(value), n = wholeOf(slices!, "slices");
    const size = Math.floor(items.length / n), longer = items.length % n;
    let at = 0;
    return new Generator(Array.from({ length: n }, (_, i) => {
      const row = items.slice(at, at += size + (i < longer ? 1 : 0));
      return fill !== undefined && i >= longer && longer ? [...row, fill] : row;
    }));
  },
  sort: (value, args, keywords, tools) => {
    const names = ["reverse?", "case_sensitive?", "attribute?"];
    const [reverse, sensitive, attribute] = bind("sort", names, args, keywords);
    if (typeof attribute === "string" && attribute.includes(",")) {
      const paths = attribute.split(",").map((path) => keyed(path, sensitive, tools));
      const key = (item: Value) => paths.map((path) => path(item));
      return sorted(itemsOf(value), key, truthy(reverse ?? false));
    }
    return sorted(itemsOf(value), keyed(attribute, sensitive, tools), truthy(reverse ?? false));
  },
  string: (value) => show(value),
  striptags: text((t) =>
    strip(t.replace(/<!--[^]*?-->|<[^>]*>/g, ""), "both").replace(/\s+/g, " ")
  ),
  sum: (value, args, keywords, tools) => {
    const [attribute, start = 0] = bind("sum", ["attribute?", "start?"], args, keywords);
    const items = itemsOf(value).map((item) =>
      attribute === undefined || attribute === null ? item : attributeOf(item, attribute, tools)
    );
    const numbers = [start, ...items].map((item) =>
      numberOf(defined(item)) ?? fail(
        `cannot sum a ${typeName(item)}`,
      )
    );
    const total = numbers.reduce((a, b) => a + b);
    return [start, ...items].some((item) => item instanceof Float) ? new Float(total) : total;
  },
  title: text((t) =>
    // Jinja's own: words end at white space and opening brackets.
    t.split(/([-\s({[<]+)/).map((word) => capitalize(word)).join("")
  ),
  tojson: json,
  trim: (value, args, keywords) =>
    strip(show(value), "both", ...bind("trim", ["chars?"], args, keywords)),
  truncate: (value, args, keywords) => {
    const names = ["length?", "killwords?", "end?", "leeway?"];
    const [length = 255, kill, end = "...", leeway] = bind("truncate", names, args, keywords);
    const all = charactersOf(show(value)), most = wholeOf(length, "length");
    if (all.length <= most + wholeOf(leeway ?? 5, "leeway")) return all.join("");
    const cut = all.slice(0, most - charactersOf(show(end)).length).join("");
    if (truthy(kill ?? false)) return cut + show(end);
    const space = cut.lastIndexOf(" ");
    return (space < 0 ? cut : cut.slice(0, space)) + show(end);
  },
  unique: (value, args, keywords, tools) => {
    const names = ["case_sensitive?", "attribute?"];
    const [sensitive, attribute] = bind("unique", names, args, keywords);
    const key = keyed(attribute, sensitive, tools);
    const seen: Value[] = [];
    return new Generator(
      itemsOf(value).filter((item) => {
        const known = seen.some((other) => equal(other, key(item)));
        if (!known) seen.push(key(item));
        return !known;
      }),
    );
  },
  upper: text((t) => t.toUpperCase()),
  urlencode: (value) => {
    const encode = (part: Value, slash: string) =>
      encodeURIComponent(show(part)).replace(
        /[!'()*]/g,
        (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
      ).replaceAll("%2F", slash);
    if (!isDict(value) && !isList(value)) return encode(value, "/");
    const entries = isDict(value) ? pairs(value).items : value;
    return entries.map((pair) =>
      itemsOf(pair).map((part) => encode(part, "%2F").replaceAll("%20", "+")).join("=")
    )
      .join("&");
  },
  wordcount: (value) => (show(value).match(/[\p{L}\p{N}_]+/gu) ?? []).length,
};

function fail(problem: string): never {
  throw new TemplateError(problem);
}

const ordered = (holds: (order: number) => boolean) => (value: Value, [other]: readonly Value[]) =>
  holds(compare(value, other));
const whole = (value: Value) => wholeOf(defined(value), "a value that is tested");
const equals = (value: Value, [other]: readonly Value[]) => equal(value, other);
const above = ordered((order) => order > 0), below = ordered((order) => order < 0);
const from = ordered((order) => order >= 0), upTo = ordered((order) => order <= 0);
const unequal = (value: Value, [other]: readonly Value[]) => !equal(value, other);
const isNumber = (value: Value) => numberOf(value) !== undefined;

/** Tests by name. */
export const TESTS: Readonly<Record<string, (value: Value, args: readonly Value[]) => boolean>> = {
  boolean: (value) => typeof value === "boolean",
  callable: (value) => value instanceof Callable,
  defined: (value) => !(value instanceof Undefined),
  divisibleby: (value, [by]) => whole(value) % whole(by) === 0,
  "==": equals,
  eq: equals,
  equalto: equals,
  "!=": unequal,
  ne: unequal,
  escaped: () => false,
  even: (value) => whole(value) % 2 === 0,
  odd: (value) => whole(value) % 2 !== 0,
  false: (value) => value === false,
  true: (value) => value === true,
  filter: (value) => typeof value === "string" && Object.hasOwn(FILTERS, value),
  test: (value) => typeof value === "string" && Object.hasOwn(TESTS, value),
  float: (value) => value instanceof Float,
  integer: (value) => typeof value === "number",
  number: isNumber,
  ">": above,
  gt: above,
  greaterthan: above,
  "<": below,
  lt: below,
  lessthan: below,
  ">=": from,
  ge: from,
  "<=": upTo,
  le: upTo,
  in: (value, [container]) => contains(container, value),
  iterable: isIterable,
  lower: (value) => /\p{L}/u.test(show(value)) && show(value) === show(value).toLowerCase(),
  upper: (value) => /\p{L}/u.test(show(value)) && show(value) === show(value).toUpperCase(),
  mapping: isDict,
  none: (value) => value === null,
  sameas: (value, [other]) => value === other,
  sequence: (value) =>
    isIterable(value) && !(value instanceof Generator) &&
    !(value instanceof View && value.label.startsWith("dict")),
  string: (value) => typeof value === "string",
  undefined: (value) => value instanceof Undefined,
};

const strftime = (when: Date, format: string): string => {
  const two = (n: number) => String(n).padStart(2, "0");
  const name = (options: Intl.DateTimeFormatOptions) =>
    new Intl.DateTimeFormat("en-US", options).format(when);
  const hour12 = when.getHours() % 12 || 12;
  const day = Math.round(
    (Date.UTC(when.getFullYear(), when.getMonth(), when.getDate()) -
      Date.UTC(when.getFullYear(), 0, 1)) / 86_400_000,
  ) + 1;
  const parts: Readonly<Record<string, () => string>> = {
    Y: () => String(when.getFullYear()),
    y: () => two(when.getFullYear() % 100),
    m: () => two(when.getMonth() + 1),
    d: () => two(when.getDate()),
    e: () => String(when.getDate()).padStart(2),
    H: () => two(when.getHours()),
    I: () => two(hour12),
    M: () => two(when.getMinutes()),
    S: () => two(when.getSeconds()),
    f: () => String(when.getMilliseconds() * 1000).padStart(6, "0"),
    p: () => when.getHours() < 12 ? "AM" : "PM",
    j: () => String(day).padStart(3, "0"),
    A: () => name({ weekday: "long" }),
    a: () => name({ weekday: "short" }),
    B: () => name({ month: "long" }),
    b: () => name({ month: "short" }),
    w: () => String(when.getDay()),
    F: () => strftime(when, "%Y-%m-%d"),
    T: () => strftime(when, "%H:%M:%S"),
    D: () => strftime(when, "%m/%d/%y"),
    "%": () => "%",
  };
  return format.replace(
    /%(-?)([A-Za-z%])/g,
    (all, bare, letter) => {
      const shown = Object.hasOwn(parts, letter) ? parts[letter]() : all;
      return bare ? shown.replace(/^0+(?=\d)/, "") : shown;
    },
  );
};

/** A dict, or the pairs that one is made of. */
function dictOf(value: Value): Iterable<readonly [Value, Value]> {
  return isDict(value)
    ? value
    : itemsOf(value).map((pair) => [itemsOf(pair)[0], itemsOf(pair)[1]] as const);
}

/** Global functions by name. */
export function globals(now: () => Date): Readonly<Record<string, Value>> {
  const named = (
    name: string,
    call: (args: readonly Value[], keywords: Keywords) => Value,
  ) => new Callable(name, call);
  return {
    range: named("range", (args) => {
      const bounds = args.map((arg) => wholeOf(defined(arg), "an argument of range"));
      const [start, stop, step = 1] = bounds.length === 1 ? [0, bounds[0]] : bounds;
      if (step === 0) throw new TemplateError("range() arg 3 must not be zero");
      const length = Math.max(0, Math.ceil((stop - start) / step));
      if (length > 100_000) throw new TemplateError("Range too big (at most 100000)");
      const label = `range(${start}, ${stop}${step === 1 ? "" : `, ${step}`})`;
      return new View(label, Array.from({ length }, (_, i) => start + i * step));
    }),
    dict: named(
      "dict",
      ([first], keywords) =>
        new Map<Value, Value>([...(first === undefined ? [] : dictOf(first)), ...keywords]),
    ),
    namespace: named("namespace", ([first], keywords) =>
      new Namespace(
        new Map([
          ...(first === undefined ? [] : [...dictOf(first)].map(([k, v]) => [show(k), v] as const)),
          ...keywords,
        ]),
      )),
    joiner: named("joiner", ([separator = ", "]) => {
      let used = false;
      return named("joiner", () => used ? separator : (used = true, ""));
    }),
    raise_exception: named("raise_exception", ([message]) => {
      throw new TemplateError(show(message ?? "raise_exception"));
    }),
    strftime_now: named(
      "strftime_now",
      ([format]) => strftime(now(), stringOf(defined(format), "a date's format")),
    ),
  };
}
