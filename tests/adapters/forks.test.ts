import { assert } from "@std/assert";
import { addAdapter, getPeftModel } from "../../lib/adapters/inject.ts";
import { trainableLeaves, withLeaves } from "../../lib/adapters/leaves.ts";
import type { PeftModel } from "../../lib/adapters/peft-model.ts";
import {
  deleteAdapter,
  disableAdapters,
  setAdapter,
  setRequiresGrad,
} from "../../lib/adapters/select.ts";
import { withAdapterScale } from "../../lib/adapters/scope.ts";
import { loraConfig } from "../../lib/methods/lora/lora-config.ts";
import { sizeOf } from "../../lib/tensor/dtype.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { smolLm2Shape } from "./smollm2-shape.ts";

function bytesInUse(): number {
  const { heapUsed, external } = Deno.memoryUsage();
  return heapUsed + external;
}

Deno.test("a thousand forks cost less memory than two copies of the adapter", async () => {
  const config = loraConfig({ r: 8, targetModules: "all-linear" });
  const lazy = getPeftModel(smolLm2Shape(), config);
  const filled = new Map(
    [...trainableLeaves(lazy)].map(([name, { shape }]) => [
      name,
      tensor(new Float32Array(sizeOf(shape)).fill(0.5), { shape }),
    ]),
  );
  const copy = [...filled.values()].reduce((n, { shape }) => n + 4 * sizeOf(shape), 0);
  const model = addAdapter(withLeaves(lazy, filled), "style", loraConfig());
  assert(copy > 9e6);

  const forks: PeftModel[] = [];
  const before = bytesInUse();
  for (let i = 0; i < 1000; i++) {
    const switched = setAdapter(model, i % 2 ? ["style", "default"] : "style");
    const { value } = await withAdapterScale(switched, i / 1000, (scaled) => scaled);
    forks.push(
      [
        value,
        disableAdapters(value),
        setRequiresGrad(value, "default"),
        deleteAdapter(
          value,
          "style",
        ),
      ][i % 4],
    );
  }
  const each = (bytesInUse() - before) / forks.length;
  assert(1000 * each < 2 * copy, `${each} bytes each, and an adapter has ${copy}`);
  assert(new Set(forks).size === 1000);
});
