import { assert, assertEquals } from "@std/assert";
import { filterLength, synthesisFilters, WAVELETS } from "../../lib/methods/wavelets.ts";
import golden from "./wavelets.golden.json" with { type: "json" };

const wanted: Readonly<Record<string, readonly number[]>> = golden;

Deno.test("filters of all wavelets are those of PyWavelets, but for PEFT's coif4", () => {
  assertEquals(WAVELETS, Object.keys(golden));
  for (const [wavelet, [length, largest, weighted]] of Object.entries(wanted)) {
    const filters = synthesisFilters(wavelet), low = filters.subarray(0, length);
    assertEquals([filterLength(wavelet), filters.length], [length, 2 * length]);
    const high = low.toReversed().map((x, i) => i % 2 ? -x : x);
    assertEquals(filters.subarray(length), high);
    if (wavelet === "coif4") continue;
    const sum = low.reduce((sum, x, i) => sum + x * Math.sin(i + 1), 0);
    assert(Math.abs(Math.max(...low) - largest) < 6e-8, wavelet);
    assert(Math.abs(sum - weighted) < 2e-7, `${wavelet}: ${sum} instead of ${weighted}`);
  }
});
