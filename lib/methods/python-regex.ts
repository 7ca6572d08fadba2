/**
 * Python's regular expressions, as adapter configs hold them, in JavaScript's syntax.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";
import { show } from "../options.ts";
import { boundedRegExp, type Expression } from "../regexp/bounded.ts";
import { effortOf, parseRegExp } from "../regexp/effort.ts";

/**
 * A regular expression in Python's syntax as one that matches a whole text, as `re.fullmatch` does.
 *
 * @param pattern Python's syntax. Named groups, anchors, comments, flags at the start and a bracket
 * at the start of a set are translated.
 * @throws {ConfigError} `CONFIG_REGEX` where it is not valid, or uses what JavaScript does not
 * have: verbose mode, atomic groups, possessive quantifiers, conditions; from its methods, where it
 * takes too many steps to match.
 *
 * @example
 * ```ts
 * import { pythonRegExp } from "./python-regex.ts";
 * console.log(pythonRegExp(".*[.](?P<part>q|v)_proj").test("layers.0.self_attn.q_proj")); // true
 * ```
 */
export function pythonRegExp(pattern: string): Expression {
  const expression = known.get(pattern) ?? lazily(pattern);
  if (known.size >= MOST_KNOWN) known.clear();
  known.set(pattern, expression);
  return expression;
}

const known = new Map<string, Expression>(), MOST_KNOWN = 1000;

/** An expression that is valid, and compiled when it is first asked. */
function lazily(pattern: string): Expression {
  const translated = read(pattern);
  let expression: Expression | undefined;
  const compiled = () => expression ??= compile(pattern, translated);
  return { test: (text) => compiled().test(text), exec: (text) => compiled().exec(text) };
}

/** JavaScript's own expression where that cannot take long on a path. */
function compile(pattern: string, { source, flags }: ReturnType<typeof read>): Expression {
  const whole = `^(?:${source})$`;
  const { degree, ways } = effortOf(parseRegExp(whole, flags));
  if (degree <= 2 && ways <= 64) return new RegExp(whole, flags);
  return boundedRegExp(whole, flags, (reason) =>
    new ConfigError(
      "CONFIG_REGEX",
      `The regular expression ${
        show(pattern)
      } is too much work: ${reason}. Write it without loops in loops.`,
      { pattern },
    ));
}

/** Longer ones overflow the stack of JavaScript's engine. */
const LONGEST = 20_000;

/** Translates a pattern and sees that it is valid, whatever it will be put into. */
function read(pattern: string): { readonly source: string; readonly flags: string } {
  if (/^[\w.]{0,300}$/.test(pattern)) return { source: pattern, flags: "" };
  try {
    if (pattern.length > LONGEST) throw new Error(`it has more than ${LONGEST} characters`);
    const { source, flags } = translate(pattern);
    new RegExp(`^(?:${source})$`, flags);
    return { source, flags };
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ConfigError(
      "CONFIG_REGEX",
      `${
        pattern.length > 200 ? show(pattern) : JSON.stringify(pattern)
      } cannot be read as a regular expression in Python's syntax: ${reason}.`,
      { pattern },
      { cause },
    );
  }
}

function translate(pattern: string): { readonly source: string; readonly flags: string } {
  let flags = "";
  let rest = pattern;
  const global = /^\(\?([aiLmsux]+)\)/.exec(rest);
  if (global) {
    flags = jsFlags(global[1]);
    rest = rest.slice(global[0].length);
  }
  let source = "";
  while (rest) {
    const [piece, translated] = next(rest);
    source += translated;
    rest = rest.slice(piece.length);
  }
  return { source, flags };
}

