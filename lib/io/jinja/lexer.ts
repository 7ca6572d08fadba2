/**
 * The tokens of a Jinja template, with the white space control of `trim_blocks` and `lstrip_blocks`.
 *
 * @module
 */
import { SPACE, TemplateError } from "./values.ts";

/** A token and where it stands in {@link Lexed.source}. */
export interface Token {
  readonly kind: "text" | "open" | "close" | "name" | "string" | "integer" | "float" | "operator";
  /** The text, the name, the operator, or which delimiter. */
  readonly value: string;
  readonly start: number;
  readonly end: number;
}

/** A template as tokens. */
export interface Lexed {
  /** The template with its newlines made one kind. */
  readonly source: string;
  readonly tokens: readonly Token[];
}

const OPEN = new RegExp(
  `\\{%[-+]?${SPACE}*raw${SPACE}*(?:-%\\}${SPACE}*|%\\})|\\{%[-+]?|\\{\\{[-+]?|\\{#[-+]?`,
  "g",
);
const CLOSE = {
  "{%": new RegExp(`\\+%\\}|-%\\}${SPACE}*|%\\}\\n?`, "y"),
  "{{": new RegExp(`-\\}\\}${SPACE}*|\\}\\}`, "y"),
};
const COMMENT_END = new RegExp(`\\+#\\}|-#\\}${SPACE}*|#\\}\\n?`, "g");
const RAW_END = new RegExp(
  `\\{%[-+]?${SPACE}*endraw${SPACE}*(?:\\+%\\}|-%\\}${SPACE}*|%\\}\\n?)`,
  "g",
);
const TRAILING_SPACE = new RegExp(`${SPACE}+$`);
const ONLY_SPACE = new RegExp(`^${SPACE}+$`);
const INSIDE: readonly (readonly [Token["kind"] | null, RegExp])[] = [
  [null, new RegExp(`${SPACE}+`, "y")],
  ["float", /(?<!\.)\d[\d_]*(?:(?:\.\d[\d_]*)?[eE][+-]?\d[\d_]*|\.\d[\d_]*)/y],
  ["integer", /0[bB][01_]+|0[oO][0-7_]+|0[xX][\da-fA-F_]+|\d[\d_]*/y],
  ["name", /[\p{L}\p{N}\p{M}_]+/uy],
  ["string", /'(?:[^'\\]|\\[^])*'|"(?:[^"\\]|\\[^])*"/y],
  ["operator", /\*\*|\/\/|==|!=|>=|<=|[-+/*%~[\](){}<>=.:|,;]/y],
];
const CLOSING: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };

/**
 * Splits a template into tokens.
 *
 * @throws {TemplateError} for what is no token, and for delimiters that are not closed.
 */
export function lex(template: string): Lexed {
  const source = template.replace(/\r\n?/g, "\n").replace(/\n$/, "");
  const tokens: Token[] = [];
  // White space before a tag is dropped where nothing else stands in its line.
  let lineStarts = true;
  const text = (start: number, end: number, sign: string, strips: boolean) => {
    let value = source.slice(start, end);
    if (sign === "-") value = value.replace(TRAILING_SPACE, "");
    else if (sign !== "+" && strips) {
      const line = value.lastIndexOf("\n") + 1;
      if ((line > 0 || lineStarts) && ONLY_SPACE.test(value.slice(line))) {
        value = value.slice(0, line);
      }
    }
    if (value) tokens.push({ kind: "text", value, start, end });
  };
  const after = (end: number) => lineStarts = source[end - 1] === "\n";
  for (let at = 0; at < source.length;) {
    OPEN.lastIndex = at;
    const open = OPEN.exec(source);
    if (!open) {
      text(at, source.length, "+", false);
      break;
    }
    const start = open.index, [tag] = open;
    text(at, start, tag[2] ?? "", !tag.startsWith("{{"));
    at = start + tag.length;
    after(at);
    const kind = tag.slice(0, 2);
    if (tag.length > 3) {
      RAW_END.lastIndex = at;
      const end = RAW_END.exec(source);
      if (!end) throw new TemplateError("Missing end of raw directive", source.slice(start, at));
      text(at, end.index, end[0][2], true);
      at = end.index + end[0].length;
      after(at);
    } else if (kind === "{#") {
      COMMENT_END.lastIndex = at;
      const end = COMMENT_END.exec(source);
      if (!end) throw new TemplateError("Missing end of comment tag", source.slice(start, at + 40));
      at = end.index + end[0].length;
      after(at);
    } else {
      tokens.push({ kind: "open", value: kind, start, end: at });
      at = inside(source, at, kind as "{%" | "{{", tokens);
      after(at);
    }
  }
  return { source, tokens };
}

/** The tokens up to the end of a tag; gives where it ends. */
function inside(source: string, from: number, kind: "{%" | "{{", tokens: Token[]): number {
  const brackets: string[] = [];
  for (let at = from; at < source.length;) {
    const close = CLOSE[kind];
    close.lastIndex = at;
    const end = brackets.length === 0 ? close.exec(source) : null;
    if (end) {
      tokens.push({ kind: "close", value: kind, start: at, end: at + end[0].length });
      return at + end[0].length;
    }
    const found = INSIDE.find(([, pattern]) => {
      pattern.lastIndex = at;
      return pattern.test(source);
    });
    if (!found) {
      throw new TemplateError(`Unexpected character ${source[at]}`, source.slice(from, at + 1));
    }
    const [type, { lastIndex }] = found;
    const value = source.slice(at, lastIndex);
    if (type === "operator") {
      if (value in CLOSING) brackets.push(CLOSING[value]);
      else if (")]}".includes(value) && brackets.pop() !== value) {
        throw new TemplateError(`Unexpected ${value}`, source.slice(from, lastIndex));
      }
    }
    if (type) tokens.push({ kind: type, value, start: at, end: lastIndex });
    at = lastIndex;
  }
  throw new TemplateError(`Missing end of ${kind}`, source.slice(from, from + 40));
}

const ESCAPES: Readonly<Record<string, string>> = {
  n: "\n",
  t: "\t",
  r: "\r",
  b: "\b",
  f: "\f",
  v: "\v",
  a: "\x07",
  "\n": "",
  "\\": "\\",
  "'": "'",
  '"': '"',
};

/** The string that a quoted one with Python's escapes stands for. */
export function unquote(quoted: string): string {
  return quoted.slice(1, -1).replace(
    /\\(?:x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|([0-7]{1,3})|([^]))/g,
    (all, x, u, long, octal, other) => {
      if (other !== undefined) return ESCAPES[other] ?? all;
      return String.fromCodePoint(octal ? parseInt(octal, 8) : parseInt(x ?? u ?? long, 16));
    },
  );
}
