import { assert, assertEquals } from "@std/assert";
import { effortOf, parseRegExp } from "../../lib/regexp/effort.ts";

const degree = (source: string, flags = "") => effortOf(parseRegExp(source, flags)).degree;

Deno.test("loops count where what follows can fail, and loops around choices have no bound", () => {
  const cases: [string, number][] = [
    ["a*", 0],
    ["a*b", 1],
    ["a*b*", 0],
    ["a*b*c", 2],
    [String.raw`\s+(?!\S)|\s+`, 1],
    ["(?:ab)*c", 1],
    ["(?=a*b)a*c", 2],
    ["a{0,9}b", 0],
    ["a{0,99}b", 1],
    ["(a*)*", 0],
    ["(a+)+$", Infinity],
    ["(a|a)*$", Infinity],
    ["(a|b)*", 0],
    ["(.*)*x", Infinity],
    ["((a*b)*c)?d", Infinity],
  ];
  for (const [source, expected] of cases) assertEquals(degree(source), expected, source);
});

Deno.test("what is tried is less than the bound says", () => {
  // Time grows with what is tried: of what has no bound, thirty characters take seconds.
  for (const source of ["a*a*b", "a*b*c", "(?:aa)*a*$b", "a?a?a?a?a*b", "(?=a*a*b)a"]) {
    const { degree, ways } = effortOf(parseRegExp(source, ""));
    assert(degree <= 2 && ways <= 64, source);
    const start = performance.now();
    new RegExp(source).test("a".repeat(300));
    assert(performance.now() - start < 2000, source);
  }
});
