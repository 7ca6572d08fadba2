import { assert, assertEquals } from "@std/assert";
import { cacheCapacity, promptChunks } from "../../lib/generation/kv-cache.ts";

Deno.test("capacities double from 64 on", () => {
  assertEquals([1, 64, 65, 128, 129, 1000].map(cacheCapacity), [64, 64, 128, 128, 256, 1024]);
});

Deno.test("prompts are cut without gaps into few lengths, and always fit", () => {
  const lengths = new Set<number>();
  for (let n = 1; n <= 3000; n++) {
    const chunks = promptChunks(n);
    let at = 0;
    for (const { start, count, length } of chunks) {
      assertEquals(start, at);
      assert(count >= 1 && count <= length);
      assert(start + length <= cacheCapacity(n), `${n}: ${start} + ${length}`);
      at += count;
      lengths.add(length);
    }
    assertEquals(at, n);
  }
  assertEquals([...lengths].sort((a, b) => a - b), [16, 32, 64, 128, 256, 512]);
});
