import { assertEquals } from "@std/assert";
import { KINDS } from "./kinds.ts";
import { createRandom, mutateBytes, mutateJson } from "./mutate.ts";
import { fuzz } from "./run.ts";

const COUNT = 300;

Deno.test(`${COUNT} damaged files end in typed errors or right loads; deno task fuzz has more`, async () => {
  const indices = Array.from({ length: COUNT }, (_, i) => i);
  const outcomes = await fuzz({ seed: 9, indices });
  assertEquals(outcomes.filter(({ failed }) => failed), []);
  assertEquals(outcomes.map(({ index }) => index), indices);
  const loaded = new Set(outcomes.flatMap(({ end, kind }) => end === "load" ? [kind] : []));
  const refused = new Set(outcomes.flatMap(({ end, kind }) => end === "load" ? [] : [kind]));
  // Some damage does no harm, but for that to paths; some does, but for that to journals.
  for (const kind of Object.keys(KINDS)) {
    if (kind !== "paths") assertEquals(loaded.has(kind), true, `${kind} loads`);
    if (kind !== "journal") assertEquals(refused.has(kind), true, `${kind} is refused`);
  }
});

Deno.test("a seed and an index decide a mutation", () => {
  const seed = { a: [1, { b: "text" }], c: { d: null, e: 0.5 } }, bytes = new Uint8Array(64);
  const make = (seedNumber: number, index: number) => [
    mutateJson(seed, createRandom(seedNumber, index)),
    String(mutateBytes(bytes, createRandom(seedNumber, index))),
  ];
  const all = Array.from({ length: 50 }, (_, i) => make(1, i));
  assertEquals(Array.from({ length: 50 }, (_, i) => make(1, i)), all);
  assertEquals(new Set(all.map(String)).size > 40, true);
  assertEquals(String(make(2, 0)) === String(all[0]), false);
});

Deno.test("what does not end, ends the process or takes too much is reported, and the others go on", async () => {
  const kinds = ["good", "typed", "untyped", "wrong", "hanging", "ending", "hungry"];
  const module = new URL("bad-kinds.ts", import.meta.url).href;
  const indices = kinds.map((_, i) => i);
  const outcomes = await fuzz({ module, kinds, indices, seed: 1, patience: 1500 });
  assertEquals(outcomes.map(({ kind }) => kind), kinds);
  const ends = ["load", "BAD", "TypeError", "AssertionError", "does not end", "ends the process"];
  for (const { index, end, failed } of outcomes) {
    const kind = index % kinds.length;
    assertEquals(failed, kind > 1 && (kinds[kind] !== "hungry" || Deno.build.os === "linux"));
    if (kind < ends.length) assertEquals(end.slice(0, ends[kind].length), ends[kind]);
  }
});
