/**
 * Python's regular expressions, as adapter configs hold them, in JavaScript's syntax.
 *
 * @module
 */
import { ConfigError } from "../errors.ts";

/**
 * A regular expression in Python's syntax as one that matches a whole text, as `re.fullmatch` does.
 *
 * @param pattern Python's syntax. Named groups, anchors, comments, flags at the start and a bracket
 * at the start of a set are translated.
 * @throws {ConfigError} `CONFIG_REGEX` where it is not valid, or uses what JavaScript does not
 * have: verbose mode, atomic groups, possessive quantifiers, conditions.
 *
 * @example
 * ```ts
 * import { pythonRegExp } from "./python-regex.ts";
 * console.log(pythonRegExp(".*[.](?P<part>q|v)_proj").test("layers.0.self_attn.q_proj")); // true
 * ```
 */
export function pythonRegExp(pattern: string): RegExp {
  try {
    const { source, flags } = translate(pattern);
    return new RegExp(`^(?:${source})$`, flags);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const error = new ConfigError(
      "CONFIG_REGEX",
      `${
        JSON.stringify(pattern)
      } cannot be read as a regular expression in Python's syntax: ${reason}.`,
      { pattern },
    );
    error.cause = cause;
    throw error;
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
