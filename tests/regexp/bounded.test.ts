import { assert, assertEquals, assertThrows } from "@std/assert";
import { boundedRegExp } from "../../lib/regexp/bounded.ts";
import { createRandom, type Random } from "../fuzz/mutate.ts";

const create = (source: string, flags = "") =>
  boundedRegExp(source, flags, (reason) => new SyntaxError(reason));

const QUANTIFIERS = ["", "", "", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{2,}"];

/** An expression made at random, of all that there is but references to groups. */
function expression(random: Random, depth: number): string {
  const one = (): string => {
    const inner = () => expression(random, depth - 1);
    switch (random.below(depth > 0 ? 14 : 6)) {
      case 0:
        return String.raw`\b`;
      case 6:
        return `(?=${inner()})`;
      case 7:
        return `(?!${inner()})`;
      case 8:
        return `(?<=${inner()})`;
      case 9:
        return `(?<!${inner()})`;
      case 10:
      case 11:
        return `(${inner()})${random.pick(QUANTIFIERS)}`;
      case 12:
        return `(?:${inner()})${random.pick(QUANTIFIERS)}`;
      case 13:
        return `(?i:A|${inner()})`;
      default:
        return random.pick(["a", "b", ".", "[^b]"]) + random.pick(QUANTIFIERS);
    }
  };
  const sequence = () => Array.from({ length: random.below(4) }, one).join("");
  return random.chance(0.5) ? sequence() : `${sequence()}|${sequence()}`;
}

Deno.test("expressions match as in JavaScript's engine", () => {
  for (let i = 0; i < 500; i++) {
    const random = createRandom(1, i), source = `^(?:${expression(random, 3)})$`;
    const engine = new RegExp(source), bounded = create(source);
    for (let j = 0; j < 4; j++) {
      const text = Array.from({ length: random.below(9) }, () => random.pick([..."abA."])).join("");
      assertEquals(bounded.test(text), engine.test(text), `${source} on ${text}`);
    }
  }
});

Deno.test("groups are those of JavaScript's engine, references included", () => {
  const cases = [
    [String.raw`^(?:^|.*?\.)(?:layers|h)\.(?<idx>\d+)\..*$`, "model.layers.12.mlp"],
    [String.raw`^(?<all>(?<one>a|b)+)(?<rest>.*)$`, "abbac"],
    [String.raw`^(?<a>ab?)\.\k<a>(?<rest>c?)$`, "ab.ab"],
    [String.raw`^(.)\1+(?<rest>.)$`, "aaab"],
    [String.raw`^(?<maybe>x)?y$`, "y"],
  ] as const;
  for (const [source, text] of cases) {
    const { groups } = new RegExp(source).exec(text)!;
    const found = Object.entries(groups!).filter(([, value]) => value !== undefined);
    const own = create(source).exec(text)?.groups ?? {};
    assertEquals(
      Object.entries(own).filter(([name]) => !name.startsWith("#")).sort(),
      found.sort(),
      source,
    );
  }
  assertEquals(create("^a$", "i").exec("A")?.groups, {});
  assertEquals(create("^a$").exec("b"), null);
});

Deno.test("loops in loops end soon; what is too much is refused", () => {
  const start = performance.now();
  for (const loops of ["(a+)+", "(.*)*x", "((a|a)*)*b", "(a|aa)+", "(a?){90}", "(?:.*.*.*)*x"]) {
    assertEquals(create(`^(?:${loops})$`).test(`${"a".repeat(100)}!`), false, loops);
  }
  assertThrows(() => create(String.raw`^(.*.*)*\1x$`).test("a".repeat(100)), SyntaxError, "steps");
  assertThrows(() => create("^((a{99}){99}){99}$"), SyntaxError, "parts");
  assertThrows(() => create("^(){99999}$"), SyntaxError, "parts");
  assertThrows(() => create("^(a|b)*c$").test("a".repeat(30_000)), SyntaxError, "deep");
  assert(performance.now() - start < 2000);
});