/** The first piece of a pattern and what it is in JavaScript. */
function next(rest: string): readonly [string, string] {
  const at = (expression: RegExp) => expression.exec(rest);
  let match: RegExpExecArray | null;
  if (rest[0] === "\\") {
    const escape = rest.slice(0, 2);
    if (escape === "\\") throw new Error("it ends in a backslash");
    if (escape === "\\A") return [escape, "(?<![\\s\\S])"];
    if (escape === "\\Z") return [escape, "(?![\\s\\S])"];
    if (!/[\dbBdDsSwWfnrtv]|[^a-zA-Z]/.test(escape[1]) && !at(/^\\(x[\da-f]{2}|u[\da-f]{4})/i)) {
      throw new Error(`the escape ${escape} has no meaning`);
    }
    return [escape, escape];
  }
  if ((match = at(/^\[\^?\]?(?:\\[\s\S]|[^\]\\])*\]/))) {
    return [match[0], match[0].replace(/^\[(\^?)\]/, "[$1\\]")];
  }
  if ((match = at(/^\(\?#[^)]*\)/))) return [match[0], ""];
  if ((match = at(/^\(\?P<([^>]*)>/))) return [match[0], `(?<${match[1]}>`];
  if ((match = at(/^\(\?P=([^)]*)\)/))) return [match[0], `\\k<${match[1]}>`];
  if ((match = at(/^\(\?([aiLmsux]*)(-[imsx]+)?:/))) {
    const on = jsFlags(match[1]), off = match[2] ? `-${jsFlags(match[2].slice(1))}` : "";
    return [match[0], `(?${on}${off}:`];
  }
  if (at(/^\(\?[aiLmsux]+\)/)) throw new Error("flags must stand at the start");
  if (at(/^\(\?>/)) throw new Error("atomic groups (?>…) are not available");
  if (at(/^\(\?\(/)) throw new Error("conditions (?(…)…) are not available");
  if (at(/^([*+?]|\{\d*,?\d*\})\+/)) throw new Error("possessive quantifiers are not available");
  if ((match = at(/^\{,(\d+)\}/))) return [match[0], `{0,${match[1]}}`];
  return [rest[0], rest[0]];
}

function jsFlags(flags: string): string {
  if (flags.includes("x")) throw new Error("verbose mode (?x) is not available");
  // ASCII, Unicode and locale matching differ only outside the names of modules.
  return flags.replace(/[aLu]/g, "");
}

/**
 * A text with every match of a regular expression replaced, as `re.subn` does.
 *
 * @param pattern Python's syntax, as for {@link pythonRegExp}.
 * @param replacement Text in which `\1`, `\g<1>` and `\g<name>` stand for groups, `\g<0>` for the
 * whole match and `\\` for a backslash.
 * @returns A function that gives the new text and how often the expression matched.
 * @throws {ConfigError} `CONFIG_REGEX` where the pattern or the replacement is not valid.
 *
 * @example
 * ```ts
 * import { pythonSubstitution } from "./python-regex.ts";
 * const rename = pythonSubstitution("^layers\\.(\\d+)", "h.\\1");
 * console.log(rename("layers.3.mlp")); // { text: "h.3.mlp", count: 1 }
 * ```
 */
export function pythonSubstitution(
  pattern: string,
  replacement: string,
): (text: string) => { readonly text: string; readonly count: number } {
  const { source, flags } = read(pattern);
  const expression = new RegExp(source, `g${flags}`);
  // An alternative that always matches tells which groups there are.
  const groups = new RegExp(`${source}|`, flags).exec("")!;
  const parts = replacementParts(pattern, { replacement, groups });
  return (text) => {
    let count = 0;
    const replaced = text.replace(expression, (...match) => {
      count++;
      const named = typeof match.at(-1) === "object" ? match.at(-1) : {};
      return parts.map((part) =>
        typeof part === "string"
          ? part
          : (typeof part.group === "number" ? match[part.group] : named[part.group]) ?? ""
      ).join("");
    });
    return { text: replaced, count };
  };
}

type ReplacementPart = string | { readonly group: number | string };

function replacementParts(
  pattern: string,
  of: { readonly replacement: string; readonly groups: RegExpExecArray },
): readonly ReplacementPart[] {
  const { replacement, groups } = of;
  const refuse = (reason: string) =>
    new ConfigError(
      "CONFIG_REGEX",
      `${JSON.stringify(replacement)} cannot replace what ${
        JSON.stringify(pattern)
      } matches: ${reason}.`,
      { pattern, replacement },
    );
  const group = (name: string): ReplacementPart => {
    const number = /^\d+$/.test(name) ? Number(name) : undefined;
    const known = number === undefined ? name in (groups.groups ?? {}) : number < groups.length;
    if (!known) throw refuse(`the pattern has no group ${name}`);
    return { group: number ?? name };
  };
  return [...replacement.matchAll(
    /\\(?:g<([^>]*)>|(0[0-7]{0,2}|[1-3][0-7]{2})|([1-9]\d?)|([\s\S]?))|[^\\]+/g,
  )]
    .map(([piece, name, octal, number, escape]) => {
      if (name !== undefined || number !== undefined) return group(name ?? number);
      if (piece[0] !== "\\") return piece;
      if (octal !== undefined) return String.fromCharCode(parseInt(octal, 8));
      if (ESCAPES[escape] !== undefined) return ESCAPES[escape];
      if (escape === "") throw refuse("it ends in a backslash");
      if (/[a-zA-Z]/.test(escape)) throw refuse(`the escape ${piece} has no meaning`);
      return piece;
    });
}

const ESCAPES: Readonly<Record<string, string>> = {
  "\\": "\\",
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};
