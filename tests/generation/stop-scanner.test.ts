import { assertEquals } from "@std/assert";
import { createStopScanner } from "../../lib/generation/stop-scanner.ts";

/** Pushes pieces until a stop; gives what was shown, in pieces, and the stop. */
function scan(pieces: readonly string[], stops: readonly string[], include = false) {
  const scanner = createStopScanner(stops, { include });
  const shown: string[] = [];
  for (const piece of pieces) {
    const { text, stop } = scanner.push(piece);
    shown.push(text);
    if (stop !== null) return { shown, stop };
  }
  return { shown: [...shown, scanner.flush()], stop: null };
}

Deno.test("a stop string is found across pieces, and nothing of it is shown", () => {
  assertEquals(scan(["ab", "\nUs", "er", ": x"], ["\nUser:"]), {
    shown: ["ab", "", "", ""],
    stop: "\nUser:",
  });
  assertEquals(scan(["ab", "\nUs", "er", ": x"], ["\nUser:"], true).shown.join(""), "ab\nUser:");
});

Deno.test("what only looked like a stop string is shown once that is certain", () => {
  assertEquals(scan(["a#", "#b", "#"], ["###"]), { shown: ["a", "##b", "", "#"], stop: null });
  assertEquals(scan(["aa", "ab"], ["aab"]), { shown: ["", "a"], stop: "aab" });
});

Deno.test("the first of several stop strings counts, the longest of those that begin together", () => {
  assertEquals(scan(["one two three"], ["three", "two"]), { shown: ["one "], stop: "two" });
  assertEquals(scan(["end."], ["end", "end."], true), { shown: ["end."], stop: "end." });
  assertEquals(scan(["x", "y"], []), { shown: ["x", "y", ""], stop: null });
});
