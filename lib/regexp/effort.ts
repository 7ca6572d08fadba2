/**
 * How much work a regular expression may be for an engine that tries one way after the other.
 *
 * @module
 */
import { type AST, RegExpParser } from "@eslint-community/regexpp";

/** A bound: at most `ways * n ** degree` ways to try at one place of a text of n characters. */
export interface Effort {
  /** How many loops have to be tried with each other in all their lengths; infinite without a bound. */
  readonly degree: number;
  /** How many ways there are beside the lengths of loops. */
  readonly ways: number;
}

const parser = new RegExpParser({ ecmaVersion: 2025 });
/** Loops of up to so many rounds are counted as ways. */
const FEW = 16;
const FREE: Effort = { degree: 0, ways: 1 };
const UNBOUNDED: Effort = { degree: Infinity, ways: Infinity };

/** Parses an expression that is valid for `RegExp` with these flags. */
export function parseRegExp(source: string, flags: string): AST.Pattern {
  const mode = { unicode: flags.includes("u"), unicodeSets: flags.includes("v") };
  return parser.parsePattern(source, 0, source.length, mode);
}

/**
 * The work at one place of a text. The bound holds for every text: a loop counts where what follows
 * can fail, so that other lengths of it are tried, and there is none for a loop around choices, whose
 * rounds can share a text in exponentially many ways.
 */
export function effortOf({ alternatives }: Pick<AST.Pattern, "alternatives">): Effort {
  return effortOfAny(alternatives, false);
}

function effortOfAny(alternatives: readonly AST.Alternative[], canFail: boolean): Effort {
  return alternatives.map(({ elements }) => effortOfAll(elements, canFail)).reduce((a, b) => ({
    degree: Math.max(a.degree, b.degree),
    ways: a.ways + b.ways,
  }));
}

function effortOfAll(elements: readonly AST.Element[], canFail: boolean): Effort {
  let all = FREE, fails = canFail;
  for (const element of elements.toReversed()) {
    all = product(all, effortOfOne(element, fails));
    fails ||= !isOptional(element);
  }
  return all;
}

function product(a: Effort, b: Effort): Effort {
  return { degree: a.degree + b.degree, ways: a.ways * b.ways };
}

/** The work of a part, where what follows it can fail or not. */
function effortOfOne(element: AST.Element, canFail: boolean): Effort {
  switch (element.type) {
    case "Group":
    case "CapturingGroup":
      return effortOfAny(element.alternatives, canFail);
    case "Assertion":
      // Once it holds, no other way is tried.
      return "alternatives" in element ? effortOfAny(element.alternatives, false) : FREE;
    case "Quantifier":
      return effortOfLoop(element, canFail);
    default:
      return FREE;
  }
}

function effortOfLoop({ element, min, max }: AST.Quantifier, canFail: boolean): Effort {
  // Another round may fail after a part of it, unless the round is one character.
  const round = effortOfOne(element, canFail);
  if (max <= 1) return { ...round, ways: round.ways + (canFail ? 1 : 0) };
  const isPlain = round.degree === 0 && round.ways === 1;
  if (!canFail) {
    return isPlain || round.degree === 0 ? round : product(round, { degree: 1, ways: 1 });
  }
  if (isPlain) {
    return max - min > FEW ? { degree: 1, ways: 1 } : { degree: 0, ways: max - min + 1 };
  }
  if (max > FEW / 2) return UNBOUNDED;
  return { degree: round.degree * max, ways: round.ways ** max * (max - min + 1) };
}

/** Whether a part can stand for nothing. */
function isOptional(element: AST.Element): boolean {
  switch (element.type) {
    case "Quantifier":
      return element.min === 0 || isOptional(element.element);
    case "Group":
    case "CapturingGroup":
      return element.alternatives.some(({ elements }) => elements.every(isOptional));
    default:
      return false;
  }
}
