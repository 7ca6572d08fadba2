/**
 * Regular expressions that are matched in bounded time, for those on which JavaScript's own engine
 * may not end.
 *
 * @module
 */
import type { AST } from "@eslint-community/regexpp";
import { parseRegExp } from "./effort.ts";

/** What an expression is asked. */
export interface Expression {
  /** Whether a text matches. */
  test(text: string): boolean;
  /** The named groups of a match. */
  exec(text: string): { readonly groups?: Readonly<Record<string, string>> } | null;
}

/** Steps that one match may take, and parts that an expression may have with its loops written out. */
const STEPS = 50_000, PARTS = 20_000;

/** Goes on from a place in the text; whether the rest matches from there. */
type Step = (at: number) => boolean;

/**
 * An expression in JavaScript's syntax as a matcher that backtracks as its engine does, but never
 * tries again what failed at a place before: only references to groups can make that necessary.
 * Matches begin at the start of the text.
 *
 * @param source Valid with these flags, of which `i`, `m` and `s` are known.
 * @param refuse Gives the error for an expression that is too large or takes too many steps.
 */
export function boundedRegExp(
  source: string,
  flags: string,
  refuse: (reason: string) => Error,
): Expression {
  const pattern = parseRegExp(source, flags);
  let text = "",
    steps = 0,
    parts = 0,
    failed = new Set<number>(),
    groups: Record<string, string> = {};
  const leaves = new Map<string, RegExp>();
  const remembers = !/\\(?:[1-9]|k<)/.test(source);

  /** A place at which there is a choice; what fails there fails again. */
  const choice = (step: Step): Step => {
    const id = count();
    return (at) => {
      if (++steps > STEPS) throw refuse(`it takes more than ${STEPS} steps`);
      const key = id + at * PARTS;
      if (remembers && failed.has(key)) return false;
      failed.add(key);
      return step(at);
    };
  };
  const count = () => {
    if (++parts > PARTS) throw refuse(`it has more than ${PARTS} parts`);
    return parts - 1;
  };
  const any = (alternatives: readonly AST.Alternative[], next: Step, mode: string): Step => {
    const ways = alternatives.map(({ elements }) => all(elements, next, mode));
    return ways.length === 1 ? ways[0] : choice((at) => ways.some((way) => way(at)));
  };
  const all = (elements: readonly AST.Element[], next: Step, mode: string): Step =>
    elements.reduceRight((then, element) => one(element, then, mode), next);

  const one = (element: AST.Element, next: Step, mode: string): Step => {
    switch (element.type) {
      case "Group":
        return any(element.alternatives, next, modeIn(element, mode));
      case "CapturingGroup":
        return capture(element, next, mode);
      case "Quantifier":
        return loop(element, next, mode);
      case "Assertion":
        if ("alternatives" in element) return look(element, next, mode);
        break;
      case "Backreference": {
        const name = nameOf([element.resolved].flat()[0]);
        return (at) => {
          const said = groups[name] ?? "";
          return text.startsWith(said, at) && next(at + said.length);
        };
      }
    }
    count();
    const leaf = `(?${mode}:${element.raw})`;
    const expression = leaves.get(leaf) ?? new RegExp(leaf, `y${flags.replace(/[ims]/g, "")}`);
    leaves.set(leaf, expression);
    return (at) => {
      expression.lastIndex = at;
      return expression.test(text) && next(expression.lastIndex);
    };
  };
  const capture = (element: AST.CapturingGroup, next: Step, mode: string): Step => {
    const name = nameOf(element), starts: number[] = [];
    const inner = any(element.alternatives, (at) => {
      const before = groups, start = starts.pop()!;
      groups = { ...groups, [name]: text.slice(start, at) };
      if (next(at)) return true;
      groups = before;
      starts.push(start);
      return false;
    }, mode);
    return (at) => {
      starts.push(at);
      if (inner(at)) return true;
      starts.pop();
      return false;
    };
  };
  const loop = ({ element, min, max, greedy }: AST.Quantifier, next: Step, mode: string): Step => {
    const either = (round: Step): Step =>
      choice(greedy ? (at) => round(at) || next(at) : (at) => next(at) || round(at));
    const more = (then: Step): Step => {
      count();
      return one(element, then, mode);
    };
    let step = next;
    if (max === Infinity) {
      const starts: number[] = [];
      // A round that stands for nothing leads nowhere.
      const round = more((at) => {
        const start = starts.pop()!;
        if (at > start && again(at)) return true;
        starts.push(start);
        return false;
      });
      const again = either((at) => {
        starts.push(at);
        if (round(at)) return true;
        starts.pop();
        return false;
      });
      step = again;
    } else for (let i = min; i < max; i++) step = either(more(step));
    for (let i = 0; i < min; i++) step = more(step);
    return step;
  };
  const look = (element: AST.LookaroundAssertion, next: Step, mode: string): Step => {
    let end = 0;
    const isBehind = element.kind === "lookbehind";
    const inner = any(element.alternatives, (at) => !isBehind || at === end, mode);
    const holds = (at: number) => {
      const outer = failed;
      try {
        for (let from = at; from >= (isBehind ? 0 : at); from--) {
          failed = new Set();
          end = at;
          if (inner(from)) return true;
        }
        return false;
      } finally {
        failed = outer;
      }
    };
    return (at) => holds(at) !== element.negate && next(at);
  };

  const start = any(pattern.alternatives, () => true, flags.replace(/[^ims]/g, ""));
  const run = (input: string) => {
    [text, steps, failed, groups] = [input, 0, new Set(), {}];
    try {
      return start(0);
    } catch (error) {
      throw error instanceof RangeError ? refuse("it goes too deep") : error;
    }
  };
  return { test: run, exec: (input) => run(input) ? { groups } : null };
}

function nameOf({ name, start }: AST.CapturingGroup): string {
  return name ?? `#${start}`;
}

/** The flags of a part in a group that switches some on or off. */
function modeIn({ modifiers }: AST.Group, mode: string): string {
  if (!modifiers) return mode;
  const { add, remove } = modifiers;
  const names = [["i", "ignoreCase"], ["m", "multiline"], ["s", "dotAll"]] as const;
  return names.map(([flag, name]) =>
    (add[name] || (mode.includes(flag) && !remove?.[name])) ? flag : ""
  ).join("");
}
